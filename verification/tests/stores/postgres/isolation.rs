//! Statements that Postgres rolls back because of a concurrent one. Nothing was changed, and the
//! store sends them again.

use std::time::Duration;

use session_layer::error::StoreErrorKind;
use session_layer::store::{Creation, PostgresStore, SessionStore as _, Target};
use session_testkit::wait;
use sqlx::Connection as _;
use sqlx::postgres::PgPoolOptions;

use super::support::{Operator, Schema};
use crate::stores::support::{json, login, made, new, of_user, revoke, token};
use crate::support::SOON;

/// Returns a store with a pool of its own, one with the pool of an application whose default is
/// SERIALIZABLE, and one behind a pooler with that default.
async fn stores(schema: &Schema) -> [PostgresStore; 3] {
    let serializable = schema.url_with("default_transaction_isolation", "serializable");
    let ours = schema.store().await;
    let pool = PgPoolOptions::new().connect(&serializable).await.unwrap();
    let applications = PostgresStore::from_pool(pool)
        .schema(&schema.name)
        .change_deadline(Duration::from_secs(8))
        .build()
        .unwrap();
    let pooled = schema.builder_at(&serializable).pooled(true);
    [ours, applications, pooled.build().unwrap()]
}

/// Rolls back the first statement that changes sessions after each restart of the sequence.
fn rolls_back(code: &str) -> String {
    format!(
        "CREATE SEQUENCE changes;
         CREATE FUNCTION rolls_back() RETURNS trigger LANGUAGE plpgsql SET search_path FROM \
         CURRENT AS $$ BEGIN
           IF nextval('changes') = 1 THEN RAISE 'a conflict' USING ERRCODE = '{code}'; END IF;
           RETURN NULL;
         END $$;
         CREATE TRIGGER rolls_back AFTER INSERT OR UPDATE ON sessions
           FOR EACH STATEMENT EXECUTE FUNCTION rolls_back()"
    )
}

#[tokio::test]
async fn rolled_back_statement_is_sent_again() {
    for code in ["40001", "40P01"] {
        let schema = Schema::new().await;
        let mut operator = schema.operator().await;
        let stores = stores(&schema).await;
        operator.run(&rolls_back(code)).await;
        for (n, store) in stores.iter().enumerate() {
            let mut conflict = async || {
                let tries: i64 = operator.ask("SELECT last_value FROM changes").await;
                assert!(n == 0 || tries > 1, "{code}: store {n} had no conflict");
                operator.run("ALTER SEQUENCE changes RESTART").await;
            };
            let [a, b, c] = ["a", "b", "c"].map(|name| token(&format!("{name} {n}")));
            let user = format!("user {n}");
            let begun = store.login_snapshot().await.unwrap();
            let log_in = async |digest| {
                let mut login = new(&user);
                login.begun = Some(begun.clone());
                match store.create(digest, &login).await.unwrap() {
                    Creation::Created(session) => session,
                    other => panic!("{code}: store {n}: {other:?}"),
                }
            };
            conflict().await;
            let session = log_in(a).await;
            conflict().await;
            log_in(c).await;
            conflict().await;
            let data = json("1");
            let update = store.update(session.id(), session.version(), &data);
            made(update.await.unwrap());
            conflict().await;
            made(store.rotate(a, b, Duration::ZERO).await.unwrap());
            conflict().await;
            made(store.touch(session.id(), Duration::ZERO).await.unwrap());
            conflict().await;
            assert_eq!(revoke(store, Target::Token(b)).await.ended, 1);
            conflict().await;
            assert_eq!(revoke(store, of_user(&user)).await.ended, 1);
        }
    }
}

// The row that a statement waits for is changed meanwhile.
#[tokio::test]
async fn change_behind_a_locked_row_is_made_in_every_isolation() {
    let schema = Schema::new().await;
    for (n, store) in stores(&schema).await.into_iter().enumerate() {
        let digest = token(&n.to_string());
        let created = store.create(digest, &new("alice")).await.unwrap();
        assert!(matches!(created, Creation::Created(_)), "{created:?}");
        let label = "UPDATE sessions SET label = 'held' WHERE revoked_at IS NULL";
        let revoking = async move { store.revoke(&Target::Token(digest), &"gone".into()).await };
        let revoked = schema.beside(label, "COMMIT", revoking).await;
        assert_eq!(revoked.unwrap().ended, 1, "store {n}");
    }
}

