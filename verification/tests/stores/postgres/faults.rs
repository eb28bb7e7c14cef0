//! Connections that die, hang, or are not to be had.

use std::time::{Duration, Instant};

use session_layer::error::{StoreError, StoreErrorKind};
use session_layer::store::{PostgresStore, Row, SessionStore, Target};

use super::proxy::Proxy;
use super::support::{Schema, in_schema, url};
use crate::stores::support::{alive, load, login, of_user, token};

/// Deadlines short enough to be waited for.
const READ: Duration = Duration::from_millis(300);
const CHANGE: Duration = Duration::from_millis(800);

fn impatient(schema: &Schema, url: &str) -> PostgresStore {
    schema.builder_at(url).read_deadline(READ).change_deadline(CHANGE).build().unwrap()
}

/// Waits until a read succeeds again; at most 5 s.
async fn until_reading(store: &PostgresStore) -> Row {
    let began = Instant::now();
    loop {
        match store.load(&[token("a")]).await {
            Ok(mut loaded) => return loaded.rows.remove(0),
            Err(error) if began.elapsed() > Duration::from_secs(5) => panic!("{error:?}"),
            Err(_) => {}
        }
    }
}

#[track_caller]
fn is(kind: StoreErrorKind, error: &StoreError) {
    assert_eq!(error.kind(), kind, "{error:?}");
}

#[tokio::test]
async fn reads_dropped_half_way_leave_the_pool_whole() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        login(&store, "a", "alice").await;
        let mut holder = schema.person().await;
        holder.run("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE").await;
        for _ in 0..50 {
            let digests = [token("a")];
            let reading = store.load(&digests);
            assert!(tokio::time::timeout(Duration::from_millis(20), reading).await.is_err());
        }
        holder.run("COMMIT").await;
        let began = Instant::now();
        alive(until_reading(&store).await);
        assert!(began.elapsed() < Duration::from_secs(1));
        let all = (0..20).map(|_| load(&store, "a"));
        for row in futures_util::future::join_all(all).await {
            alive(row);
        }
    })
    .await;
}

#[tokio::test]
async fn established_connections_that_swallow_everything_are_replaced() {
    in_schema(|schema| async move {
        let owner = schema.store().await;
        login(&owner, "a", "alice").await;
        let proxy = Proxy::to(&url());
        let store = impatient(&schema, &proxy.url(&url()));
        for round in 0..4 {
            // All four connections are open: on their way back to the pool, or idle there.
            let all = (0..12).map(|_| until_reading(&store));
            futures_util::future::join_all(all).await;
            assert!(proxy.connections() > 0);
            if round % 2 == 1 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            proxy.swallow_established();
            let began = Instant::now();
            let error = store.load(&[token("a")]).await;
            if let Err(error) = error {
                // Its connection did not answer, or none could be had: others are on their way
                // back.
                let unanswered = [StoreErrorKind::TimedOut, StoreErrorKind::Unreachable];
                assert!(unanswered.contains(&error.kind()), "{error:?}");
            }
            assert!(began.elapsed() < READ + Duration::from_secs(1));
            alive(until_reading(&store).await);
            // Each of the four costs one deadline at most; nothing stays lost.
            assert!(began.elapsed() < Duration::from_secs(4), "round {round}");
        }
        let all = (0..20).map(|_| until_reading(&store));
        for row in futures_util::future::join_all(all).await {
            alive(row);
        }
    })
    .await;
}

