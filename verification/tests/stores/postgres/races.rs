//! Two at once, forced into every order by a transaction that is held open.

use std::sync::Arc;
use std::time::Duration;

use session_layer::store::{Change, Creation, PostgresStore, Row, SessionStore, Target};

use super::support::{Person, Schema, in_schema};
use crate::stores::support::{alive, changed, load, login, made, new, of_user, token};

/// A store, and two people: one who holds a transaction open, one who looks on.
async fn cast(schema: &Schema) -> (PostgresStore, Person, Person) {
    (schema.store().await, schema.person().await, schema.person().await)
}

async fn log_in(store: PostgresStore) -> Creation {
    store.create(token("new"), &new("alice")).await.unwrap()
}

#[tokio::test]
async fn a_login_waits_for_a_revoke_all_and_is_refused() {
    in_schema(|schema| async move {
        let (store, mut holder, mut watcher) = cast(&schema).await;
        login(&store, "old", "alice").await;
        let pid = holder.pid().await;
        holder
            .run("BEGIN; UPDATE session_users SET epoch = epoch + 1 WHERE user_id = 'alice'")
            .await;
        let login = tokio::spawn(log_in(store.clone()));
        watcher.until_waiting_for(pid).await;
        holder.run("COMMIT").await;
        assert!(matches!(login.await.unwrap(), Creation::Superseded));
        assert!(matches!(load(&store, "new").await, Row::Absent));
        // The next one begins after it.
        assert!(matches!(log_in(store).await, Creation::Created(_)));
    })
    .await;
}

/// The second rotation within a grace takes the first token out of the row's two columns; a copy
/// under it may still be there. Found by the model (T1b): the revocation said `Propagated` and left
/// that copy.
#[tokio::test]
async fn a_revocation_names_every_token_the_session_had() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let session = login(&store, "0", "alice").await;
        let grace = Duration::from_secs(60);
        for (old, new) in [("0", "1"), ("1", "2"), ("2", "3")] {
            made(store.rotate(token(old), token(new), grace).await.unwrap());
        }
        let mut all = ["0", "1", "2", "3"].map(token).to_vec();
        all.sort();
        let target = Target::Id(session.id());
        let mut known = store.digests(&target).await.unwrap();
        known.sort();
        assert_eq!(known, all);
        let mut ended = store.revoke(&target, "test").await.unwrap().digests;
        ended.sort();
        assert_eq!(ended, all);
    })
    .await;
}

/// Found by a fault run: it was answered as a session that had been ended.
#[tokio::test]
async fn a_revoke_that_waits_for_a_rotation_ends_nothing_under_the_old_token() {
    in_schema(|schema| async move {
        let (store, mut holder, mut watcher) = cast(&schema).await;
        login(&store, "old", "alice").await;
        let pid = holder.pid().await;
        holder
            .run(
                "BEGIN; UPDATE sessions SET token_digest = sha256('new') WHERE token_digest = \
                  sha256('old')",
            )
            .await;
        let revoke = tokio::spawn({
            let store = store.clone();
            async move { store.revoke(&Target::Token(token("old")), "test").await }
        });
        watcher.until_waiting_for(pid).await;
        holder.run("COMMIT").await;
        let revoked = revoke.await.unwrap().unwrap();
        assert_eq!((revoked.found, revoked.ended), (0, 0));
        alive(load(&store, "new").await);
    })
    .await;
}

