use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::*;
use crate::session::NewSession;

/// Whose sessions these are.
const USER: &str = "alice";

fn login(begun: Option<&LoginMoment>) -> CheckedSession {
    let mut new = NewSession::new(USER).check().unwrap();
    new.begun = begun.cloned();
    new
}

async fn created(store: &SqliteStore, token: &str, begun: Option<&LoginMoment>) -> bool {
    let creation = store.create_now(TokenDigest::of(token), login(begun)).await;
    match creation.unwrap() {
        Creation::Created(_) => true,
        Creation::Superseded => false,
        Creation::Taken => panic!("{token} is taken"),
    }
}

async fn revoke_all(store: &SqliteStore) -> Revoked {
    let target = Target::User {
        user_id: USER.to_owned(),
        keep: None,
    };
    store.revoke_target(target, String::new()).await.unwrap()
}

/// What a revoke-all does in its transaction, up to the commit.
async fn raised(turn: Turn<'_>) -> Result<&mut SqliteConnection, sqlx::Error> {
    let Turn {
        connection,
        now,
        mut raises,
    } = turn;
    raise(connection, USER.to_owned(), raises.next(), None, now).await?;
    Ok(connection)
}

#[tokio::test]
async fn a_login_begun_while_a_revoke_all_is_not_committed_is_refused() {
    let store = SqliteStore::open(":memory:").await.unwrap();
    let (raising, is_raised) = oneshot::channel();
    let (commit, committing) = oneshot::channel::<()>();
    let turns = store.turns.clone();
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
    let during = store.moment().unwrap();
    let mut at_once = std::pin::pin!(created(&store, "at once", None));
    // It has begun, and waits for its turn.
    assert_eq!(at_once.as_mut().now_or_never(), None);
    commit.send(()).unwrap();
    revoke_all.await.unwrap().unwrap();
    let after = store.moment().unwrap();
    assert!(!at_once.await);
    assert!(!created(&store, "during", Some(&during)).await);
    assert!(created(&store, "after", Some(&after)).await);
}

#[tokio::test]
async fn of_several_revoke_alls_each_counts() {
    let store = SqliteStore::open(":memory:").await.unwrap();
    for round in 0..3 {
        let before = store.moment().unwrap();
        revoke_all(&store).await;
        let after = store.moment().unwrap();
        assert!(!created(&store, &format!("before {round}"), Some(&before)).await);
        assert!(created(&store, &format!("after {round}"), Some(&after)).await);
        assert_eq!(revoke_all(&store).await.ended, 1);
        assert!(!created(&store, &format!("late {round}"), Some(&after)).await);
    }
}

#[tokio::test]
async fn a_revoke_all_that_fails_keeps_no_login_out() {
    let store = SqliteStore::open(":memory:").await.unwrap();
    let before = store.moment().unwrap();
    let failed = store.turns.change(|turn| {
        Box::pin(async move {
            raised(turn).await?;
            Err::<(), _>(sqlx::Error::RowNotFound)
        })
    });
    assert!(failed.await.is_err());
    // A foreign key that is looked at with the commit, and leads nowhere.
    let failed = store.turns.change(|turn| {
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
