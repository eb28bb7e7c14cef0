//! `session-testkit run -- CMD…`

use std::{
    io::IsTerminal as _,
    os::unix::process::ExitStatusExt as _,
    process::{ExitCode, ExitStatus},
};

use futures_util::future::try_join_all;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::{COULD_NOT_RUN, Ended, interrupts::Interrupts, output};
use crate::backends::{BACKEND_VARIABLE, Backend, BackendError, Backends};

/// Starts a Redis and a Postgres, runs a command, stops them, and passes on its exit code.
///
/// `SESSION_TESTKIT_REDIS_URL` and `SESSION_TESTKIT_DATABASE_URL` name the servers to the command,
/// and `SESSION_TESTKIT_BACKEND` names their backend. Servers that these variables name already are
/// used as they are. With `--all-backends`, further variables name a pair for each backend, such as
/// `SESSION_TESTKIT_DOCKER_REDIS_URL`. The command receives SIGINT, SIGTERM and SIGHUP.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  session-testkit run -- cargo nextest run
  session-testkit run --all-backends -- cargo nextest run
  SESSION_TESTKIT_BACKEND=docker session-testkit run -- sh -c 'redis-cli -u \
  $SESSION_TESTKIT_REDIS_URL ping'")]
pub(super) struct Arguments {
    /// Print the result as one JSON document on standard output, after the command's own output.
    #[arg(long)]
    json: bool,

    /// Start a pair on every available backend (Docker, native), not only on the first.
    #[arg(long)]
    all_backends: bool,

    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(super) async fn run(arguments: Arguments) -> Ended {
    // Before the servers start, because a signal must stop starting servers too.
    let mut interrupts = Interrupts::listen()?;
    let started = tokio::select! {
        started = start(arguments.all_backends) => started?,
        number = interrupts.next() => return Ok(exit_code(128 + number)),
    };
    let (redis, postgres) = (started[0].redis(), started[0].postgres());
    let mut command = Command::new(&arguments.command[0]);
    command
        .args(&arguments.command[1..])
        .env("SESSION_TESTKIT_REDIS_URL", redis.url())
        .env("SESSION_TESTKIT_DATABASE_URL", postgres.url())
        .kill_on_drop(true);
    match backend_of(&started[0]) {
        Some(backend) if !arguments.all_backends => {
            command.env(BACKEND_VARIABLE, backend.to_string())
        }
        // Named servers, a mixed pair or pairs of every backend force no backend.
        _ => command.env_remove(BACKEND_VARIABLE),
    };
    for pair in &started {
        if let (true, Some(backend)) = (arguments.all_backends, backend_of(pair)) {
            let (redis, postgres) = backend.url_variables();
            command.env(redis, pair.redis().url()).env(postgres, pair.postgres().url());
        }
    }
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let command = output::shown(&arguments.command[0]);
            eprintln!("session-testkit: could not run `{command}`: {error}");
            return Ok(ExitCode::from(COULD_NOT_RUN));
        }
    };
    let status = wait(child, &mut interrupts).await?;
    let code = status.code().or(status.signal().map(|number| 128 + number)).unwrap_or(1);
    if arguments.json {
        let words = arguments.command.iter();
        let command: Vec<&str> = words.map(|word| output::shown(word)).collect();
        let document = serde_json::json!({
            "command": command,
            "exitCode": code,
            "redis": redis.backend_name(),
            "postgres": postgres.backend_name(),
        });
        output::say(document);
    }
    drop(started);
    Ok(exit_code(code))
}

/// Starts one pair, or one for each available backend.
async fn start(all: bool) -> Result<Vec<Backends>, BackendError> {
    let mut present = Vec::new();
    if all {
        for backend in Backend::ALL {
            match backend.missing().await {
                None => present.push(backend),
                Some(why) => eprintln!("session-testkit: no servers with {backend}: {why}"),
            }
        }
    }
    if present.is_empty() {
        return Ok(vec![Backends::start().await?]);
    }
    try_join_all(present.into_iter().map(|backend| Backends::builder().backend(backend).start()))
        .await
}

/// Returns the backend that runs both servers of a pair.
fn backend_of(pair: &Backends) -> Option<Backend> {
    let backend = pair.redis().backend();
    backend.filter(|_| backend == pair.postgres().backend())
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Waits for the command's end and passes signals on to it.
async fn wait(mut child: Child, interrupts: &mut Interrupts) -> std::io::Result<ExitStatus> {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    // Ctrl-C reaches the command too. Many programs abort at a second SIGINT.
    let from_terminal = std::io::stdin().is_terminal();
    loop {
        tokio::select! {
            status = child.wait() => return status,
            number = interrupts.next() => {
                let signal = match number {
                    2 if from_terminal => continue,
                    2 => Signal::INT,
                    1 => Signal::HUP,
                    _ => Signal::TERM,
                };
                if let Some(pid) = pid {
                    let _gone = kill_process(pid, signal);
                }
            }
        }
    }
}
