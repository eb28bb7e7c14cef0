//! Starting, serving, stopping.

use std::env;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use session_layer::{SessionCookie, Sessions};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::{admin, problem};

/// How long requests in flight are waited for after SIGTERM. With [`CLEAN_UP`] it stays well under
/// the 10 s that orchestrators give before they kill.
const DRAIN: Duration = Duration::from_secs(5);
/// How long connections to Redis and Postgres may take to close.
const CLEAN_UP: Duration = Duration::from_secs(2);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the process from its start to its end. What goes wrong at the start is one line on standard
/// error.
pub(crate) fn run(app: fn(&Sessions, &SessionCookie) -> Router) -> ExitCode {
    let ended = tokio::runtime::Runtime::new()
        .map_err(Failure::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(start_and_serve(app));
            // What hangs in a thread of its own, a name look-up for instance, is not waited for.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(
                std::io::stderr(),
                "quickstart cannot start: {}",
                problem::chain(failure.as_ref())
            );
            ExitCode::FAILURE
        }
    }
}

async fn start_and_serve(app: fn(&Sessions, &SessionCookie) -> Router) -> Result<(), Failure> {
    log_to_stderr()?;
    // From here on a signal ends the process in good order, also where a store hangs at the start.
    let mut stop = StopSignals::listen()?;
    let config = Config::from_env()?;
    let listener = listen("ADDR", &config.addr).await?;
    let admin_listener = listen("ADMIN_ADDR", &config.admin_addr).await?;
    let sessions = tokio::select! {
        sessions = Sessions::from_env() => sessions?,
        () = stop.come() => return Ok(()),
    };

    say_hello(&listener, &admin_listener, &sessions)?;
    let (stopping, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    servers.spawn(serve(
        listener,
        app(&sessions, &config.cookie),
        stopped.clone(),
    ));
    servers.spawn(serve(admin_listener, admin::app(sessions.clone()), stopped));

    stop.come().await;
    tracing::info!("stopping: answering what is in flight");
    let _ = stopping.send(true);
    let drained = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("connections that stayed open were cut after {DRAIN:?}");
        servers.abort_all();
    }
    if let Err(late) = sessions.shutdown(CLEAN_UP).await {
        tracing::warn!("{late}");
    }
    Ok(())
}

/// Serves until told to stop; then answers what is in flight and closes what is idle.
async fn serve(listener: TcpListener, app: Router, mut stopped: watch::Receiver<bool>) {
    let stopped = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    // It never fails: errors of single connections, and running out of them, are its own business.
    let _ = axum::serve(listener, app)
        .with_graceful_shutdown(stopped)
        .await;
}

async fn listen(variable: &str, addr: &str) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(addr).await.map_err(|error| {
        format!("cannot listen on {variable}={addr} ({error}): set it to a free HOST:PORT")
    })?;
    Ok(listener)
}

fn log_to_stderr() -> Result<(), Failure> {
    let wanted = env::var("RUST_LOG").unwrap_or_default();
    let filter = if wanted.trim().is_empty() {
        // A Postgres that stops says so on each connection.
        "info,sqlx::postgres::notice=off"
    } else {
        &wanted
    };
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        format!("RUST_LOG is {filter:?} ({error}); it may be info, debug, session_layer=trace, …")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

/// Where it is, and on what it runs.
fn say_hello(app: &TcpListener, admin: &TcpListener, sessions: &Sessions) -> Result<(), Failure> {
    // Of the listeners, not of the configuration: port 0 is whichever was free.
    let mut text = format!(
        "quickstart: http://{}  (the cache's switch: http://{}/mode)\n",
        app.local_addr()?,
        admin.local_addr()?
    );
    if sessions.cache_status().backend == "memory" {
        text += "\
Embedded: sessions in a SQLite file, the cache in this process. Nothing to install, for one process.
On Redis and Postgres, for many:
    export DATABASE_URL=postgres://USER:PASSWORD@HOST/DATABASE
    export REDIS_URL=redis://HOST:6379
";
    }
    // Whoever started us may have closed our standard output: no reason to stop.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// SIGTERM (orchestrators) and SIGINT (Ctrl-C).
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