// This includes a login without a snapshot. Its next try must still know the revoke-all that it
// met.
#[tokio::test]
async fn login_behind_a_revoke_all_is_refused_in_every_isolation() {
    let schema = Schema::new().await;
    for (n, store) in stores(&schema).await.into_iter().enumerate() {
        let old = store.create(token(&format!("old {n}")), &new("alice")).await;
        assert!(matches!(old.unwrap(), Creation::Created(_)));
        let raise = "UPDATE session_users SET epoch = epoch + 1 WHERE user_id = 'alice'";
        let login = async move { store.create(token(&format!("new {n}")), &new("alice")).await };
        let created = schema.beside(raise, "COMMIT", login).await.unwrap();
        assert!(matches!(created, Creation::Superseded), "store {n}: {created:?}");
    }
}

// A cut-over may leave an old server read-only. It does not know the sessions of the new one.
#[tokio::test]
async fn read_only_server_does_not_report_an_unknown_session() {
    let schema = Schema::new().await;
    login(&schema.store().await, "known", "alice").await;
    let read_only = schema.builder_at(&schema.url_with("default_transaction_read_only", "on"));
    let store = read_only.build().unwrap();
    let known = store.digests(&Target::Token(token("known"))).await;
    assert_eq!(known.unwrap(), [token("known")]);
    let unknown = store.digests(&Target::Token(token("unknown"))).await;
    assert_eq!(unknown.unwrap_err().kind(), StoreErrorKind::Denied);
}

// The connection may lead to an old server that a cut-over left running. The next connection leads
// to the current one.
#[tokio::test]
async fn connection_to_a_read_only_server_is_closed() {
    let schema = Schema::new().await;
    login(&schema.store().await, "a", "alice").await;
    let read_only = schema.url_with("default_transaction_read_only", "on");
    let named = format!("{read_only}&application_name={}", schema.name);
    let store = schema.store_at(&named);
    let mut watcher = schema.operator().await;
    let open = format!(
        "SELECT coalesce(min(pid), 0) FROM pg_stat_activity \
             WHERE application_name = '{}' AND query LIKE '%UPDATE%'",
        schema.name
    );
    let revoke = async || {
        let refused = store.revoke(&Target::Token(token("a")), &"test".into()).await;
        assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Denied);
    };
    revoke().await;
    let first: i32 = watcher.ask(&open).await;
    assert_ne!(first, 0, "a new connection is kept");
    // Once it is old, it may lead elsewhere.
    let closed = async || {
        revoke().await;
        watcher.ask::<i32>(&open).await != first
    };
    wait::until("another connection", SOON, closed).await.unwrap();
}

// The probe looks a row up in an index. It does not scan pages of deleted rows.
#[tokio::test]
async fn readiness_probe_does_not_scan_deleted_rows() {
    let schema = Schema::new().await;
    schema.store().await.close().await;
    let mut operator = schema.operator().await;
    let writer = operator.pid().await;
    operator
        .run(
            "ALTER TABLE sessions SET (autovacuum_enabled = false);
                 INSERT INTO sessions (id, token_digest, user_id, user_epoch, data, expires_at)
                 SELECT gen_random_uuid(), sha256(n::text::bytea), 'alice', 0, '{}', now()
                 FROM generate_series(1, 20000) n;
                 DELETE FROM sessions",
        )
        .await;
    operator.0.close().await.unwrap();
    let mut watcher = schema.operator().await;
    let named = schema.named_url();
    let store = schema.store_at(&named);
    let before = scans(&mut watcher, &format!("pid = {writer}")).await;
    for _ in 0..10 {
        store.probe().await.unwrap();
    }
    store.close().await;
    let probing = format!("application_name = '{}'", schema.name);
    let after = scans(&mut watcher, &probing).await;
    assert_eq!(after - before, 0, "scans of the whole table");
}

/// Returns how often the whole table was scanned, once these connections have ended and reported.
async fn scans(watcher: &mut Operator, connections: &str) -> i64 {
    let open = format!("SELECT count(*) FROM pg_stat_activity WHERE {connections}");
    watcher.until_none(&open).await;
    watcher.ask("SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'sessions'::regclass").await
}