#[tokio::test]
async fn killed_idle_connections_are_not_noticed() {
    in_schema(|schema| async move {
        let mark = if url().contains('?') { '&' } else { '?' };
        let named = format!("{}{mark}application_name={}", url(), schema.name);
        let store = schema.builder_at(&named).build().unwrap();
        store.migrate().await.unwrap();
        login(&store, "a", "alice").await;
        login(&store, "b", "alice").await;
        let mut person = schema.person().await;
        let kill = format!(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
             WHERE application_name = '{}'",
            schema.name
        );
        for _ in 0..3 {
            let all = (0..8).map(|_| load(&store, "a"));
            futures_util::future::join_all(all).await;
            let killed: i64 = person.ask(&kill).await;
            assert!(killed > 0);
            alive(load(&store, "a").await);
            let killed: i64 = person.ask(&kill).await;
            assert!(killed > 0);
            let revoked = store.revoke(&Target::Token(token("b")), "test").await;
            assert_eq!(revoked.unwrap().found, 1);
        }
    })
    .await;
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_uncertain() {
    in_schema(|schema| async move {
        let owner = schema.store().await;
        let proxy = Proxy::to(&url());
        let store = schema.builder_at(&proxy.url(&url())).max_connections(1).build().unwrap();
        let mut holder = schema.person().await;
        let mut watcher = schema.person().await;
        let pid = holder.pid().await;
        for (name, target, locked) in [
            ("a", Target::Token(token("a")), "sessions ORDER BY id"),
            ("b", of_user("alice"), "session_users"),
        ] {
            login(&owner, name, "alice").await;
            holder.run(&format!("BEGIN; SELECT FROM {locked} FOR UPDATE")).await;
            let revoking = {
                let (store, target) = (store.clone(), target.clone());
                tokio::spawn(async move { store.revoke(&target, "test").await })
            };
            watcher.until_waiting_for(pid).await;
            proxy.swallow_answers();
            holder.run("COMMIT").await;
            // It is committed: whoever asks elsewhere sees it.
            crate::stores::support::until_over(&owner, name).await;
            proxy.cut();
            let error = revoking.await.unwrap().unwrap_err();
            is(StoreErrorKind::Uncertain, &error);
            assert!(matches!(load(&owner, name).await, Row::Revoked));
            // Asking again is safe, and says so.
            let again = store.revoke(&target, "test").await.unwrap();
            assert_eq!(again.ended, 0);
            assert!(again.found > 0, "{again:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_change_without_an_answer_in_time_is_uncertain() {
    in_schema(|schema| async move {
        let owner = schema.store().await;
        login(&owner, "a", "alice").await;
        // No statement_timeout here, so that ours is the only limit.
        let store = schema.builder().pooled(true).change_deadline(CHANGE).build().unwrap();
        let mut holder = schema.person().await;
        holder.run("BEGIN; SELECT FROM sessions FOR UPDATE").await;
        let began = Instant::now();
        let error = store.revoke(&Target::Token(token("a")), "test").await;
        is(StoreErrorKind::Uncertain, &error.unwrap_err());
        assert!(began.elapsed() < CHANGE + Duration::from_secs(1));
        // All of a user's sessions end whatever locks their rows.
        let revoked = store.revoke(&of_user("alice"), "test").await.unwrap();
        assert_eq!(revoked.ended, 1);
        assert!(matches!(load(&owner, "a").await, Row::Revoked));
        holder.run("COMMIT").await;
    })
    .await;
}

#[tokio::test]
async fn a_change_that_postgres_gave_up_is_certain() {
    in_schema(|schema| async move {
        let owner = schema.store().await;
        login(&owner, "a", "alice").await;
        let store = impatient(&schema, &url());
        let mut holder = schema.person().await;
        holder.run("BEGIN; SELECT FROM sessions FOR UPDATE").await;
        let error = store.revoke(&Target::Token(token("a")), "test").await;
        is(StoreErrorKind::TimedOut, &error.unwrap_err());
        holder.run("COMMIT").await;
        alive(load(&owner, "a").await);
    })
    .await;
}

#[tokio::test]
async fn a_read_ends_at_its_deadline() {
    in_schema(|schema| async move {
        let owner = schema.store().await;
        login(&owner, "a", "alice").await;
        let store = impatient(&schema, &url());
        alive(until_reading(&store).await);
        let mut holder = schema.person().await;
        holder.run("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE").await;
        let began = Instant::now();
        let error = store.load(&[token("a")]).await.unwrap_err();
        is(StoreErrorKind::TimedOut, &error);
        assert!(began.elapsed() < READ + Duration::from_secs(1));
        holder.run("COMMIT").await;
    })
    .await;
}

#[tokio::test]
async fn without_a_server_the_store_is_built_and_says_what_is_wrong() {
    // A port that nobody listens on: it was ours a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://nobody@127.0.0.1:{port}/nothing");
    let store =
        PostgresStore::builder(&url).read_deadline(READ).change_deadline(CHANGE).build().unwrap();
    let began = Instant::now();
    let error = store.load(&[token("a")]).await.unwrap_err();
    is(StoreErrorKind::Unreachable, &error);
    assert!(error.to_string().contains("it is running"), "{error}");
    assert!(began.elapsed() < READ + Duration::from_secs(1));
    // Not at the deadline, and with the reason: nobody waits for a server that refuses.
    let patient = PostgresStore::builder(&url)
        .read_deadline(Duration::from_secs(60))
        .change_deadline(Duration::from_secs(60))
        .build()
        .unwrap();
    for _ in 0..2 {
        let error = patient.load(&[token("a")]).await.unwrap_err();
        assert!(error.to_string().starts_with("no connection to Postgres: "), "{error}");
        let error = patient.revoke(&Target::Token(token("a")), "test").await.unwrap_err();
        is(StoreErrorKind::Unreachable, &error);
    }
    patient.close().await;
    let error = store.migrate().await.unwrap_err();
    is(StoreErrorKind::Unreachable, &error);
    assert!(error.to_string().contains("it is running"), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("refused"), "{source}");
    store.close().await;
}

#[tokio::test]
async fn it_works_without_prepared_statements() {
    in_schema(|schema| async move {
        schema.store().await;
        let store = schema.builder().pooled(true).build().unwrap();
        store.migrate().await.unwrap();
        for name in ["a", "b", "c"] {
            login(&store, name, "alice").await;
            alive(load(&store, name).await);
        }
        let revoked = store.revoke(&of_user("alice"), "test").await.unwrap();
        assert_eq!(revoked.ended, 3);
    })
    .await;
}

/// PgBouncer as it is installed refuses a client that sends any other option.
#[tokio::test]
async fn a_pooled_store_sends_no_option_that_a_pooler_refuses() {
    use std::io::{Read as _, Write as _};
    let pooler = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = pooler.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut client, _) = pooler.accept().unwrap();
        // Its length, the version of the protocol, then names and values.
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
    let url = format!("postgres://somebody@{address}/something?sslmode=disable");
    let store = PostgresStore::builder(&url).pooled(true).build().unwrap();
    let error = store.load(&[token("a")]).await.unwrap_err();
    is(StoreErrorKind::Unreachable, &error);
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
async fn a_closed_store_says_so() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        login(&store, "a", "alice").await;
        store.close().await;
        let error = store.load(&[token("a")]).await.unwrap_err();
        is(StoreErrorKind::Unreachable, &error);
        assert!(error.to_string().contains("closed"), "{error}");
    })
    .await;
}
