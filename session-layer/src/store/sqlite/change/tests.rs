use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::*;
use crate::model::session::NewSession;

/// The user of all sessions.
const USER: &str = "alice";

fn login(begun: Option<&LoginSnapshot>) -> ValidatedSession {
    let mut new = NewSession::new(USER).check().unwrap();
    new.begun = begun.cloned();
    new
}

async fn created(store: &SqliteStore, token: &str, begun: Option<&LoginSnapshot>) -> bool {
    let creation = store.create_now(TokenDigest::of(token), login(begun)).await;
    match creation.unwrap() {
        Creation::Created(_) => true,
        Creation::Superseded => false,
        Creation::AlreadyExists => panic!("{token} is taken"),
    }
}

async fn revoke_all(store: &SqliteStore) -> Revoked {
    let target = Target::User { user_id: USER.to_owned(), keep: None };
    store.revoke_target(target, "test".into()).await.unwrap()
}

/// Does the work of a revoke-all in its transaction, up to the commit.
async fn raised(turn: ConnectionTurn<'_>) -> Result<&mut SqliteConnection, sqlx::Error> {
    let ConnectionTurn { connection, now, mut raises } = turn;
    raise(connection, USER.to_owned(), raises.next(), None, now).await?;
    Ok(connection)
}

#[tokio::test]
async fn login_begun_before_a_revoke_all_commits_is_rejected() {
    let store = SqliteStore::open(":memory:").await.unwrap();
    let (raising, is_raised) = oneshot::channel();
    let (commit, committing) = oneshot::channel::<()>();
    let turns = store.connection.clone();
    let revoke_all = tokio::spawn(async move {
        turns
            .change(move |turn| {
                Box::pin(async move {
                    raised(turn).await?;
                    let _ = raising.send(());
                    let _ = committing.await;
                    Ok(())
                })
            })
            .await
    });
    is_raised.await.unwrap();
    let during = store.read_login_snapshot().unwrap();
    let mut at_once = std::pin::pin!(created(&store, "at once", None));
    // It has begun, and waits for the connection.
    assert_eq!(at_once.as_mut().now_or_never(), None);
    commit.send(()).unwrap();
    revoke_all.await.unwrap().unwrap();
    let after = store.read_login_snapshot().unwrap();
    assert!(!at_once.await);
    assert!(!created(&store, "during", Some(&during)).await);
    assert!(created(&store, "after", Some(&after)).await);
}

#[tokio::test]
async fn repeated_revoke_all_rejects_earlier_logins_each_time() {
    let store = SqliteStore::open(":memory:").await.unwrap();
    for round in 0..3 {
        let before = store.read_login_snapshot().unwrap();
        revoke_all(&store).await;
        let after = store.read_login_snapshot().unwrap();
        assert!(!created(&store, &format!("before {round}"), Some(&before)).await);
        assert!(created(&store, &format!("after {round}"), Some(&after)).await);
        assert_eq!(revoke_all(&store).await.ended, 1);
        assert!(!created(&store, &format!("late {round}"), Some(&after)).await);
    }
}

#[tokio::test]
async fn failed_revoke_all_rejects_no_login() {
    let store = SqliteStore::open(":memory:").await.unwrap();
    let before = store.read_login_snapshot().unwrap();
    let failed = store.connection.change(|turn| {
        Box::pin(async move {
            raised(turn).await?;
            Err::<(), _>(sqlx::Error::RowNotFound)
        })
    });
    assert!(failed.await.is_err());
    // A foreign key without a target, which is checked at the commit.
    let failed = store.connection.change(|turn| {
        Box::pin(async move {
            let connection = raised(turn).await?;
            let sql = "CREATE TABLE a (id INTEGER PRIMARY KEY); \
                       CREATE TABLE b (a INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED); \
                       INSERT INTO b VALUES (1)";
            sqlx::raw_sql(sql).execute(connection).await?;
            Ok(())
        })
    });
    assert!(failed.await.is_err());
    assert!(created(&store, "before", Some(&before)).await);
    assert_eq!(revoke_all(&store).await.ended, 1);
    assert!(!created(&store, "late", Some(&before)).await);
}
