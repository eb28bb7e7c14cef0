//! Revoking.

use std::time::Duration;

use session_layer::SessionId;
use session_layer::store::{Revoked, Row, SessionStore, Target};

use super::{
    HOUR, alive, json, load, login, login_as, made, new, of_user, revoke, sorted, token, until_over,
};

pub async fn a_session_is_revoked_by_token_id_and_owner(store: &impl SessionStore) {
    for name in ["token", "id", "owner", "other"] {
        login(store, name, "alice").await;
    }
    let id = async |name: &str| alive(load(store, name).await).id();
    let owned_by = |id, user: &str| Target::OwnedBy(id, user.to_owned());
    for (name, target) in [
        ("token", Target::Token(token("token"))),
        ("id", Target::Id(id("id").await)),
        ("owner", owned_by(id("owner").await, "alice")),
    ] {
        let revoked = revoke(store, target).await;
        assert_eq!((revoked.ended, revoked.found), (1, 1), "{name}");
        assert_eq!(revoked.digests, sorted([name]), "{name}");
        assert!(matches!(load(store, name).await, Row::Revoked), "{name}");
    }
    let not_theirs = owned_by(id("other").await, "bob");
    assert_eq!(revoke(store, not_theirs).await, Revoked::nothing());
    alive(load(store, "other").await);
}

pub async fn revoking_twice_finds_it_and_ends_nothing(store: &impl SessionStore) {
    let session = login(store, "a", "alice").await;
    revoke(store, Target::Token(token("a"))).await;
    for target in [
        Target::Token(token("a")),
        Target::Id(session.id()),
        of_user("alice"),
    ] {
        let revoked = revoke(store, target).await;
        assert_eq!((revoked.ended, revoked.found), (0, 1));
        // A cached copy may be left by a first try whose end was lost.
        assert_eq!(revoked.digests, sorted(["a"]));
    }
}

pub async fn revoking_nothing_is_no_error(store: &impl SessionStore) {
    for target in [
        Target::Token(token("a")),
        Target::Id(SessionId::from_bytes([7; 16])),
        of_user("nobody"),
    ] {
        assert_eq!(revoke(store, target).await, Revoked::nothing());
    }
    let mut short = new("alice");
    short.lifetime = Duration::from_millis(1);
    login_as(store, "a", &short).await;
    until_over(store, "a").await;
    let revoked = revoke(store, Target::Token(token("a"))).await;
    assert_eq!((revoked.ended, revoked.found), (0, 1));
}

pub async fn the_previous_token_revokes_within_its_grace(store: &impl SessionStore) {
    login(store, "a", "alice").await;
    made(store.rotate(token("a"), token("b"), HOUR).await.unwrap());
    let revoked = revoke(store, Target::Token(token("a"))).await;
    assert_eq!((revoked.ended, revoked.found), (1, 1));
    assert_eq!(revoked.digests, sorted(["a", "b"]));
    for name in ["a", "b"] {
        assert!(matches!(load(store, name).await, Row::Revoked), "{name}");
    }

    login(store, "c", "alice").await;
    made(
        store
            .rotate(token("c"), token("d"), Duration::ZERO)
            .await
            .unwrap(),
    );
    let too_late = revoke(store, Target::Token(token("c"))).await;
    assert_eq!(too_late, Revoked::nothing());
    alive(load(store, "d").await);
}

pub async fn all_of_a_user_but_one(store: &impl SessionStore) {
    for (name, user) in [("a", "alice"), ("b", "alice"), ("c", "alice"), ("d", "bob")] {
        login(store, name, user).await;
    }
    let kept = alive(load(store, "b").await);
    let but_one = Target::User {
        user_id: "alice".to_owned(),
        keep: Some(kept.id()),
    };
    for ended in [2, 0] {
        let revoked = revoke(store, but_one.clone()).await;
        assert_eq!((revoked.ended, revoked.found), (ended, 2));
        // The kept one's copies are out of date: its version was raised.
        assert_eq!(revoked.digests, sorted(["a", "b", "c"]));
        assert!(matches!(load(store, "a").await, Row::Revoked));
        assert!(matches!(load(store, "c").await, Row::Revoked));
        alive(load(store, "d").await);
        let still = alive(load(store, "b").await);
        assert!(still.version() > kept.version());
        made(store.touch(still.id(), HOUR).await.unwrap());
    }
    let still = alive(load(store, "b").await);
    let updated = store.update(still.id(), still.version(), &json("[]")).await;
    made(updated.unwrap());
    assert_eq!(store.list("alice").await.unwrap().len(), 1);

    // Nobody else's session is spared.
    let not_theirs = Target::User {
        user_id: "alice".to_owned(),
        keep: Some(alive(load(store, "d").await).id()),
    };
    let revoked = revoke(store, not_theirs).await;
    assert_eq!((revoked.ended, revoked.found), (1, 3));
    alive(load(store, "d").await);
}

pub async fn a_login_after_revoke_all_is_new(store: &impl SessionStore) {
    for name in ["a", "b", "c"] {
        login(store, name, "alice").await;
        alive(load(store, name).await);
        let revoked = revoke(store, of_user("alice")).await;
        assert_eq!(revoked.ended, 1);
        assert!(matches!(load(store, name).await, Row::Revoked));
    }
    // Also for a user who never logged in before.
    revoke(store, of_user("bob")).await;
    login(store, "d", "bob").await;
    alive(load(store, "d").await);
}

pub async fn digests_are_those_of_dead_and_living(store: &impl SessionStore) {
    let session = login(store, "a", "alice").await;
    login(store, "b", "alice").await;
    login(store, "c", "bob").await;
    revoke(store, Target::Token(token("b"))).await;
    made(store.rotate(token("a"), token("a2"), HOUR).await.unwrap());
    let owned_by = |user: &str| Target::OwnedBy(session.id(), user.to_owned());
    for (target, expected) in [
        (of_user("alice"), sorted(["a", "a2", "b"])),
        (Target::Token(token("a")), sorted(["a", "a2"])),
        (Target::Token(token("a2")), sorted(["a", "a2"])),
        (Target::Id(session.id()), sorted(["a", "a2"])),
        (owned_by("alice"), sorted(["a", "a2"])),
        (owned_by("bob"), Vec::new()),
        (Target::Token(token("x")), Vec::new()),
    ] {
        let mut digests = store.digests(&target).await.unwrap();
        digests.sort();
        assert_eq!(digests, expected, "{target:?}");
    }
}
