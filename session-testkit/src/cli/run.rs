//! `session-testkit run -- CMD…`

use std::{
    future::pending,
    io::IsTerminal as _,
    os::unix::process::ExitStatusExt as _,
    process::{ExitCode, ExitStatus},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal as Signals, SignalKind, signal},
};

use super::could_not_run;
use crate::backends::{BACKEND_VARIABLE, Backends};

/// Starts a Redis and a Postgres, runs a command, stops them, and passes on its exit code.
///
/// The command finds the servers in `SESSION_TESTKIT_REDIS_URL` and `SESSION_TESTKIT_DATABASE_URL`, and
/// in `SESSION_TESTKIT_BACKEND` what runs them. Servers that these variables name already are used
/// as they are. SIGINT, SIGTERM and SIGHUP are passed on to the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  session-testkit run -- cargo nextest run
  SESSION_TESTKIT_BACKEND=docker session-testkit run -- sh -c 'redis-cli -u $SESSION_TESTKIT_REDIS_URL ping'")]
pub(super) struct Arguments {
    /// Print how it went as one JSON document on standard output, after the command's own output.
    #[arg(long)]
    json: bool,

    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(super) async fn main(arguments: Arguments) -> ExitCode {
    // From the first moment: a signal while the servers start must stop them too.
    let mut interrupts = match Interrupts::listen() {
        Ok(interrupts) => interrupts,
        Err(error) => return could_not_run(&error),
    };
    let backends = tokio::select! {
        backends = Backends::start() => match backends {
            Ok(backends) => backends,
            Err(error) => return could_not_run(&error),
        },
        number = interrupts.next() => return exit_code(128 + number),
    };
    let (redis, postgres) = (backends.redis(), backends.postgres());
    let mut command = Command::new(&arguments.command[0]);
    command
        .args(&arguments.command[1..])
        .env("SESSION_TESTKIT_REDIS_URL", redis.url())
        .env("SESSION_TESTKIT_DATABASE_URL", postgres.url())
        .kill_on_drop(true);
    match (redis.backend(), postgres.backend()) {
        (Some(one), Some(other)) if one == other => command.env(BACKEND_VARIABLE, one.to_string()),
        // Servers of somebody else, or a mixed pair: no backend may call them its own.
        _ => command.env_remove(BACKEND_VARIABLE),
    };
    let code = match command.spawn() {
        Ok(child) => match wait(child, &mut interrupts).await {
            Ok(status) => status.code().or(status.signal().map(|number| 128 + number)).unwrap_or(1),
            Err(error) => return could_not_run(&error),
        },
        Err(error) => {
            eprintln!("session-testkit: could not run `{}`: {error}", arguments.command[0]);
            return ExitCode::from(super::COULD_NOT_RUN);
        }
    };
    if arguments.json {
        let backend = |backend: Option<_>| backend.map_or_else(|| "given".to_owned(), |it: crate::backends::Backend| it.to_string());
        let document = serde_json::json!({
            "command": arguments.command,
            "exitCode": code,
            "redis": backend(redis.backend()),
            "postgres": backend(postgres.backend()),
        });
        println!("{document}");
    }
    drop(backends);
    exit_code(code)
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Waits for the command's end and passes signals on to it meanwhile.
async fn wait(mut child: Child, interrupts: &mut Interrupts) -> std::io::Result<ExitStatus> {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    // Ctrl-C at a terminal reaches the whole foreground group, the command included; a second one
    // means "at once" to many programs.
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
                    // An error means that it has just ended.
                    let _gone = kill_process(pid, signal);
                }
            }
        }
    }
}

/// The signals that ask us to end.
struct Interrupts {
    hangup: Signals,
    interrupt: Signals,
    terminate: Signals,
}

impl Interrupts {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            Some(()) = self.hangup.recv() => 1,
            Some(()) = self.interrupt.recv() => 2,
            Some(()) = self.terminate.recv() => 15,
            else => pending().await,
        }
    }
}
