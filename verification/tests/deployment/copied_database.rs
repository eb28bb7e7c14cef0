//! A copy of the database beside its original, on one Redis, with one namespace and one sealing
//! key: staging cloned from production, a tenant made from a template.

use session_layer::cache::RedisCache;
use session_layer::store::PostgresStore;
use session_layer::{SealingKeys, Sessions};
use session_testkit::backends::{Backends, Sandbox};
use session_testkit::wait;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::harness::{Failure, Outcome, default_backend};
use crate::support::{SOON, ask, built, execute, login, until_hit};

/// A node over this database and schema. Everything else is the same for all.
async fn node(sandbox: &Sandbox, database_url: &str, schema: &str) -> Result<Sessions, Failure> {
    let keys: SealingKeys = format!("one:{}A=", "x".repeat(42)).parse()?;
    let cache = RedisCache::builder(sandbox.redis_url())
        .namespace(sandbox.namespace())
        .deadline(SOON)
        .encryption_keys(keys)
        .build()?;
    let store = PostgresStore::builder(database_url).schema(schema).read_deadline(SOON).build()?;
    store.migrate().await?;
    Ok(built(cache, store))
}

/// Both have the session of `alice`. Whatever one of them does, the other goes by its own rows.
async fn keep_apart(
    production: &Sessions,
    staging: &Sessions,
    alice: &session_layer::Created,
    purge: impl AsyncFn() -> Outcome,
) -> Outcome {
    // A token that staging has issued.
    let carol = login(staging, "carol").await?;
    until_hit(staging, &carol).await?;
    assert_eq!(ask(production, &carol).await, "invalid");

    // A session that production has revoked, and whose row in the journal is gone.
    until_hit(staging, alice).await?;
    let _reach = production.revoke(alice.token.reveal()).await?;
    assert_eq!(ask(production, alice).await, "invalid");
    purge().await?;
    for _ in 0..20 {
        assert_eq!(ask(staging, alice).await, "valid", "it fills the same key");
        assert_eq!(ask(production, alice).await, "invalid");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn template_copy_shares_no_session_with_its_original() -> Outcome {
    let backend = default_backend().await?;
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let production = node(&sandbox, sandbox.database_url(), sandbox.schema()).await?;
    let alice = login(&production, "alice").await?;
    until_hit(&production, &alice).await?;
    production.shutdown(SOON).await?;

    // A template has to be without connections.
    let original: PgConnectOptions = sandbox.database_url().parse()?;
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

    let production = node(&sandbox, sandbox.database_url(), sandbox.schema()).await?;
    let staging = node(&sandbox, &copy, sandbox.schema()).await?;
    until_hit(&production, &alice).await?;
    keep_apart(&production, &staging, &alice, async || {
        let purge = format!("DELETE FROM {}.session_journal", sandbox.schema());
        execute(backends.postgres(), purge).await
    })
    .await
}

/// As a dump restored into another schema of the same database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copied_schema_shares_no_session_with_its_original() -> Outcome {
    let backend = default_backend().await?;
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let production = node(&sandbox, sandbox.database_url(), sandbox.schema()).await?;
    let alice = login(&production, "alice").await?;
    until_hit(&production, &alice).await?;
    let copy = "staging";
    let staging = node(&sandbox, sandbox.database_url(), copy).await?;
    let original = sandbox.schema();
    let rows = format!(
        "TRUNCATE {copy}.session_life;
         INSERT INTO {copy}.session_life SELECT * FROM {original}.session_life;
         INSERT INTO {copy}.session_users SELECT * FROM {original}.session_users;
         INSERT INTO {copy}.sessions SELECT * FROM {original}.sessions"
    );
    execute(backends.postgres(), rows).await?;
    keep_apart(&production, &staging, &alice, async || {
        let purge = format!("DELETE FROM {original}.session_journal");
        execute(backends.postgres(), purge).await
    })
    .await
}
