//! The faults of Postgres.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use session_testkit::{
    backends::{Backend, Backends, PostgresServer},
    faults::{self, Fault, FaultError, Target},
    proxy::{Network, Peer},
    wait,
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use crate::harness::{Failure, Outcome, on_each_backend};

const SECONDS: Duration = Duration::from_secs(5);
const MOMENT: Duration = Duration::from_millis(300);

/// Starts a server with the schema of a service: a table with one row, and a role with rights.
async fn start(backend: Backend) -> Result<(Backends, Target), Failure> {
    let backends = Backends::builder().backend(backend).start().await?;
    let mut owner = backends.postgres().connect().await?;
    let schema = r#"CREATE ROLE "the app" LOGIN; CREATE SCHEMA app; CREATE TABLE app.t (n int);
        INSERT INTO app.t VALUES (7); GRANT USAGE ON SCHEMA app TO "the app";
        GRANT SELECT, UPDATE ON app.t TO "the app""#;
    sqlx::raw_sql(schema).execute(&mut owner).await?;
    let target = Target::new(&backends).schema("app").role("the app");
    Ok((backends, target))
}

async fn app(postgres: &PostgresServer) -> sqlx::Result<PgConnection> {
    let options = PgConnectOptions::from_str(postgres.url())?.username("the app");
    PgConnection::connect_with(&options).await
}

async fn rows(app: &mut PgConnection) -> sqlx::Result<usize> {
    let rows = sqlx::query("SELECT n FROM app.t").fetch_all(app).await?;
    Ok(rows.len())
}

fn code<T>(result: sqlx::Result<T>) -> String {
    match result {
        Ok(_) => "none".to_owned(),
        Err(sqlx::Error::Database(error)) => error.code().unwrap_or_default().into_owned(),
        Err(error) => error.to_string(),
    }
}

async fn replies(server: &PostgresServer) -> bool {
    matches!(timeout(MOMENT, server.ping()).await, Ok(Ok(())))
}

on_each_backend!(postgres_killed_or_paused_returns);
async fn postgres_killed_or_paused_returns(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let postgres = backends.postgres();
    for fault in [Fault::PostgresKill, Fault::PostgresPause, Fault::PostgresImmediateStop] {
        let mut client = app(postgres).await?;
        let broken = faults::inject(&fault, &target).await?;
        assert!(!replies(postgres).await, "{fault}");
        // A paused server keeps the connection open, and its process does not reply.
        let read = timeout(MOMENT, rows(&mut client)).await;
        let paused = fault == Fault::PostgresPause;
        assert!(if paused { read.is_err() } else { matches!(read, Ok(Err(_))) }, "{fault}");
        let report = broken.heal().await?;
        assert!(report.touched_something(), "{fault}: {report}");
        postgres.ready().await?;
        assert_eq!(rows(&mut app(postgres).await?).await?, 1);
    }
    drop(faults::inject(&Fault::PostgresKill, &target).await?);
    assert_eq!(rows(&mut app(postgres).await?).await?, 1);
    Ok(())
}

on_each_backend!(postgres_ends_or_refuses_connections);
async fn postgres_ends_or_refuses_connections(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let postgres = backends.postgres();
    let mut client = app(postgres).await?;
    let report = faults::inject(&Fault::PostgresTerminate, &target).await?.heal().await?;
    assert!(report.effects >= Some(1), "{report}");
    assert_eq!(code(rows(&mut client).await), "57P01");

    let mut old = app(postgres).await?;
    let full = faults::inject(&Fault::PostgresConnectionLimit, &target).await?;
    assert_eq!(code(app(postgres).await), "53300");
    assert_eq!(code(rows(&mut old).await), "57P01");
    assert!(full.heal().await?.effects >= Some(1));
    app(postgres).await?;

    // A superuser has no limit.
    let target = Target::new(&backends);
    let refused = faults::inject(&Fault::PostgresConnectionLimit, &target).await;
    assert!(matches!(refused, Err(FaultError::Impossible { .. })), "{refused:?}");
    Ok(())
}

on_each_backend!(postgres_cancels_or_is_read_only);
async fn postgres_cancels_or_is_read_only(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let postgres = backends.postgres();
    let mut old = app(postgres).await?;
    let sleep = async |app: &mut PgConnection| {
        let slept = sqlx::query("SELECT pg_sleep(0.05)").execute(app).await;
        code(slept)
    };
    let write = async |app: &mut PgConnection| {
        let written = sqlx::query("UPDATE app.t SET n = n").execute(app).await;
        code(written)
    };
    let cancelling = faults::inject(&Fault::PostgresCancel, &target).await?;
    wait::until("a cancellation", SECONDS, async || sleep(&mut old).await == "57014").await?;
    assert!(cancelling.heal().await?.touched_something());
    wait::until("no cancellation", SECONDS, async || sleep(&mut old).await == "none").await?;

    let read_only = faults::inject(&Fault::PostgresReadOnly, &target).await?;
    let mut new = app(postgres).await?;
    assert_eq!(write(&mut new).await, "25006");
    assert_eq!(rows(&mut new).await?, 1);
    drop(read_only);
    wait::until("a write", SECONDS, async || write(&mut new).await == "none").await?;
    Ok(())
}

