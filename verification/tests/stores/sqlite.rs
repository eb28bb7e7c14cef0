//! What is `SQLite`'s own: the file, and who has it.

use session_layer::error::StoreErrorKind;
use session_layer::store::{Creation, Row, SessionStore, SqliteStore, Target};

use crate::stores::support::{alive, changed, load, login, new, of_user, token};

/// A folder that is gone with the test.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("stores-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.join("sessions.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn sessions_outlive_the_process() {
    let folder = Folder::new("outlive");
    let store = SqliteStore::open(folder.file()).await.unwrap();
    let id = store.load(&[]).await.unwrap().store_id;
    login(&store, "a", "alice").await;
    login(&store, "b", "alice").await;
    store.revoke(&Target::Token(token("b")), "test").await.unwrap();
    store.revoke(&of_user("bob"), "test").await.unwrap();
    store.close().await;
    let error = store.load(&[]).await.unwrap_err();
    assert!(error.to_string().contains("closed"));

    let store = SqliteStore::open(folder.file()).await.unwrap();
    assert_eq!(store.load(&[]).await.unwrap().store_id, id);
    alive(load(&store, "a").await);
    assert!(matches!(load(&store, "b").await, Row::Revoked));
    // Bob's epoch was raised by the process before: no login of this one is refused for it.
    login(&store, "c", "bob").await;
    store.close().await;
}

#[tokio::test]
async fn two_at_one_file_are_refused() {
    let folder = Folder::new("refused");
    let store = SqliteStore::open(folder.file()).await.unwrap();
    let refused = SqliteStore::open(folder.file()).await.unwrap_err();
    let session_layer::ConfigError::Store(error) = refused else { panic!("{refused}") };
    assert_eq!(error.kind(), StoreErrorKind::Unreachable);
    assert!(error.to_string().contains("another process"), "{error}");
    login(&store, "a", "alice").await;
    store.close().await;
    SqliteStore::open(folder.file()).await.unwrap();
}

#[tokio::test]
async fn what_is_no_file_of_ours_is_an_error() {
    let folder = Folder::new("errors");
    let missing = folder.0.join("missing").join("sessions.db");
    let error = SqliteStore::open(missing).await.unwrap_err();
    assert!(error.to_string().contains("folder"), "{error}");
    std::fs::write(folder.file(), "This is a letter to nobody. ".repeat(100)).unwrap();
    let error = SqliteStore::open(folder.file()).await.unwrap_err();
    assert!(error.to_string().contains("no SQLite file"), "{error}");
}

#[tokio::test]
async fn plain_sql_counts_as_well() {
    use sqlx::{ConnectOptions as _, Connection as _};

    let folder = Folder::new("sql");
    let store = SqliteStore::open(folder.file()).await.unwrap();
    for name in ["a", "b", "c", "d"] {
        login(&store, name, "alice").await;
    }
    store.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.file());
    let mut person = options.connect().await.unwrap();
    sqlx::raw_sql(
        "UPDATE sessions SET last_seen_at = last_seen_at + 1;
         UPDATE sessions SET revoked_at = 1 WHERE rowid = 1;
         UPDATE sessions SET data = '7', version = -5 WHERE rowid = 2;
         UPDATE sessions SET expires_at = 0 WHERE rowid = 3;
         DELETE FROM sessions WHERE rowid IN (1, 3, 4)",
    )
    .execute(&mut person)
    .await
    .unwrap();
    person.close().await.unwrap();

    let store = SqliteStore::open(folder.file()).await.unwrap();
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
async fn a_row_that_cannot_be_read_is_unavailable_alone() {
    use sqlx::{ConnectOptions as _, Connection as _};

    let folder = Folder::new("odd");
    let store = SqliteStore::open(folder.file()).await.unwrap();
    let names = ["a", "b", "c", "d"];
    for name in names {
        login(&store, name, "alice").await;
    }
    store.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.file());
    let mut person = options.connect().await.unwrap();
    sqlx::raw_sql(
        "UPDATE sessions SET data = json_quote(hex(zeroblob(40000))) WHERE rowid IN (1, 3);
         UPDATE sessions SET revoked_at = 1 WHERE rowid = 3;
         UPDATE sessions SET expires_at = 'soon' WHERE rowid = 2",
    )
    .execute(&mut person)
    .await
    .unwrap();
    person.close().await.unwrap();

    let store = SqliteStore::open(folder.file()).await.unwrap();
    let rows = store.load(&names.map(token)).await.unwrap().rows;
    assert!(matches!(
        rows[..],
        [Row::Unreadable(_), Row::Unreadable(_), Row::Revoked, Row::Alive { .. }]
    ));
    let one = store.revoke(&Target::Token(token("a")), "test").await;
    assert_eq!(one.unwrap().ended, 1);
    assert!(matches!(load(&store, "a").await, Row::Revoked));
}

#[tokio::test]
async fn a_login_under_way_is_refused_by_a_revoke_all() {
    let store = SqliteStore::open(":memory:").await.unwrap();
    login(&store, "old", "alice").await;
    // Both are asked at once, and take turns: whichever comes second knows of the first.
    for round in 0..50 {
        let name = format!("a{round}");
        let (asked, all) = (new("alice"), of_user("alice"));
        let (created, _) =
            futures_util::join!(store.create(token(&name), &asked), store.revoke(&all, "test"),);
        match created.unwrap() {
            Creation::Created(_) => assert!(matches!(load(&store, &name).await, Row::Revoked)),
            Creation::Superseded => assert!(matches!(load(&store, &name).await, Row::Absent)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_nothing_open() {
    let store = SqliteStore::open(":memory:").await.unwrap();
    for round in 0..50 {
        let name = format!("a{round}");
        let asked = new("alice");
        let creating = store.create(token(&name), &asked);
        let _ = tokio::time::timeout(std::time::Duration::from_micros(50), creating).await;
    }
    login(&store, "b", "alice").await;
    let revoked = store.revoke(&of_user("alice"), "test").await.unwrap();
    assert!(revoked.ended >= 1);
}
