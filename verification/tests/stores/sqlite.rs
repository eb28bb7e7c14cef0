//! The store of `SQLite`: its file, and the process that has it open.

use std::path::PathBuf;

use session_layer::error::StoreErrorKind;
use session_layer::store::{Creation, RevocationNote, Row, SessionStore, SqliteStore, Target};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tempfile::TempDir;

use crate::stores::support::{alive, changed, load, login, new, of_user, token};

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("sessions.db")
}

/// Executes direct SQL in a file that no store has opened.
async fn run(folder: &TempDir, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(file(folder));
    let mut operator = options.connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut operator).await.unwrap();
    operator.close().await.unwrap();
}

#[tokio::test]
async fn sessions_outlive_the_process() {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(file(&folder)).await.unwrap();
    let id = store.load(&[]).await.unwrap().store_id;
    login(&store, "a", "alice").await;
    login(&store, "b", "alice").await;
    store.revoke(&Target::Token(token("b")), &"test".into()).await.unwrap();
    store.revoke(&of_user("bob"), &"test".into()).await.unwrap();
    store.close().await;
    let error = store.load(&[]).await.unwrap_err();
    assert!(error.to_string().contains("closed"));

    let store = SqliteStore::open(file(&folder)).await.unwrap();
    assert_eq!(store.load(&[]).await.unwrap().store_id, id);
    alive(load(&store, "a").await);
    assert!(matches!(load(&store, "b").await, Row::Revoked));
    // Bob's epoch was raised before the restart. It refuses no later login.
    login(&store, "c", "bob").await;
    store.close().await;
}

#[tokio::test]
async fn second_store_of_a_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(file(&folder)).await.unwrap();
    let refused = SqliteStore::open(file(&folder)).await.unwrap_err();
    let session_layer::ConfigError::Store(error) = refused else { panic!("{refused}") };
    assert_eq!(error.kind(), StoreErrorKind::Unreachable);
    assert!(error.to_string().contains("another process"), "{error}");
    login(&store, "a", "alice").await;
    store.close().await;
    SqliteStore::open(file(&folder)).await.unwrap();
}

#[tokio::test]
async fn missing_folder_and_other_file_are_errors() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("missing").join("sessions.db");
    let error = SqliteStore::open(missing).await.unwrap_err();
    assert!(error.to_string().contains("folder"), "{error}");
    std::fs::write(file(&folder), "not a database ".repeat(100)).unwrap();
    let error = SqliteStore::open(file(&folder)).await.unwrap_err();
    assert!(error.to_string().contains("no SQLite file"), "{error}");
}

#[tokio::test]
async fn direct_sql_is_in_the_journal() {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(file(&folder)).await.unwrap();
    for name in ["a", "b", "c", "d"] {
        login(&store, name, "alice").await;
    }
    store.close().await;
    run(
        &folder,
        "UPDATE sessions SET last_seen_at = last_seen_at + 1;
         UPDATE sessions SET revoked_at = 1 WHERE rowid = 1;
         UPDATE sessions SET data = '7', version = -5 WHERE rowid = 2;
         UPDATE sessions SET expires_at = 0 WHERE rowid = 3;
         DELETE FROM sessions WHERE rowid IN (1, 3, 4)",
    )
    .await;

    let store = SqliteStore::open(file(&folder)).await.unwrap();
    assert_eq!(alive(load(&store, "b").await).version(), 2);
    let rows = store.journal_since(None).await.unwrap().rows;
    let versions: Vec<_> =
        rows.iter().map(changed).map(|(_, digests, least)| (digests, least)).collect();
    assert_eq!(
        versions,
        [
            (vec![token("a")], None),
            (vec![token("b")], Some(2)),
            (vec![token("c")], Some(2)),
            (vec![token("d")], None),
        ]
    );
}

#[tokio::test]
async fn unreadable_row_affects_only_its_session() {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(file(&folder)).await.unwrap();
    let names = ["a", "b", "c", "d"];
    for name in names {
        login(&store, name, "alice").await;
    }
    store.close().await;
    run(
        &folder,
        "UPDATE sessions SET data = json_quote(hex(zeroblob(40000))) WHERE rowid IN (1, 3);
         UPDATE sessions SET revoked_at = 1 WHERE rowid = 3;
         UPDATE sessions SET expires_at = 'soon' WHERE rowid = 2",
    )
    .await;

    let store = SqliteStore::open(file(&folder)).await.unwrap();
    let rows = store.load(&names.map(token)).await.unwrap().rows;
    assert!(matches!(
        rows[..],
        [Row::Unreadable(_), Row::Unreadable(_), Row::Revoked, Row::Alive { .. }]
    ));
    let one = store.revoke(&Target::Token(token("a")), &"test".into()).await;
    assert_eq!(one.unwrap().ended, 1);
    assert!(matches!(load(&store, "a").await, Row::Revoked));
}

#[tokio::test]
async fn login_beside_a_revoke_all_is_refused_or_ended() {
    let store = SqliteStore::open(":memory:").await.unwrap();
    login(&store, "old", "alice").await;
    // The store serializes both calls. The second knows of the first.
    for round in 0..50 {
        let name = format!("a{round}");
        let (asked, all, note) = (new("alice"), of_user("alice"), "test".into());
        let (created, _) =
            futures_util::join!(store.create(token(&name), &asked), store.revoke(&all, &note),);
        match created.unwrap() {
            Creation::Created(_) => assert!(matches!(load(&store, &name).await, Row::Revoked)),
            Creation::Superseded => assert!(matches!(load(&store, &name).await, Row::Absent)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn cancelled_call_leaves_no_transaction_open() {
    let store = SqliteStore::open(":memory:").await.unwrap();
    for round in 0..50 {
        let name = format!("a{round}");
        let asked = new("alice");
        let creating = store.create(token(&name), &asked);
        let _ = tokio::time::timeout(std::time::Duration::from_micros(50), creating).await;
    }
    login(&store, "b", "alice").await;
    let revoked = store.revoke(&of_user("alice"), &"test".into()).await.unwrap();
    assert!(revoked.ended >= 1);
}

#[tokio::test]
async fn erasure_deletes_ended_sessions_of_the_user_alone() {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(file(&folder)).await.unwrap();
    for (name, user) in [("a", "alice"), ("b", "alice"), ("c", "bob")] {
        login(&store, name, user).await;
    }
    let note = RevocationNote::new("left").by("ops");
    assert_eq!(store.revoke(&of_user("alice"), &note).await.unwrap().ended, 2);
    login(&store, "d", "alice").await;
    store.close().await;
    let options = SqliteConnectOptions::new().filename(file(&folder));
    let mut operator = options.connect().await.unwrap();
    let ended = "SELECT count(*) FROM sessions WHERE ended_by = 'ops' AND ended_reason = 'left'";
    let ended: i64 = sqlx::query_scalar(ended).fetch_one(&mut operator).await.unwrap();
    assert_eq!(ended, 2);
    operator.close().await.unwrap();

    let store = SqliteStore::open(file(&folder)).await.unwrap();
    for erased in [1, 1, 0] {
        assert_eq!(store.erase_sessions("alice", 1).await.unwrap(), erased);
    }
    assert!(matches!(load(&store, "a").await, Row::Absent));
    alive(load(&store, "c").await);
    alive(load(&store, "d").await);
    store.close().await;
}
