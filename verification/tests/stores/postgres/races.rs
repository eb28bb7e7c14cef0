//! Concurrent calls. An open transaction forces every order.

use std::time::Duration;

use session_layer::store::{Change, Creation, PostgresStore, Revoked, Row, SessionStore, Target};

use super::support::Schema;
use crate::stores::support::{alive, json, load, login, made, new, of_user, sorted, token};

const REVOKE_ALL: &str = "UPDATE session_users SET epoch = epoch + 1 WHERE user_id = 'alice'";

async fn log_in(store: PostgresStore) -> Creation {
    store.create(token("new"), &new("alice")).await.unwrap()
}

async fn revoke(store: PostgresStore, target: Target) -> Revoked {
    store.revoke(&target, &"test".into()).await.unwrap()
}

// Found by the model (T1b). The second rotation within a grace takes the first token out of the
// row's two columns. An entry under that token may remain, which a `Propagated` revocation left.
#[tokio::test]
async fn revocation_names_every_token_of_the_session() {
    let (_schema, store) = Schema::with_store().await;
    let session = login(&store, "0", "alice").await;
    let grace = Duration::from_secs(60);
    for (old, new) in [("0", "1"), ("1", "2"), ("2", "3")] {
        made(store.rotate(token(old), token(new), grace).await.unwrap());
    }
    let all = sorted(["0", "1", "2", "3"]);
    let mut known = store.digests(&Target::Id(session.id())).await.unwrap();
    known.sort();
    assert_eq!(known, all);
    let mut ended = revoke(store, Target::Id(session.id())).await.digests;
    ended.sort();
    assert_eq!(ended, all);
}

// Found by a fault run: the store reported a session that had been ended.
#[tokio::test]
async fn revocation_behind_a_rotation_ends_nothing_under_the_old_token() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "old", "alice").await;
    let rotate = "UPDATE sessions SET token_digest = sha256('new')";
    let revoking = revoke(store.clone(), Target::Token(token("old")));
    let revoked = schema.beside(rotate, "COMMIT", revoking).await;
    assert_eq!((revoked.found, revoked.ended), (0, 0));
    alive(load(&store, "new").await);
}

#[tokio::test]
async fn revocation_behind_another_finds_what_that_one_ended() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "old", "alice").await;
    let end = "UPDATE sessions SET revoked_at = now()";
    let revoking = revoke(store, Target::Token(token("old")));
    let revoked = schema.beside(end, "COMMIT", revoking).await;
    assert_eq!((revoked.found, revoked.ended), (1, 0));
}

#[tokio::test]
async fn login_behind_a_rolled_back_revoke_all_is_made() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "old", "alice").await;
    let created = schema.beside(REVOKE_ALL, "ROLLBACK", log_in(store.clone())).await;
    assert!(matches!(created, Creation::Created(_)));
    alive(load(&store, "new").await);
}

#[tokio::test]
async fn first_login_of_a_user_waits_for_a_revoke_all() {
    let (schema, store) = Schema::with_store().await;
    let first = "INSERT INTO session_users (user_id, epoch) VALUES ('alice', 1)";
    let created = schema.beside(first, "COMMIT", log_in(store.clone())).await;
    assert!(matches!(created, Creation::Superseded));
    assert!(matches!(load(&store, "new").await, Row::Absent));
    // The next login begins after it.
    assert!(matches!(log_in(store).await, Creation::Created(_)));
}

#[tokio::test]
async fn revoke_all_waits_for_a_login_and_ends_it() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "old", "alice").await;
    // The statements of `create`, before its COMMIT.
    let creating = "SELECT FROM session_users WHERE user_id = 'alice' FOR SHARE;
         INSERT INTO sessions (token_digest, user_id, expires_at)
         VALUES (sha256('new'), 'alice', now() + interval '1 day')";
    let revoking = revoke(store.clone(), of_user("alice"));
    let revoked = schema.beside(creating, "COMMIT", revoking).await;
    assert_eq!((revoked.ended, revoked.found), (2, 2));
    assert!(matches!(load(&store, "new").await, Row::Revoked));
}

// A user clicks twice on "log me out everywhere else".
#[tokio::test]
async fn concurrent_revoke_alls_both_spare_the_session() {
    let (schema, store) = Schema::with_store().await;
    let kept = login(&store, "kept", "alice").await;
    login(&store, "other", "alice").await;
    let target = Target::User { user_id: "alice".to_owned(), keep: Some(kept.id()) };
    let both = futures_util::future::join(
        revoke(store.clone(), target.clone()),
        revoke(store.clone(), target),
    );
    let held = "SELECT FROM session_users WHERE user_id = 'alice' FOR UPDATE";
    schema.beside(held, "COMMIT", both).await;
    alive(load(&store, "kept").await);
    assert!(matches!(load(&store, "other").await, Row::Revoked));
}

#[tokio::test]
async fn update_behind_another_is_a_conflict() {
    let (schema, store) = Schema::with_store().await;
    let session = login(&store, "a", "alice").await;
    let updating = {
        let store = store.clone();
        async move { store.update(session.id(), 1, &json("1")).await.unwrap() }
    };
    let label = "UPDATE sessions SET label = 'x'";
    let updated = schema.beside(label, "COMMIT", updating).await;
    assert!(matches!(updated, Change::Conflict));
    assert_eq!(alive(load(&store, "a").await).data_json(), "{}");
}

#[tokio::test]
async fn touch_does_not_wait_and_never_revives() {
    let schema = Schema::new().await;
    let (store, mut holder) = (schema.store().await, schema.operator().await);
    let session = login(&store, "a", "alice").await;
    let touch = || async { store.touch(session.id(), Duration::ZERO).await.unwrap() };

    holder.run("BEGIN; UPDATE sessions SET last_seen_at = now() + interval '1 s'").await;
    assert!(matches!(touch().await, Change::Conflict));
    holder.run("COMMIT").await;
    made(touch().await);

    holder.run("UPDATE sessions SET last_seen_at = now() - interval '1 min'").await;
    holder.run("BEGIN; UPDATE sessions SET revoked_at = now()").await;
    assert!(matches!(touch().await, Change::Conflict));
    holder.run("COMMIT").await;
    assert!(matches!(touch().await, Change::NoSession));
}

#[tokio::test]
async fn revocation_behind_a_rotation_with_grace_ends_both_tokens() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "a", "alice").await;
    let rotate = "UPDATE sessions SET previous_digest = token_digest,
           token_digest = sha256('b'), previous_until = now() + interval '1 h'";
    let revoking = revoke(store.clone(), Target::Token(token("a")));
    let revoked = schema.beside(rotate, "COMMIT", revoking).await;
    assert_eq!((revoked.ended, revoked.found), (1, 1));
    // The new token did not exist when the statement began.
    assert_eq!(revoked.digests, sorted(["a", "b"]));
    assert!(matches!(load(&store, "b").await, Row::Revoked));
}