on_each_backend!(postgres_errors_count_if_nodes_receive_them);
async fn postgres_errors_count_if_nodes_receive_them(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let (redis, postgres) = (backends.redis(), backends.postgres());
    let network = Network::start(1, redis.address(), postgres.address()).await?;
    let network = Arc::new(network);
    let target = target.network(Arc::clone(&network));
    let url = network.proxy(0, Peer::Postgres).url(postgres.url());
    // Set when connecting, because a statement that sets it would be cancelled too.
    let options =
        PgConnectOptions::from_str(&url)?.username("the app").options([("lock_timeout", "50")]);
    for (fault, statement, error) in [
        (Fault::PostgresCancel, "SELECT pg_sleep(5)", "57014"),
        (Fault::PostgresReadOnly, "UPDATE app.t SET n = n", "25006"),
        (Fault::PostgresRevokedGrant, "SELECT n FROM app.t", "42501"),
        (Fault::PostgresTableLock, "SELECT n FROM app.t", "55P03"),
    ] {
        let mut broken = faults::inject(&fault, &target).await?;
        assert_eq!(broken.report().await.effects, Some(0), "{fault}");
        let mut app = PgConnection::connect_with(&options).await?;
        for _ in 0..2 {
            let done = sqlx::query(AssertSqlSafe(statement)).execute(&mut app).await;
            assert_eq!(code(done), error, "{fault}");
        }
        // A reply is counted after it was sent, and the receiver may be faster.
        let counted = async || broken.report().await.effects == Some(2);
        wait::until("both errors to be counted", SECONDS, counted).await?;
        broken.heal().await?;
    }
    // An open transaction causes no error. The transactions that begin meanwhile are counted.
    let open = faults::inject(&Fault::PostgresOpenTransaction, &target).await?;
    let mut app = PgConnection::connect_with(&options).await?;
    for _ in 0..3 {
        let update = sqlx::query("UPDATE app.t SET n = n").execute(&mut app);
        update.await?;
    }
    assert!(open.heal().await?.effects >= Some(3));
    Ok(())
}

on_each_backend!(postgres_locks_tables_and_rows_and_holds_the_horizon);
async fn postgres_locks_tables_and_rows_and_holds_the_horizon(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let postgres = backends.postgres();
    let mut client = app(postgres).await?;
    for drops in [true, false] {
        let locked = faults::inject(&Fault::PostgresTableLock, &target).await?;
        let answer = timeout(MOMENT, rows(&mut client)).await;
        assert!(answer.is_err(), "{answer:?}");
        client = app(postgres).await?;
        if drops {
            drop(locked);
        } else {
            assert!(locked.heal().await?.touched_something());
        }
        assert_eq!(rows(&mut client).await?, 1);
    }

    // More rows, because every second one is locked.
    let more = "INSERT INTO app.t SELECT generate_series(1, 20)";
    sqlx::query(more).execute(&mut postgres.connect().await?).await?;
    let locked = faults::inject(&Fault::PostgresRowLocks, &target).await?;
    assert_eq!(rows(&mut client).await?, 21, "locked rows are readable");
    let free = "SELECT count(*) FROM (SELECT FROM app.t FOR UPDATE SKIP LOCKED) free";
    let mut owner = postgres.connect().await?;
    let unlocked: i64 = sqlx::query_scalar(free).fetch_one(&mut owner).await?;
    assert!((1..21).contains(&unlocked), "{unlocked} of 21");
    let report = locked.heal().await?;
    assert_eq!(report.effects, u64::try_from(21 - unlocked).ok(), "{report}");
    let unlocked: i64 = sqlx::query_scalar(free).fetch_one(&mut owner).await?;
    assert_eq!(unlocked, 21);

    let oldest = async |owner: &mut PgConnection| -> sqlx::Result<i64> {
        let xmin = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
        sqlx::query_scalar(xmin).fetch_one(owner).await
    };
    let change =
        async |owner: &mut PgConnection| sqlx::query("UPDATE app.t SET n = n").execute(owner).await;
    let open = faults::inject(&Fault::PostgresOpenTransaction, &target).await?;
    change(&mut owner).await?;
    let held = oldest(&mut owner).await?;
    change(&mut owner).await?;
    assert_eq!(oldest(&mut owner).await?, held, "the horizon moved");
    drop(open);
    let moved = async || oldest(&mut owner).await.is_ok_and(|now| now > held);
    wait::until("the horizon to move", SECONDS, moved).await?;
    Ok(())
}

on_each_backend!(postgres_hides_rows_or_revokes_rights);
async fn postgres_hides_rows_or_revokes_rights(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let postgres = backends.postgres();
    let mut client = app(postgres).await?;
    let hidden = faults::inject(&Fault::PostgresForcedRls, &target).await?;
    assert_eq!(rows(&mut client).await?, 0);
    drop(hidden);
    assert_eq!(rows(&mut client).await?, 1);
    let state = "SELECT relrowsecurity OR relforcerowsecurity OR EXISTS (SELECT FROM pg_policy) \
        FROM pg_class WHERE oid = 'app.t'::regclass";
    let left: bool = sqlx::query_scalar(state).fetch_one(&mut postgres.connect().await?).await?;
    assert!(!left);

    let revoked = faults::inject(&Fault::PostgresRevokedGrant, &target).await?;
    assert_eq!(code(rows(&mut client).await), "42501");
    assert!(revoked.heal().await?.touched_something());
    assert_eq!(rows(&mut client).await?, 1);
    sqlx::query("UPDATE app.t SET n = n").execute(&mut client).await?;
    let more = sqlx::query("DELETE FROM app.t").execute(&mut client).await;
    assert_eq!(code(more), "42501", "healing granted more than was revoked");
    Ok(())
}

on_each_backend!(postgres_leaves_its_network);
async fn postgres_leaves_its_network(backend: Backend) -> Outcome {
    let (backends, target) = start(backend).await?;
    let postgres = backends.postgres();
    let broken = faults::inject(&Fault::PostgresDisconnect, &target).await;
    if backend == Backend::Native {
        assert!(broken.is_err());
        return Ok(());
    }
    let broken = broken?;
    assert!(!replies(postgres).await);
    drop(broken);
    postgres.ready().await?;
    assert_eq!(rows(&mut app(postgres).await?).await?, 1);
    Ok(())
}
