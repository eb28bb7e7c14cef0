//! Connections that end, hang, or cannot be opened.

use std::time::Duration;

use session_layer::error::{StoreError, StoreErrorKind};
use session_layer::store::{PostgresStore, Row, SessionStore, Target};

use session_testkit::proxy::{Proxy, Toxic};

use sqlx::PgPool;

use super::support::Schema;
use crate::stores::support::{alive, load, login, of_user, token, until_ended};
use crate::support::SOON;

/// Deadlines short enough to be waited for.
const READ: Duration = Duration::from_millis(300);
const CHANGE: Duration = Duration::from_millis(800);

fn impatient(schema: &Schema, url: &str) -> PostgresStore {
    schema.builder_at(url).read_deadline(READ).change_deadline(CHANGE).build().unwrap()
}

async fn proxy(schema: &Schema) -> Proxy {
    Proxy::start(session_testkit::url::address(schema.url()).unwrap()).await.unwrap()
}

/// Waits until a read succeeds again.
async fn until_reading(store: &PostgresStore) -> Row {
    ends(async {
        loop {
            if let Ok(mut loaded) = store.load(&[token("a")]).await {
                return loaded.rows.remove(0);
            }
        }
    })
    .await
}

/// Waits for a call that must not hang.
async fn ends<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, call).await.expect("the call hung")
}

#[track_caller]
fn is(kind: StoreErrorKind, error: &StoreError) {
    assert_eq!(error.kind(), kind, "{error:?}");
}

#[tokio::test]
async fn cancelled_reads_leave_the_pool_whole() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "a", "alice").await;
    let mut holder = schema.operator().await;
    holder.run("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE").await;
    for _ in 0..50 {
        let digests = [token("a")];
        let reading = store.load(&digests);
        assert!(tokio::time::timeout(Duration::from_millis(20), reading).await.is_err());
    }
    holder.run("COMMIT").await;
    alive(until_reading(&store).await);
    let all = (0..20).map(|_| load(&store, "a"));
    for row in futures_util::future::join_all(all).await {
        alive(row);
    }
}

#[tokio::test]
async fn connections_that_swallow_everything_are_replaced() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    login(&owner, "a", "alice").await;
    let proxy = proxy(&schema).await;
    let store = impatient(&schema, &proxy.url(schema.url()));
    for _ in 0..4 {
        // All four connections are open: returning to the pool, or idle there.
        let all = (0..12).map(|_| until_reading(&store));
        futures_util::future::join_all(all).await;
        assert!(proxy.traffic().open > 0);
        let _hole = proxy.inject(Toxic::blackhole());
        let error = ends(store.load(&[token("a")])).await;
        if let Err(error) = error {
            // Its connection did not respond, or none was available.
            let unanswered = [StoreErrorKind::TimedOut, StoreErrorKind::Unreachable];
            assert!(unanswered.contains(&error.kind()), "{error:?}");
        }
        alive(until_reading(&store).await);
    }
    let all = (0..20).map(|_| until_reading(&store));
    for row in futures_util::future::join_all(all).await {
        alive(row);
    }
}

#[tokio::test]
async fn killed_idle_connections_fail_no_call() {
    let schema = Schema::new().await;
    let named = schema.named_url();
    let store = schema.store_at(&named);
    store.migrate().await.unwrap();
    login(&store, "a", "alice").await;
    login(&store, "b", "alice").await;
    let mut operator = schema.operator().await;
    let kill = format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
             WHERE application_name = '{}'",
        schema.name
    );
    for _ in 0..3 {
        let all = (0..8).map(|_| load(&store, "a"));
        futures_util::future::join_all(all).await;
        let killed: i64 = operator.ask(&kill).await;
        assert!(killed > 0);
        alive(load(&store, "a").await);
        let killed: i64 = operator.ask(&kill).await;
        assert!(killed > 0);
        let revoked = store.revoke(&Target::Token(token("b")), &"test".into()).await;
        assert_eq!(revoked.unwrap().found, 1);
    }
}

#[tokio::test]
async fn change_whose_reply_is_lost_is_uncertain() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    let proxy = proxy(&schema).await;
    let store = schema.builder_at(&proxy.url(schema.url())).max_connections(1).build().unwrap();
    let mut holder = schema.operator().await;
    let mut watcher = schema.operator().await;
    let pid = holder.pid().await;
    for (name, target, locked) in [
        ("a", Target::Token(token("a")), "sessions ORDER BY id"),
        ("b", of_user("alice"), "session_users"),
    ] {
        login(&owner, name, "alice").await;
        holder.run(&format!("BEGIN; SELECT FROM {locked} FOR UPDATE")).await;
        let revoking = {
            let (store, target) = (store.clone(), target.clone());
            tokio::spawn(async move { store.revoke(&target, &"test".into()).await })
        };
        watcher.until_waiting_for(pid).await;
        let lost = proxy.inject(Toxic::blackhole().to_client());
        holder.run("COMMIT").await;
        // It is committed, as another connection sees.
        until_ended(&owner, name).await;
        proxy.inject(Toxic::down().established()).heal();
        let error = revoking.await.unwrap().unwrap_err();
        is(StoreErrorKind::Uncertain, &error);
        drop(lost);
        assert!(matches!(load(&owner, name).await, Row::Revoked));
        // A second call is safe.
        let again = store.revoke(&target, &"test".into()).await.unwrap();
        assert_eq!(again.ended, 0);
        assert!(again.found > 0, "{again:?}");
    }
}

