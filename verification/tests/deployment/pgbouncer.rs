//! A real `PgBouncer` with its defaults in front of Postgres.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use session_layer::store::PostgresStore;
use session_layer::{CacheMode, Error, Sessions};
use session_testkit::backends::Backend;
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;
use sqlx::{Connection as _, PgConnection};
use tokio::net::TcpListener;

use crate::harness::{Failure, Outcome};
use crate::pgbouncer::PgBouncer;
use crate::support::{SOON, Servers, ask, built, execute, login, until, until_hit};

/// The settings that a pooled node does not send.
const OF_THE_ROLE: [&str; 3] =
    ["statement_timeout = '1500ms'", "lock_timeout = '1s'", "row_security = off"];

fn node(servers: &Servers, url: &str, pooled: bool) -> Result<Sessions, Failure> {
    let store = PostgresStore::builder(url).schema(servers.schema()).pooled(pooled);
    let store = store.read_deadline(Duration::from_secs(3)).build()?;
    Ok(built(servers.cache()?, store))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pooled_node_works_behind_pgbouncer_in_each_mode() -> Outcome {
    let servers = Servers::own_on(Backend::Native).await?;
    for setting in OF_THE_ROLE {
        execute(servers.postgres(), format!("ALTER ROLE postgres SET {setting}")).await?;
    }
    servers.store().await?;
    for mode in ["session", "transaction"] {
        let pooler = PgBouncer::start(servers.postgres(), mode).await?;
        // The tables are also created through the pooler.
        let store = PostgresStore::builder(pooler.url()).schema(mode).pooled(true).build()?;
        store.migrate().await?;
        let sessions = node(&servers, &pooler.url(), true)?;
        let other = node(&servers, &pooler.url(), true)?;
        let alice = login(&sessions, "alice").await?;
        until_hit(&other, &alice).await?;
        // The other node learns of it from the journal.
        servers.revoke_by_sql(&alice).await?;
        until(&other, &alice, "invalid").await?;
        other.set_mode(CacheMode::Bypass);
        let bob = login(&sessions, "bob").await?;
        let asked = futures_util::future::join_all((0..30).map(|_| ask(&other, &bob)));
        assert!(asked.await.iter().all(|word| *word == "valid"), "{mode}");
        assert_eq!(sessions.revoke(bob.token.reveal()).await?.value, 1);
        assert_eq!(ask(&other, &bob).await, "invalid", "{mode}");
        for node in [sessions, other] {
            node.shutdown(SOON).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_is_not_pooled_names_the_setting() -> Outcome {
    let servers = Servers::own_on(Backend::Native).await?;
    servers.store().await?;
    for mode in ["session", "transaction"] {
        let pooler = PgBouncer::start(servers.postgres(), mode).await?;
        let sessions = node(&servers, &pooler.url(), false)?;
        wait::until("the setting in the health document", SOON, async || {
            sessions.health().await.errors.join("\n").contains("SESSION_DB_POOLED=true")
        })
        .await?;
        sessions.shutdown(SOON).await?;
    }
    Ok(())
}

/// Makes the COMMIT of a change of a session wait for the advisory lock 93.
const SLOW_COMMIT: &str = "
    CREATE FUNCTION public.slow_commit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_catalog.pg_advisory_xact_lock(93); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow_commit AFTER UPDATE ON sessions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.slow_commit()";

// PgBouncer then replies FATAL 08P01 "server conn crashed?", while Postgres commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_is_unknown_if_pgbouncer_loses_its_server_in_commit() -> Outcome {
    let servers = Servers::own_on(Backend::Native).await?;
    servers.store().await?;
    let proxy = Proxy::start(servers.postgres().address()).await?;
    let settings = "auth_type = any\npool_mode = transaction";
    let pooler = PgBouncer::start_at(proxy.address(), settings).await?;
    let sessions = node(&servers, &pooler.url(), true)?;
    let alice = login(&sessions, "alice").await?;
    let schema = servers.schema();
    execute(servers.postgres(), format!("SET search_path = {schema}; {SLOW_COMMIT}")).await?;
    let mut holder = PgConnection::connect(servers.postgres().url()).await?;
    sqlx::raw_sql("SELECT pg_advisory_lock(93)").execute(&mut holder).await?;
    let rotation = tokio::spawn({
        let (sessions, token) = (sessions.clone(), alice.token.reveal().to_owned());
        async move { sessions.rotate(&token, Duration::ZERO).await }
    });
    wait::until("the COMMIT to wait", SOON, async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        sqlx::query_scalar(waiting).fetch_one(&mut holder).await.is_ok_and(|count: i64| count > 0)
    })
    .await?;
    let cut = proxy.inject(Toxic::down());
    let failed = rotation.await?;
    assert!(matches!(&failed, Err(Error::Unknown(why)) if why.to_string().contains("08P01")));
    drop(cut);
    holder.close().await?;
    until(&sessions, &alice, "invalid").await?;
    sessions.shutdown(SOON).await?;
    Ok(())
}

// No change is at stake before its COMMIT. This is the common outage behind a pooler.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_is_unavailable_if_pgbouncer_has_no_server() -> Outcome {
    let servers = Servers::own_on(Backend::Native).await?;
    servers.store().await?;
    let proxy = Proxy::start(servers.postgres().address()).await?;
    let settings = "auth_type = any\npool_mode = transaction\nquery_wait_timeout = 1";
    let pooler = PgBouncer::start_at(proxy.address(), settings).await?;
    let sessions = node(&servers, &pooler.url(), true)?;
    let alice = login(&sessions, "alice").await?;
    let _down = proxy.inject(Toxic::down());
    let failed = sessions.rotate(alice.token.reveal(), Duration::ZERO).await;
    assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
    sessions.shutdown(SOON).await?;
    Ok(())
}

// PgBouncer 1.18 has the code 08P01 for all of these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusal_of_pgbouncer_is_named_by_its_text() -> Outcome {
    let servers = Servers::own_on(Backend::Native).await?;
    let away = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string();
    let users = tempfile::NamedTempFile::new()?;
    std::fs::write(users.path(), "\"postgres\" \"right\"\n")?;
    std::fs::set_permissions(users.path(), Permissions::from_mode(0o644))?;
    let with_users =
        |auth: &str| format!("auth_type = {auth}\nauth_file = {}", users.path().display());
    let (scram, trust) = (with_users("scram-sha-256"), with_users("trust"));
    let full = format!("{trust}\nmax_client_conn = 0");
    let impatient = format!("{trust}\nquery_wait_timeout = 1");
    let postgres = servers.postgres().address();
    for (server, settings, user, database, named) in [
        (postgres, &scram, "postgres:wr0ng", "postgres", "our user or password"),
        (postgres, &scram, "nobody:wr0ng", "postgres", "our user or password"),
        (postgres, &trust, "postgres", "nowhere", "does not know the database"),
        (postgres, &full, "postgres", "postgres", "has no connection left"),
        (&away, &impatient, "postgres", "postgres", "the Postgres behind it"),
    ] {
        let pooler = PgBouncer::start_at(server, settings).await?;
        let address = session_testkit::url::address(&pooler.url()).unwrap_or_default();
        let url = format!("postgres://{user}@{address}/{database}");
        let store = PostgresStore::builder(&url).pooled(true).build()?;
        let error = store.migrate().await.expect_err("the pooler refuses");
        let text = error.to_string();
        assert!(text.contains(named) && !text.contains("SESSION_DB_POOLED="), "{text}");
        assert!(!text.contains("wr0ng") && !text.contains("nowhere"), "{text}");
    }
    Ok(())
}
