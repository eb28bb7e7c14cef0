//! Updating, rotating, touching.

use std::time::Duration;

use session_layer::SessionId;
use session_layer::store::{Change, Row, SessionStore, Target};

use super::{
    HOUR, alive, json, load, login, login_as, made, new, revoke, sorted, token, until_over,
};

pub async fn an_update_compares_the_version(store: &impl SessionStore) {
    let session = login(store, "a", "alice").await;
    let change = store.update(session.id(), 1, &json(r#"{"n":1}"#)).await;
    let (updated, digests) = made(change.unwrap());
    assert_eq!(updated.version(), 2);
    assert_eq!(digests, sorted(["a"]));
    let loaded = alive(load(store, "a").await);
    assert_eq!(loaded.version(), 2);
    assert_eq!(
        loaded.data::<serde_json::Value>().unwrap(),
        serde_json::json!({ "n": 1 })
    );

    let late = store.update(session.id(), 1, &json(r#"{"n":2}"#)).await;
    assert!(matches!(late.unwrap(), Change::Conflict));
    assert_eq!(alive(load(store, "a").await).version(), 2);
}

pub async fn an_update_with_the_same_data_is_a_change(store: &impl SessionStore) {
    let session = login(store, "a", "alice").await;
    let same = json(session.data_json());
    let (updated, _) = made(store.update(session.id(), 1, &same).await.unwrap());
    assert_eq!(updated.version(), 2);
    let late = store.update(session.id(), 1, &same).await.unwrap();
    assert!(matches!(late, Change::Conflict));
}

pub async fn a_rotated_token_counts_for_its_grace(store: &impl SessionStore) {
    let session = login(store, "a", "alice").await;
    let grace = Duration::from_millis(300);
    let (rotated, digests) = made(store.rotate(token("a"), token("b"), grace).await.unwrap());
    assert_eq!(rotated.id(), session.id());
    assert_eq!(rotated.version(), 2);
    assert_eq!(digests, sorted(["a", "b"]));

    let loaded = store.load(&[token("b"), token("a")]).await.unwrap();
    let Row::Alive {
        session: new,
        previous_until: None,
    } = &loaded.rows[0]
    else {
        panic!("{:?}", loaded.rows[0]);
    };
    assert_eq!(new.id(), session.id());
    let Row::Alive {
        session: old,
        previous_until: Some(until),
    } = &loaded.rows[1]
    else {
        panic!("{:?}", loaded.rows[1]);
    };
    assert_eq!(old.id(), session.id());
    assert!(until.since(loaded.now) <= grace);

    until_over(store, "a").await;
    assert!(matches!(load(store, "a").await, Row::Absent));
    assert_eq!(alive(load(store, "b").await).id(), session.id());
}

pub async fn without_grace_the_old_token_is_gone(store: &impl SessionStore) {
    login(store, "a", "alice").await;
    made(
        store
            .rotate(token("a"), token("b"), Duration::ZERO)
            .await
            .unwrap(),
    );
    assert!(matches!(load(store, "a").await, Row::Absent));
    alive(load(store, "b").await);
}

pub async fn a_token_is_rotated_once(store: &impl SessionStore) {
    for (name, grace) in [("a", Duration::ZERO), ("b", HOUR)] {
        login(store, name, "alice").await;
        let first = format!("{name} first");
        let second = format!("{name} second");
        made(
            store
                .rotate(token(name), token(&first), grace)
                .await
                .unwrap(),
        );
        let again = store.rotate(token(name), token(&second), grace).await;
        assert!(matches!(again.unwrap(), Change::Conflict), "{name}");
        alive(load(store, &first).await);
        assert!(matches!(load(store, &second).await, Row::Absent));
    }
}

pub async fn the_token_before_the_last_rotation_is_gone(store: &impl SessionStore) {
    login(store, "a", "alice").await;
    made(store.rotate(token("a"), token("b"), HOUR).await.unwrap());
    let (_, digests) = made(store.rotate(token("b"), token("c"), HOUR).await.unwrap());
    // "a" may still be cached, and counts no more.
    assert_eq!(digests, sorted(["a", "b", "c"]));
    assert!(matches!(load(store, "a").await, Row::Absent));
    alive(load(store, "b").await);
    alive(load(store, "c").await);
}

pub async fn a_touch_moves_in_steps(store: &impl SessionStore) {
    let mut idle = new("alice");
    idle.idle_timeout = Some(HOUR);
    let session = login_as(store, "a", &idle).await;
    let (kept, _) = made(store.touch(session.id(), HOUR).await.unwrap());
    assert_eq!(kept.last_seen_at(), session.last_seen_at());

    tokio::time::sleep(Duration::from_millis(5)).await;
    let (moved, digests) = made(store.touch(session.id(), Duration::ZERO).await.unwrap());
    assert!(moved.last_seen_at() > session.last_seen_at());
    assert_eq!(moved.version(), 1, "a touch is no change");
    assert_eq!(digests, sorted(["a"]));
    let loaded = alive(load(store, "a").await);
    assert_eq!(loaded.last_seen_at(), moved.last_seen_at());
    made(store.touch(session.id(), Duration::MAX).await.unwrap());
}

pub async fn the_dead_are_not_changed(store: &impl SessionStore) {
    let unknown = SessionId::from_bytes([7; 16]);
    let revoked = login(store, "revoked", "alice").await;
    revoke(store, Target::Id(revoked.id())).await;
    let mut short = new("alice");
    short.lifetime = Duration::from_millis(1);
    let expired = login_as(store, "expired", &short).await;
    until_over(store, "expired").await;

    for (id, name) in [
        (unknown, "unknown"),
        (revoked.id(), "revoked"),
        (expired.id(), "expired"),
    ] {
        let none = |change| assert!(matches!(change, Change::NoSession), "{name}: {change:?}");
        for version in 1..3 {
            none(store.update(id, version, &json("{}")).await.unwrap());
        }
        none(store.touch(id, Duration::ZERO).await.unwrap());
        none(store.rotate(token(name), token("x"), HOUR).await.unwrap());
        assert!(!matches!(load(store, name).await, Row::Alive { .. }));
    }
    // Rotated, then ended: neither token rotates it.
    login(store, "a", "bob").await;
    made(store.rotate(token("a"), token("b"), HOUR).await.unwrap());
    revoke(store, Target::Token(token("b"))).await;
    for name in ["a", "b"] {
        let change = store.rotate(token(name), token("x"), HOUR).await.unwrap();
        assert!(matches!(change, Change::NoSession), "{name}");
    }
}
