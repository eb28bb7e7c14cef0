//! A copy of the database beside its original, on one Redis, with one namespace and one sealing
//! key: staging cloned from production, a tenant made from a template.

use session_layer::cache::RedisCache;
use session_layer::store::PostgresStore;
use session_layer::{Created, SealingKeys, Sessions};
use session_testkit::wait;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, built, login, until_hit};

/// Creates a node over this database and schema. Its other settings are the same for all.
async fn node(servers: &Servers, database_url: &str, schema: &str) -> Result<Sessions, Failure> {
    let keys: SealingKeys = format!("one:{}A=", "x".repeat(42)).parse()?;
    let cache = RedisCache::builder(servers.redis.url())
        .namespace(servers.namespace())
        .deadline(SOON)
        .encryption_keys(keys)
        .build()?;
    let store = PostgresStore::builder(database_url).schema(schema).read_deadline(SOON).build()?;
    store.migrate().await?;
    Ok(built(cache, store))
}

/// Asserts that changes of one database do not affect the other. Both have the session of alice.
async fn assert_kept_apart(
    servers: &Servers,
    production: &Sessions,
    staging: &Sessions,
    alice: &Created,
) -> Outcome {
    // A token of staging.
    let carol = login(staging, "carol").await?;
    until_hit(staging, &carol).await?;
    assert_eq!(ask(production, &carol).await, "invalid");

    // A session that production revoked, and whose journal row was removed.
    until_hit(staging, alice).await?;
    let _reach = production.revoke(alice.token.reveal()).await?;
    assert_eq!(ask(production, alice).await, "invalid");
    servers.sql("DELETE FROM session_journal").await?;
    for _ in 0..20 {
        assert_eq!(ask(staging, alice).await, "valid", "both fill the same key");
        assert_eq!(ask(production, alice).await, "invalid");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn template_copy_shares_no_session_with_its_original() -> Outcome {
    let servers = Servers::own().await?;
    let production = node(&servers, servers.database_url(), servers.schema()).await?;
    let alice = login(&production, "alice").await?;
    until_hit(&production, &alice).await?;
    production.shutdown(SOON).await?;

    // A template must have no connections.
    let original: PgConnectOptions = servers.database_url().parse()?;
    let name = original.get_database().unwrap_or("postgres").to_owned();
    let beside = original.clone().database("template1");
    wait::until("the copy", SOON, async || {
        let Ok(mut admin) = beside.connect().await else {
            return false;
        };
        let copy = format!("CREATE DATABASE staging TEMPLATE \"{name}\"");
        let copied = sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut admin).await;
        let _closed = admin.close().await;
        copied.is_ok()
    })
    .await?;
    let copy = original.database("staging").to_url_lossy().to_string();

    let production = node(&servers, servers.database_url(), servers.schema()).await?;
    let staging = node(&servers, &copy, servers.schema()).await?;
    until_hit(&production, &alice).await?;
    assert_kept_apart(&servers, &production, &staging, &alice).await
}

// As a dump that was restored into another schema of the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copied_schema_shares_no_session_with_its_original() -> Outcome {
    let servers = Servers::own().await?;
    let production = node(&servers, servers.database_url(), servers.schema()).await?;
    let alice = login(&production, "alice").await?;
    until_hit(&production, &alice).await?;
    let copy = "staging";
    let staging = node(&servers, servers.database_url(), copy).await?;
    let original = servers.schema();
    servers
        .sql(format!(
            "TRUNCATE {copy}.session_life;
         INSERT INTO {copy}.session_life SELECT * FROM {original}.session_life;
         INSERT INTO {copy}.session_users SELECT * FROM {original}.session_users;
         INSERT INTO {copy}.sessions SELECT * FROM {original}.sessions"
        ))
        .await?;
    assert_kept_apart(&servers, &production, &staging, &alice).await
}