#[tokio::test]
async fn change_without_a_reply_in_time_is_uncertain() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    login(&owner, "a", "alice").await;
    // Without a statement_timeout, the deadline is the only limit.
    let pool = PgPool::connect(schema.url()).await.unwrap();
    let store = PostgresStore::from_pool(pool.clone()).schema(&schema.name);
    let store = store.change_deadline(CHANGE).build().unwrap();
    let mut holder = schema.operator().await;
    holder.run("BEGIN; SELECT FROM sessions FOR UPDATE").await;
    let error = ends(store.revoke(&Target::Token(token("a")), &"test".into())).await;
    is(StoreErrorKind::Uncertain, &error.unwrap_err());
    // A revoke-all does not wait for locked rows.
    let revoked = store.revoke(&of_user("alice"), &"test".into()).await.unwrap();
    assert_eq!(revoked.ended, 1);
    assert!(matches!(load(&owner, "a").await, Row::Revoked));
    holder.run("COMMIT").await;
    pool.close().await;
}

// Behind a pooler a change is a transaction, whose COMMIT was not sent.
#[tokio::test]
async fn pooled_change_without_a_reply_in_time_was_not_made() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    login(&owner, "a", "alice").await;
    let store = schema.builder().pooled(true).change_deadline(CHANGE).build().unwrap();
    let mut holder = schema.operator().await;
    holder.run("BEGIN; SELECT FROM sessions FOR UPDATE").await;
    let error = ends(store.revoke(&Target::Token(token("a")), &"test".into())).await;
    is(StoreErrorKind::TimedOut, &error.unwrap_err());
    holder.run("COMMIT").await;
    // The next change of the row waits until that transaction has ended.
    let changed = schema.run("UPDATE sessions SET label = 'after' WHERE revoked_at IS NULL").await;
    assert_eq!(changed, 1);
}

#[tokio::test]
async fn change_that_postgres_cancelled_was_not_made() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    login(&owner, "a", "alice").await;
    let store = impatient(&schema, schema.url());
    let mut holder = schema.operator().await;
    holder.run("BEGIN; SELECT FROM sessions FOR UPDATE").await;
    let error = store.revoke(&Target::Token(token("a")), &"test".into()).await;
    is(StoreErrorKind::TimedOut, &error.unwrap_err());
    holder.run("COMMIT").await;
    alive(load(&owner, "a").await);
}

#[tokio::test]
async fn read_ends_at_its_deadline() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    login(&owner, "a", "alice").await;
    let store = impatient(&schema, schema.url());
    alive(until_reading(&store).await);
    let mut holder = schema.operator().await;
    holder.run("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE").await;
    let error = ends(store.load(&[token("a")])).await.unwrap_err();
    is(StoreErrorKind::TimedOut, &error);
    holder.run("COMMIT").await;
}

#[tokio::test]
async fn store_without_a_server_names_the_reason_at_once() {
    // No server listens on this port any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://user@127.0.0.1:{port}/database");
    let store =
        PostgresStore::builder(&url).read_deadline(READ).change_deadline(CHANGE).build().unwrap();
    let error = store.load(&[token("a")]).await.unwrap_err();
    is(StoreErrorKind::Unreachable, &error);
    assert!(error.to_string().contains("the connection was refused"), "{error}");
    // A refused connection is reported at once and not at the deadline.
    let patient = PostgresStore::builder(&url)
        .read_deadline(2 * SOON)
        .change_deadline(2 * SOON)
        .build()
        .unwrap();
    for _ in 0..2 {
        let error = ends(patient.load(&[token("a")])).await.unwrap_err();
        assert!(
            error.to_string().starts_with("no connection to Postgres at 127.0.0.1:"),
            "{error}"
        );
        let (target, reason) = (Target::Token(token("a")), "test".into());
        let error = ends(patient.revoke(&target, &reason)).await.unwrap_err();
        is(StoreErrorKind::Unreachable, &error);
    }
    patient.close().await;
    let error = store.migrate().await.unwrap_err();
    is(StoreErrorKind::Unreachable, &error);
    assert!(error.to_string().contains("the connection was refused"), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("refused"), "{source}");
    store.close().await;
}

// PgBouncer with its defaults rejects a client that sends any other option.
#[tokio::test]
async fn pooled_store_sends_no_option_that_a_pooler_rejects() {
    use std::io::{Read as _, Write as _};
    let pooler = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = pooler.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut client, _) = pooler.accept().unwrap();
        // The length, the version of the protocol, then names and values.
        let mut head = [0; 8];
        client.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let mut words = vec![0; usize::try_from(length).unwrap() - head.len()];
        client.read_exact(&mut words).unwrap();
        let refusal = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter\0\0";
        let length = u32::try_from(refusal.len() + 4).unwrap().to_be_bytes();
        client.write_all(&[&b"E"[..], &length, refusal].concat()).unwrap();
        String::from_utf8(words).unwrap()
    });
    let url = format!("postgres://user@{address}/database?sslmode=disable");
    let store = PostgresStore::builder(&url).pooled(true).build().unwrap();
    let error = store.load(&[token("a")]).await.unwrap_err();
    is(StoreErrorKind::Denied, &error);
    assert!(error.to_string().contains("pooler"), "{error}");
    let asked = asked.join().unwrap();
    let names = asked.trim_end_matches('\0').split('\0').step_by(2).map(str::to_lowercase);
    for name in names {
        let known =
            ["user", "database", "client_encoding", "datestyle", "timezone", "application_name"];
        assert!(known.contains(&name.as_str()), "{name}");
    }
}

#[tokio::test]
async fn closed_store_names_the_reason() {
    let (_schema, store) = Schema::with_store().await;
    login(&store, "a", "alice").await;
    store.close().await;
    let error = store.load(&[token("a")]).await.unwrap_err();
    is(StoreErrorKind::Unreachable, &error);
    assert!(error.to_string().contains("closed"), "{error}");
}
