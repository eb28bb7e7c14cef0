//! A real `PgBouncer` with its defaults in front of Postgres.

use session_layer::store::PostgresStore;
use session_layer::{CacheMode, Sessions};
use session_testkit::backends::Backend;
use session_testkit::wait;

use crate::harness::{Failure, Outcome};
use crate::pgbouncer::PgBouncer;
use crate::support::{SOON, Servers, ask, built, execute, login, until, until_hit};

/// The settings that a pooled node does not send.
const OF_THE_ROLE: [&str; 3] =
    ["statement_timeout = '1500ms'", "lock_timeout = '1s'", "row_security = off"];

fn node(servers: &Servers, url: &str, pooled: bool) -> Result<Sessions, Failure> {
    let store = PostgresStore::builder(url).schema(servers.schema()).pooled(pooled);
    let store = store.read_deadline(std::time::Duration::from_secs(3)).build()?;
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
