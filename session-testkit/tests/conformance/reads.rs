//! Creating, loading, listing.

use std::net::IpAddr;
use std::time::Duration;

use session_layer::NewSession;
use session_layer::store::{Creation, Row, SessionStore, Target};

use super::{HOUR, alive, load, login, login_as, new, revoke, token, until_over};

pub async fn what_was_created_is_loaded(store: &impl SessionStore) {
    let asked = NewSession::new("Ünal \u{1F600}")
        .data(serde_json::json!({ "cart": [1, 2.50, "x"], "nested": { "a": null } }))
        .lifetime(HOUR)
        .idle_timeout(Duration::from_millis(90_500))
        .check()
        .unwrap();
    let created = login_as(store, "a", &asked).await;
    let before = store.load(&[token("a"), token("b")]).await.unwrap();
    let loaded = alive(before.rows[0].clone());
    assert!(matches!(before.rows[1], Row::Absent));
    assert!(matches!(
        before.rows[0],
        Row::Alive {
            previous_until: None,
            ..
        }
    ));
    for session in [&created, &loaded] {
        assert_eq!(session.id(), asked.id);
        assert_eq!(session.user_id(), "Ünal \u{1F600}");
        assert_eq!(session.version(), 1);
        assert_eq!(session.expires_at().since(session.created_at()), HOUR);
        // Whole seconds, and never less than was asked for.
        assert_eq!(session.idle_timeout(), Some(Duration::from_secs(91)));
        assert_eq!(session.created_at(), session.last_seen_at());
        assert_eq!(session.created_at(), session.authenticated_at());
        assert_eq!(
            session.data::<serde_json::Value>().unwrap(),
            serde_json::json!({ "cart": [1, 2.50, "x"], "nested": { "a": null } })
        );
    }
    // The store's clock says when: created before, read now.
    assert!(before.now >= created.created_at());
    assert!(before.now.since(created.created_at()) < Duration::from_secs(60));
    let again = store.load(&[token("a")]).await.unwrap();
    assert_eq!(again.store_id, before.store_id);
    assert_ne!(again.store_id, [0; 16]);
    assert!(again.xmin >= before.xmin);
}

pub async fn answers_come_in_the_order_of_the_digests(store: &impl SessionStore) {
    let mut asked = Vec::new();
    for n in 0..20 {
        let name = format!("t{n}");
        if n % 3 != 0 {
            login(store, &name, &name).await;
        }
        asked.push(token(&name));
    }
    asked.push(token("t1"));
    let loaded = store.load(&asked).await.unwrap();
    assert_eq!(loaded.rows.len(), 21);
    for (n, row) in loaded.rows.into_iter().enumerate() {
        match n {
            20 => assert_eq!(alive(row).user_id(), "t1"),
            n if n % 3 == 0 => assert!(matches!(row, Row::Absent)),
            n => assert_eq!(alive(row).user_id(), format!("t{n}")),
        }
    }
    assert!(store.load(&[]).await.unwrap().rows.is_empty());
}

pub async fn a_digest_is_taken_once(store: &impl SessionStore) {
    login(store, "a", "alice").await;
    let again = store.create(token("a"), &new("bob")).await.unwrap();
    assert!(matches!(again, Creation::Taken));
    assert_eq!(alive(load(store, "a").await).user_id(), "alice");
    // The one before a rotation is taken too: it still stands for the rotated session.
    store.rotate(token("a"), token("b"), HOUR).await.unwrap();
    let again = store.create(token("a"), &new("bob")).await.unwrap();
    assert!(matches!(again, Creation::Taken));
}

pub async fn the_list_shows_the_living_newest_first(store: &impl SessionStore) {
    let described = NewSession::new("alice")
        .label("Firefox")
        .ip(IpAddr::from([192, 0, 2, 7]))
        .user_agent("Mozilla/5.0")
        .check()
        .unwrap();
    login_as(store, "a", &described).await;
    login(store, "b", "alice").await;
    login(store, "c", "alice").await;
    login(store, "d", "bob").await;
    revoke(store, Target::Token(token("b"))).await;
    let mut short = new("alice");
    short.lifetime = Duration::from_millis(1);
    login_as(store, "e", &short).await;
    until_over(store, "e").await;

    let listed = store.list("alice").await.unwrap();
    let ids: Vec<_> = listed.iter().map(|listed| listed.session.id()).collect();
    let of = |row| alive(row).id();
    assert_eq!(
        ids,
        [of(load(store, "c").await), of(load(store, "a").await)]
    );
    assert_eq!(listed[1].label.as_deref(), Some("Firefox"));
    assert_eq!(listed[1].ip, Some(IpAddr::from([192, 0, 2, 7])));
    assert_eq!(listed[1].user_agent.as_deref(), Some("Mozilla/5.0"));
    assert!(listed[0].label.is_none() && listed[0].ip.is_none());
    assert!(store.list("nobody").await.unwrap().is_empty());
}

pub async fn a_session_past_its_time_is_absent(store: &impl SessionStore) {
    let mut short = new("alice");
    short.lifetime = Duration::from_millis(50);
    login_as(store, "a", &short).await;
    until_over(store, "a").await;
    assert!(matches!(load(store, "a").await, Row::Absent));
}

pub async fn an_unused_session_is_absent_after_its_idle_timeout(store: &impl SessionStore) {
    let mut idle = new("alice");
    idle.idle_timeout = Some(Duration::from_secs(1));
    let session = login_as(store, "a", &idle).await;
    until_over(store, "a").await;
    assert!(matches!(load(store, "a").await, Row::Absent));
    let now = store.load(&[]).await.unwrap().now;
    assert!(now.since(session.created_at()) >= Duration::from_secs(1));
}

pub async fn it_says_that_it_works(store: &impl SessionStore) {
    store.probe().await.unwrap();
    assert!(!store.backend().is_empty());
}