#[tokio::test]
async fn a_revoke_that_waits_for_another_finds_what_that_one_ended() {
    in_schema(|schema| async move {
        let (store, mut holder, mut watcher) = cast(&schema).await;
        login(&store, "old", "alice").await;
        let pid = holder.pid().await;
        holder.run("BEGIN; UPDATE sessions SET revoked_at = now()").await;
        let revoke = tokio::spawn({
            let store = store.clone();
            async move { store.revoke(&Target::Token(token("old")), "test").await }
        });
        watcher.until_waiting_for(pid).await;
        holder.run("COMMIT").await;
        let revoked = revoke.await.unwrap().unwrap();
        assert_eq!((revoked.found, revoked.ended), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn a_login_is_not_refused_for_a_revoke_all_that_was_rolled_back() {
    in_schema(|schema| async move {
        let (store, mut holder, mut watcher) = cast(&schema).await;
        login(&store, "old", "alice").await;
        let pid = holder.pid().await;
        holder
            .run("BEGIN; UPDATE session_users SET epoch = epoch + 1 WHERE user_id = 'alice'")
            .await;
        let login = tokio::spawn(log_in(store.clone()));
        watcher.until_waiting_for(pid).await;
        holder.run("ROLLBACK").await;
        assert!(matches!(login.await.unwrap(), Creation::Created(_)));
        alive(load(&store, "new").await);
    })
    .await;
}

#[tokio::test]
async fn the_first_login_of_all_waits_for_a_revoke_all_too() {
    in_schema(|schema| async move {
        let (store, mut holder, mut watcher) = cast(&schema).await;
        let pid = holder.pid().await;
        holder.run("BEGIN; INSERT INTO session_users (user_id, epoch) VALUES ('alice', 1)").await;
        let login = tokio::spawn(log_in(store.clone()));
        watcher.until_waiting_for(pid).await;
        holder.run("COMMIT").await;
        assert!(matches!(login.await.unwrap(), Creation::Superseded));
    })
    .await;
}

#[tokio::test]
async fn a_revoke_all_waits_for_a_login_and_ends_it() {
    in_schema(|schema| async move {
        let (store, mut holder, mut watcher) = cast(&schema).await;
        login(&store, "old", "alice").await;
        let pid = holder.pid().await;
        // What create does, held open before its commit.
        holder
            .run(
                "BEGIN; SELECT FROM session_users WHERE user_id = 'alice' FOR SHARE;
                 INSERT INTO sessions (token_digest, user_id, expires_at)
                 VALUES (sha256('new'), 'alice', now() + interval '1 day')",
            )
            .await;
        let revoking = {
            let store = store.clone();
            tokio::spawn(async move { store.revoke(&of_user("alice"), "test").await.unwrap() })
        };
        watcher.until_waiting_for(pid).await;
        holder.run("COMMIT").await;
        let revoked = revoking.await.unwrap();
        assert_eq!((revoked.ended, revoked.found), (2, 2));
        assert!(matches!(load(&store, "new").await, Row::Revoked));
    })
    .await;
}

/// Two clicks on "log me out everywhere else".
#[tokio::test]
async fn two_revoke_alls_at_once_that_spare_a_session_both_spare_it() {
    in_schema(|schema| async move {
        let (store, mut holder, mut watcher) = cast(&schema).await;
        let kept = login(&store, "kept", "alice").await;
        login(&store, "other", "alice").await;
        let pid = holder.pid().await;
        holder.run("BEGIN; SELECT FROM session_users WHERE user_id = 'alice' FOR UPDATE").await;
        let target = Target::User { user_id: "alice".to_owned(), keep: Some(kept.id()) };
        let revoking: Vec<_> = (0..2)
            .map(|_| {
                let (store, target) = (store.clone(), target.clone());
                tokio::spawn(async move { store.revoke(&target, "test").await.unwrap() })
            })
            .collect();
        watcher.until_waiting_for(pid).await;
        holder.run("COMMIT").await;
        for revoking in revoking {
            revoking.await.unwrap();
        }
        alive(load(&store, "kept").await);
        assert!(matches!(load(&store, "other").await, Row::Revoked));
    })
    .await;
}

#[tokio::test]
async fn of_many_rotations_at_once_one_is_made() {
    in_schema(|schema| async move {
        let store = Arc::new(schema.store().await);
        for round in 0..10 {
            let name = format!("a{round}");
            login(&*store, &name, "alice").await;
            let rotations = (0..8).map(|n| {
                let (store, name) = (Arc::clone(&store), name.clone());
                tokio::spawn(async move {
                    let new = token(&format!("{name} {n}"));
                    store.rotate(token(&name), new, Duration::ZERO).await
                })
            });
            let (mut made, mut conflicts) = (0, 0);
            for rotation in futures_util::future::join_all(rotations).await {
                match rotation.unwrap().unwrap() {
                    Change::Made { .. } => made += 1,
                    Change::Conflict => conflicts += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((made, conflicts), (1, 7));
        }
    })
    .await;
}

#[tokio::test]
async fn an_update_that_waited_for_another_is_a_conflict() {
    in_schema(|schema| async move {
        let (store, mut holder, mut watcher) = cast(&schema).await;
        let session = login(&store, "a", "alice").await;
        let pid = holder.pid().await;
        holder.run("BEGIN; UPDATE sessions SET label = 'x'").await;
        let update = {
            let store = store.clone();
            let json = crate::stores::support::json("1");
            tokio::spawn(async move { store.update(session.id(), 1, &json).await.unwrap() })
        };
        watcher.until_waiting_for(pid).await;
        holder.run("COMMIT").await;
        assert!(matches!(update.await.unwrap(), Change::Conflict));
        assert_eq!(alive(load(&store, "a").await).data_json(), "{}");
    })
    .await;
}

#[tokio::test]
async fn a_touch_waits_for_nobody_and_never_revives() {
    in_schema(|schema| async move {
        let (store, mut holder, _) = cast(&schema).await;
        let session = login(&store, "a", "alice").await;
        let touch = || async { store.touch(session.id(), Duration::ZERO).await.unwrap() };

        holder.run("BEGIN; UPDATE sessions SET last_seen_at = now() + interval '1 s'").await;
        let begin = std::time::Instant::now();
        assert!(matches!(touch().await, Change::Conflict));
        assert!(begin.elapsed() < Duration::from_millis(800));
        holder.run("COMMIT").await;
        made(touch().await);

        holder.run("UPDATE sessions SET last_seen_at = now() - interval '1 min'").await;
        holder.run("BEGIN; UPDATE sessions SET revoked_at = now()").await;
        assert!(matches!(touch().await, Change::Conflict));
        holder.run("COMMIT").await;
        assert!(matches!(touch().await, Change::NoSession));
    })
    .await;
}

#[tokio::test]
async fn a_revocation_that_waited_for_a_rotation_ends_both_tokens() {
    in_schema(|schema| async move {
        let (store, mut holder, mut watcher) = cast(&schema).await;
        login(&store, "a", "alice").await;
        let pid = holder.pid().await;
        holder
            .run(
                "BEGIN; UPDATE sessions SET previous_digest = token_digest,
                   token_digest = sha256('b'), previous_until = now() + interval '1 h'",
            )
            .await;
        let revoking = {
            let store = store.clone();
            tokio::spawn(async move {
                let target = Target::Token(token("a"));
                store.revoke(&target, "test").await.unwrap()
            })
        };
        watcher.until_waiting_for(pid).await;
        holder.run("COMMIT").await;
        let revoked = revoking.await.unwrap();
        assert_eq!((revoked.ended, revoked.found), (1, 1));
        // The new one too, although the statement began before there was any.
        assert_eq!(revoked.digests, crate::stores::support::sorted(["a", "b"]));
        assert!(matches!(load(&store, "b").await, Row::Revoked));
    })
    .await;
}

#[tokio::test]
async fn a_journal_row_that_commits_late_is_read() {
    in_schema(|schema| async move {
        let (store, mut holder, _) = cast(&schema).await;
        let late = login(&store, "late", "alice").await;
        let early = login(&store, "early", "alice").await;
        holder
            .run(
                "BEGIN; UPDATE sessions SET revoked_at = now() WHERE token_digest = sha256('late')",
            )
            .await;
        store.revoke(&Target::Token(token("early")), "test").await.unwrap();
        let first = store.journal_since(None).await.unwrap();
        let ids = |rows: &[session_layer::store::JournalRow]| {
            rows.iter().map(|row| changed(row).0).collect::<Vec<_>>()
        };
        // Written first, and not there yet.
        assert_eq!(ids(&first.rows), [early.id()]);
        holder.run("COMMIT").await;
        let second = store.journal_since(Some(&first.next)).await.unwrap();
        assert!(ids(&second.rows).contains(&late.id()));
    })
    .await;
}
