//! The creation of the tables.

use session_layer::error::StoreErrorKind;
use session_layer::store::{PostgresStore, SessionStore};
use sqlx::postgres::PgPoolOptions;

use super::support::Schema;
use crate::stores::support::{HOUR, alive, load, login, token};

#[tokio::test]
async fn concurrent_migrations_are_serialized() {
    let schema = Schema::new().await;
    let stores: Vec<_> = (0..8).map(|_| schema.store_at(schema.url())).collect();
    let migrating = stores.iter().map(PostgresStore::migrate);
    for migrated in futures_util::future::join_all(migrating).await {
        migrated.unwrap();
    }
    let mut operator = schema.operator().await;
    let applied: i64 = operator.ask("SELECT count(*) FROM session_layer_migrations").await;
    assert_eq!(applied, 1);
    login(&stores[0], "a", "alice").await;
    alive(load(&stores[7], "a").await);
}

#[tokio::test]
async fn applied_migrations_execute_nothing() {
    let schema = Schema::new().await;
    schema.store().await;
    let store = schema.store_at(&schema.url_with("default_transaction_read_only", "on"));
    store.migrate().await.unwrap();
    // The same holds for a role whose only right is to look up names in the schema.
    schema.role("").await;
    let store = schema.store_at(&schema.url_with("role", &schema.name));
    store.migrate().await.unwrap();
}

#[tokio::test]
async fn newer_schema_is_kept() {
    let (schema, store) = Schema::with_store().await;
    schema
        .run(
            "INSERT INTO session_layer_migrations (version, name, checksum)
                 VALUES (9999, 'from the future', '\\x00');
                 ALTER TABLE sessions ADD COLUMN later text DEFAULT 'x'",
        )
        .await;
    store.migrate().await.unwrap();
    login(&store, "a", "alice").await;
    alive(load(&store, "a").await);
}

#[tokio::test]
async fn tables_of_another_build_are_an_error() {
    let (schema, store) = Schema::with_store().await;
    schema.run("UPDATE session_layer_migrations SET checksum = '\\x00'").await;
    let error = store.migrate().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Schema);
    assert!(error.to_string().contains("SESSION_DB_SCHEMA"), "{error}");
}

#[tokio::test]
async fn missing_tables_are_an_error_that_says_to_migrate() {
    let schema = Schema::new().await;
    let store = schema.store_at(schema.url());
    for error in [store.load(&[]).await.unwrap_err(), store.probe().await.unwrap_err()] {
        assert_eq!(error.kind(), StoreErrorKind::Schema);
        assert!(error.to_string().contains("migrat"), "{error}");
    }
}

#[tokio::test]
async fn schema_that_the_owner_created_suffices() {
    let schema = Schema::new().await;
    let mut operator = schema.operator().await;
    operator.run(&format!("CREATE ROLE {0}", schema.name)).await;
    let store = schema.store_at(&schema.url_with("role", &schema.name));
    // The role has no CREATE on the database, and there is no schema.
    let error = store.migrate().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Denied);
    assert!(error.to_string().contains("CREATE SCHEMA"), "{error}");
    operator.run(&format!("CREATE SCHEMA {0} AUTHORIZATION {0}", schema.name)).await;
    store.migrate().await.unwrap();
    login(&store, "a", "alice").await;
}

#[tokio::test]
async fn settings_of_the_applications_pool_are_unchanged() {
    let schema = Schema::new().await;
    let pool = PgPoolOptions::new().max_connections(1).connect(schema.url()).await.unwrap();
    let settings = async || -> Vec<String> {
        sqlx::query_scalar(
            "SELECT setting FROM pg_settings WHERE name IN
                   ('search_path', 'lock_timeout', 'statement_timeout', 'row_security') ORDER BY \
                   name",
        )
        .fetch_all(&pool)
        .await
        .unwrap()
    };
    let before = settings().await;
    let store = PostgresStore::from_pool(pool.clone()).schema(&schema.name).build().unwrap();
    store.migrate().await.unwrap();
    login(&store, "a", "alice").await;
    assert_eq!(settings().await, before);
    store.close().await;
    assert_eq!(settings().await, before, "the application closes its own pool");
}

// The planner has no statistics of new tables. It must not estimate a read as so expensive that it
// compiles it (0.3 s).
#[tokio::test]
async fn reads_of_a_new_store_are_not_compiled() {
    let schema = Schema::new().await;
    schema.store().await;
    let pool = PgPoolOptions::new().max_connections(1);
    let store = PostgresStore::from_pool(pool.connect(schema.url()).await.unwrap())
        .schema(&schema.name)
        .read_deadline(std::time::Duration::from_secs(60))
        .build()
        .unwrap();
    let digests: Vec<_> = (0..64).map(|n| token(&n.to_string())).collect();
    let mut fastest = HOUR;
    for _ in 0..10 {
        let began = std::time::Instant::now();
        store.load(&digests).await.unwrap();
        fastest = fastest.min(began.elapsed());
    }
    assert!(fastest.as_millis() < 100, "{fastest:?}");
}

#[tokio::test]
async fn bad_schema_name_is_an_error() {
    let error = PostgresStore::builder("postgres://localhost/x")
        .schema("a; DROP TABLE b")
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("a; DROP TABLE b"), "{error}");
    let pool = PgPoolOptions::new().connect_lazy("postgres://localhost/x");
    assert!(PostgresStore::from_pool(pool.unwrap()).schema("").build().is_err());
}

// An object of another role in the schema could act with the rights of the role that calls the
// functions.
#[tokio::test]
async fn schema_in_which_others_may_create_is_rejected() {
    let schema = Schema::new().await;
    let mut operator = schema.operator().await;
    operator.run(&format!("CREATE SCHEMA {}", schema.name)).await;
    for (grantee, named) in [("PUBLIC", "PUBLIC"), (schema.name.as_str(), schema.name.as_str())] {
        if grantee != "PUBLIC" {
            schema.role("").await;
        }
        operator.run(&format!("GRANT CREATE ON SCHEMA {} TO {grantee}", schema.name)).await;
        let store = schema.store_at(schema.url());
        let error = store.migrate().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Denied);
        let message = error.to_string();
        assert!(message.contains(&format!("FROM {named}")), "{message}");
        operator.run(&format!("REVOKE CREATE ON SCHEMA {} FROM {grantee}", schema.name)).await;
    }
    schema.store().await;
}

#[tokio::test]
async fn uninstall_leaves_an_empty_schema() {
    const SCRIPT: &str =
        include_str!("../../../../session-layer/migrations/postgres/uninstall.sql");
    let schema = Schema::new().await;
    schema.store().await;
    // The statements between psql's own commands.
    let (_, from) = SCRIPT.split_once("\\if :there\n").unwrap();
    let (statements, _) = from.split_once("SELECT format('DROP SCHEMA").unwrap();
    let mut operator = schema.operator().await;
    let statements = statements.replace(":\"schema\"", &schema.name);
    operator.run(&statements).await;
    let left: i64 = operator
        .ask(&format!(
            "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = '{0}'::regnamespace)
                      + (SELECT count(*) FROM pg_proc WHERE pronamespace = '{0}'::regnamespace)",
            schema.name
        ))
        .await;
    assert_eq!(left, 0);
}
