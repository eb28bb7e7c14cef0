//! Measures other session crates in the harness of session-layer's own benchmark, in one run with
//! session-layer and with bare commands.
//!
//! Each crate validates one session per request, with its own cookie: it finds the session and
//! reads the name of the user in it. The crates promise different things. None of the peers falls
//! back to another store, and none of those that keep sessions in memory learns of a logout on
//! another node.

mod axum_session;
mod cookies;
mod ruts;
mod tower_sessions;

use std::process::ExitCode;

use clap::Parser;
use fred::prelude::{ClientLike as _, Config, Pool};
use session_benches::Error;
use session_benches::validations::{Arguments, Deployment, Kind, Load, Marks, Row, Subject};

/// Callers that create sessions.
const CREATING: usize = 64;
/// Connections of each pool of Redis, as in the documentation of tower-sessions-redis-store.
const REDIS_POOL: usize = 6;
/// Connections of the pool of Postgres, as in the harness.
const POSTGRES_POOL: u32 = 10;
/// The lifetime of the sessions in Redis, after which keys of an interrupted run expire.
const LIFETIME: time::Duration = time::Duration::hours(1);

/// Measures validations per second of session-layer and of other session crates.
///
/// Prints one table in Markdown on standard output.
#[derive(Debug, Parser)]
#[command(name = "session-peers")]
struct Peers {
    #[command(flatten)]
    shared: Arguments,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Peers::parse().shared).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("session-peers: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Error> {
    let load = Load::new(arguments.sessions, arguments.data);
    let deployment = Deployment::start(&load).await?;
    let config = Config::from_url(deployment.sandbox.redis_url())?;
    let redis = Pool::new(config, None, None, None, REDIS_POOL)?;
    redis.init().await?;
    let (strings, mut keys) = tower_sessions::redis(&redis, &load).await?;
    let (hashes, more_keys) = ruts::redis(&redis, &load).await?;
    keys.extend(more_keys);
    let stored = tower_sessions::postgres(&deployment, &load).await?;
    let in_memory = tower_sessions::in_memory(&deployment, &load).await?;
    let axum_in_memory = axum_session::in_memory(&deployment, &load).await?;

    let ours = async |kind| {
        let mut row = deployment.row(kind, &load).await?;
        row.ratio = None;
        Ok::<_, Error>(row)
    };
    let rows = [
        ours(Kind::RedisGet).await?,
        ours(Kind::Hit).await?,
        ours(Kind::HitSealed).await?,
        peer(Kind::Hit, "tower-sessions, Redis", strings),
        peer(Kind::Hit, "ruts, Redis", hashes),
        ours(Kind::PostgresGet).await?,
        ours(Kind::PostgresAlone).await?,
        peer(Kind::PostgresAlone, "tower-sessions, Postgres", stored),
        ours(Kind::NearHit).await?,
        peer(Kind::NearHit, "tower-sessions, moka over Postgres", in_memory),
        peer(Kind::NearHit, "axum_session, memory over Redis", axum_in_memory),
    ];
    let marks = Marks { name: "peers", command: "make bench-peers" };
    let measured = arguments.measure(&load, deployment, &rows, "session-layer ÷ it", marks).await;
    cookies::remove(&redis, &keys).await?;
    redis.quit().await?;
    measured
}

/// Returns a peer's row. Its ratio is that of session-layer's row with the same kind of store.
fn peer(of: Kind, name: &'static str, subject: impl Subject) -> Row {
    Row::new(name, subject).ratio(of.name(), name)
}
