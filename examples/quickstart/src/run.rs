//! The start, the serving and the stop of the process.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::{Router, middleware};
use session_layer::{SessionCookie, Sessions};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::metrics::Exporter;
use crate::traces::Traces;
use crate::{admin, problem, traces};

/// The time for requests in flight after SIGTERM. Together with [`CLEAN_UP`] it stays well below
/// the 10 s after which orchestrators kill.
const DRAIN: Duration = Duration::from_secs(5);
/// The time for closing the connections to Redis and Postgres.
const CLEAN_UP: Duration = Duration::from_secs(2);

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the process from start to end. An error at the start is one line on standard error.
pub(crate) fn run(app: fn(&Sessions, &SessionCookie) -> Router) -> ExitCode {
    let ended = tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|runtime| {
        let ended = runtime.block_on(start_and_serve(app));
        // Does not wait for threads that hang, for example in a name look-up.
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
    let traces = Traces::start()?;
    // From here on, a signal stops the process normally, even if a store hangs at the start.
    let mut stop = StopSignals::listen()?;
    let config = Config::from_env()?;
    let listener = listen("ADDR", &config.addr).await?;
    let admin_listener = listen("ADMIN_ADDR", &config.admin_addr).await?;
    let sessions = tokio::select! {
        sessions = Sessions::from_env() => sessions?,
        () = stop.come() => return Ok(()),
    };

    let metrics = Exporter::install(&sessions)?;
    print_addresses(&listener, &admin_listener, &sessions)?;
    let (stopping, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    let mut app = app(&sessions, &config.cookie);
    if traces.are_on() {
        app = app.layer(middleware::from_fn(traces::trace));
    }
    servers.spawn(serve(listener, app, stopped.clone()));
    servers.spawn(serve(admin_listener, admin::app(sessions.clone(), metrics), stopped));

    stop.come().await;
    tracing::info!("stopping: waiting for requests in flight");
    let _ = stopping.send(true);
    let drained = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("closed connections that were still open after {DRAIN:?}");
        servers.abort_all();
    }
    if let Err(late) = sessions.shutdown(CLEAN_UP).await {
        tracing::warn!("{late}");
    }
    traces.stop().await;
    Ok(())
}

/// Serves until it must stop. Then it completes requests in flight and closes idle connections.
async fn serve(listener: TcpListener, app: Router, mut stopped: watch::Receiver<bool>) {
    let stopped = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    // It never fails: it handles errors of single connections and of `accept` itself.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let _ = axum::serve(listener, app).with_graceful_shutdown(stopped).await;
}

async fn listen(variable: &str, addr: &str) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(addr).await.map_err(|error| {
        format!("cannot listen on {variable}={addr} ({error}): set it to a free HOST:PORT")
    })?;
    Ok(listener)
}

/// Prints the addresses, and the servers in use.
fn print_addresses(
    app: &TcpListener,
    admin: &TcpListener,
    sessions: &Sessions,
) -> Result<(), Failure> {
    // The addresses are the listeners', because port 0 in the configuration means any free port.
    let mut text = format!(
        "quickstart: http://{}  (the cache's switch: http://{admin}/mode, metrics: \
         http://{admin}/metrics)\n",
        app.local_addr()?,
        admin = admin.local_addr()?,
    );
    if sessions.cache_status().backend == "memory" {
        text += "\
Embedded: sessions in a SQLite file, the cache in this process. No installation, for one process.
With Redis and Postgres, for several processes:
    export DATABASE_URL=postgres://USER:PASSWORD@HOST/DATABASE
    export REDIS_URL=redis://HOST:6379
";
    }
    // A closed standard output is no reason to stop.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// The signals that stop the process: SIGTERM (orchestrators) and SIGINT (Ctrl-C).
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
