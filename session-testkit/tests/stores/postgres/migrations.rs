//! Creating the tables, and leaving them alone.

use session_layer::StoreErrorKind;
use session_layer::store::{PostgresStore, SessionStore};
use sqlx::postgres::PgPoolOptions;

use super::support::{in_schema, url, url_with};
use crate::support::{HOUR, alive, load, login, token};

#[tokio::test]
async fn eight_at_once_take_turns() {
    in_schema(|schema| async move {
        let stores: Vec<_> = (0..8)
            .map(|_| schema.builder().connect_lazy().unwrap())
            .collect();
        let migrating = stores.iter().map(PostgresStore::migrate);
        for migrated in futures_util::future::join_all(migrating).await {
            migrated.unwrap();
        }
        let mut person = schema.person().await;
        let stores_made: i64 = person.ask("SELECT count(*) FROM session_store").await;
        let applied: i64 = person
            .ask("SELECT count(*) FROM session_layer_migrations")
            .await;
        assert_eq!((stores_made, applied), (1, 5));
        login(&stores[0], "a", "alice").await;
        alive(load(&stores[7], "a").await);
    })
    .await;
}

#[tokio::test]
async fn where_all_is_applied_nothing_is_executed() {
    in_schema(|schema| async move {
        schema.store().await;
        let store = schema
            .builder_at(&url_with("default_transaction_read_only", "on"))
            .connect_lazy()
            .unwrap();
        store.migrate().await.unwrap();
        // Also with no right at all but to look up names in the schema.
        schema.role("").await;
        let store = schema
            .builder_at(&url_with("role", &schema.name))
            .connect_lazy()
            .unwrap();
        store.migrate().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let mut person = schema.person().await;
        person
            .run(
                "INSERT INTO session_layer_migrations (version, name, checksum)
                 VALUES (9999, 'from the future', '\\x00');
                 ALTER TABLE sessions ADD COLUMN later text DEFAULT 'x'",
            )
            .await;
        store.migrate().await.unwrap();
        login(&store, "a", "alice").await;
        alive(load(&store, "a").await);
    })
    .await;
}

#[tokio::test]
async fn tables_of_another_build_are_an_error() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let mut person = schema.person().await;
        person
            .run("UPDATE session_layer_migrations SET checksum = '\\x00'")
            .await;
        let error = store.migrate().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Schema);
        assert!(error.to_string().contains("SESSION_DB_SCHEMA"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn without_tables_the_error_says_to_migrate() {
    in_schema(|schema| async move {
        let store = schema.builder().connect_lazy().unwrap();
        for error in [
            store.load(&[]).await.unwrap_err(),
            store.probe().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), StoreErrorKind::Schema);
            assert!(error.to_string().contains("migrat"), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_schema_made_by_the_owner_is_enough() {
    in_schema(|schema| async move {
        let mut person = schema.person().await;
        person.run(&format!("CREATE ROLE {0}", schema.name)).await;
        let store = schema
            .builder_at(&url_with("role", &schema.name))
            .connect_lazy()
            .unwrap();
        // CREATE on the database is missing, and so is the schema.
        let error = store.migrate().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Denied);
        assert!(error.to_string().contains("CREATE SCHEMA"), "{error}");
        person
            .run(&format!("CREATE SCHEMA {0} AUTHORIZATION {0}", schema.name))
            .await;
        store.migrate().await.unwrap();
        login(&store, "a", "alice").await;
    })
    .await;
}

#[tokio::test]
async fn the_applications_pool_is_as_it_was() {
    in_schema(|schema| async move {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect(&url())
            .await
            .unwrap();
        let settings = async || -> Vec<String> {
            sqlx::query_scalar(
                "SELECT setting FROM pg_settings WHERE name IN
                   ('search_path', 'lock_timeout', 'statement_timeout', 'row_security') ORDER BY name",
            )
            .fetch_all(&pool)
            .await
            .unwrap()
        };
        let before = settings().await;
        let store = PostgresStore::from_pool(pool.clone())
            .schema(&schema.name)
            .unwrap();
        store.migrate().await.unwrap();
        login(&store, "a", "alice").await;
        assert_eq!(settings().await, before);
        store.close().await;
        assert_eq!(settings().await, before, "their pool is theirs to close");
    })
    .await;
}

/// The planner knows nothing of tables this new, and must not take a read for so much work that it
/// compiles it (0.3 s).
#[tokio::test]
async fn a_fresh_store_is_read_at_once() {
    in_schema(|schema| async move {
        schema.store().await;
        let pool = PgPoolOptions::new().max_connections(1);
        let store = PostgresStore::from_pool(pool.connect(&url()).await.unwrap())
            .schema(&schema.name)
            .unwrap()
            .read_deadline(HOUR);
        let digests: Vec<_> = (0..64).map(|n| token(&n.to_string())).collect();
        let mut fastest = HOUR;
        for _ in 0..10 {
            let began = std::time::Instant::now();
            store.load(&digests).await.unwrap();
            fastest = fastest.min(began.elapsed());
        }
        assert!(fastest.as_millis() < 100, "{fastest:?}");
    })
    .await;
}

#[tokio::test]
async fn a_bad_name_is_an_error() {
    let error = PostgresStore::builder("postgres://localhost/x")
        .schema("a; DROP TABLE b")
        .connect_lazy()
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Schema);
    let pool = PgPoolOptions::new().connect_lazy("postgres://localhost/x");
    assert!(PostgresStore::from_pool(pool.unwrap()).schema("").is_err());
}
