//! Creating the tables, and leaving them alone.

use session_layer::error::StoreErrorKind;
use session_layer::store::{PostgresStore, SessionStore};
use sqlx::postgres::PgPoolOptions;

use super::support::{in_schema, url, url_with};
use crate::stores::support::{HOUR, alive, load, login, token};

#[tokio::test]
async fn eight_at_once_take_turns() {
    in_schema(|schema| async move {
        let stores: Vec<_> = (0..8).map(|_| schema.builder().build().unwrap()).collect();
        let migrating = stores.iter().map(PostgresStore::migrate);
        for migrated in futures_util::future::join_all(migrating).await {
            migrated.unwrap();
        }
        let mut person = schema.person().await;
        let applied: i64 = person.ask("SELECT count(*) FROM session_layer_migrations").await;
        assert_eq!(applied, 1);
        login(&stores[0], "a", "alice").await;
        alive(load(&stores[7], "a").await);
    })
    .await;
}

#[tokio::test]
async fn where_all_is_applied_nothing_is_executed() {
    in_schema(|schema| async move {
        schema.store().await;
        let store =
            schema.builder_at(&url_with("default_transaction_read_only", "on")).build().unwrap();
        store.migrate().await.unwrap();
        // Also with no right at all but to look up names in the schema.
        schema.role("").await;
        let store = schema.builder_at(&url_with("role", &schema.name)).build().unwrap();
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
        person.run("UPDATE session_layer_migrations SET checksum = '\\x00'").await;
        let error = store.migrate().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Schema);
        assert!(error.to_string().contains("SESSION_DB_SCHEMA"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn without_tables_the_error_says_to_migrate() {
    in_schema(|schema| async move {
        let store = schema.builder().build().unwrap();
        for error in [store.load(&[]).await.unwrap_err(), store.probe().await.unwrap_err()] {
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
        let store = schema.builder_at(&url_with("role", &schema.name)).build().unwrap();
        // CREATE on the database is missing, and so is the schema.
        let error = store.migrate().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Denied);
        assert!(error.to_string().contains("CREATE SCHEMA"), "{error}");
        person.run(&format!("CREATE SCHEMA {0} AUTHORIZATION {0}", schema.name)).await;
        store.migrate().await.unwrap();
        login(&store, "a", "alice").await;
    })
    .await;
}

#[tokio::test]
async fn the_applications_pool_is_as_it_was() {
    in_schema(|schema| async move {
        let pool = PgPoolOptions::new().max_connections(1).connect(&url()).await.unwrap();
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
    })
    .await;
}

#[tokio::test]
async fn a_bad_name_is_an_error() {
    let error = PostgresStore::builder("postgres://localhost/x")
        .schema("a; DROP TABLE b")
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("a; DROP TABLE b"), "{error}");
    let pool = PgPoolOptions::new().connect_lazy("postgres://localhost/x");
    assert!(PostgresStore::from_pool(pool.unwrap()).schema("").build().is_err());
}

/// An object that another role puts there could act with the rights of whoever runs our functions.
#[tokio::test]
async fn a_schema_in_which_others_may_create_is_refused() {
    in_schema(|schema| async move {
        let mut person = schema.person().await;
        person.run(&format!("CREATE SCHEMA {}", schema.name)).await;
        for (grantee, named) in [("PUBLIC", "PUBLIC"), (schema.name.as_str(), schema.name.as_str())]
        {
            if grantee != "PUBLIC" {
                schema.role("").await;
            }
            person.run(&format!("GRANT CREATE ON SCHEMA {} TO {grantee}", schema.name)).await;
            let store = schema.builder().build().unwrap();
            let error = store.migrate().await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Denied);
            let message = error.to_string();
            assert!(message.contains(&format!("FROM {named}")), "{message}");
            person.run(&format!("REVOKE CREATE ON SCHEMA {} FROM {grantee}", schema.name)).await;
        }
        schema.store().await;
    })
    .await;
}

/// What the migrations made goes, and nothing of ours is left in the schema.
#[tokio::test]
async fn uninstall_removes_all_that_was_made() {
    const SCRIPT: &str =
        include_str!("../../../../session-layer/migrations/postgres/uninstall.sql");
    in_schema(|schema| async move {
        schema.store().await;
        // What stands between psql's own commands.
        let (_, from) = SCRIPT.split_once("\\if :there\n").unwrap();
        let (statements, _) = from.split_once("SELECT format('DROP SCHEMA").unwrap();
        let mut person = schema.person().await;
        let statements = statements.replace(":\"schema\"", &schema.name);
        person.run(&statements).await;
        let left: i64 = person
            .ask(&format!(
                "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = '{0}'::regnamespace)
                      + (SELECT count(*) FROM pg_proc WHERE pronamespace = '{0}'::regnamespace)",
                schema.name
            ))
            .await;
        assert_eq!(left, 0);
    })
    .await;
}
