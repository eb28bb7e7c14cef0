//! Entries that an attacker writes to Redis.

use std::sync::Arc;

use redis::AsyncCommands as _;
use session_layer::{NewSession, SessionToken, Sessions, Validation};

use super::{entry, rejected, sealed, sealed_and_cached, sealed_in};
use crate::harness::Outcome;
use crate::support::{Servers, ask, login, until_connected, until_hit, until_journal_is_read};

/// Returns the user of the session, or `None`.
async fn whose(sessions: &Sessions, token: &str) -> Option<String> {
    match sessions.validate(token).await {
        Validation::Valid(session) => Some(session.user_id().to_owned()),
        Validation::Invalid => None,
        other => panic!("{other:?}"),
    }
}

// An unsealed entry with the digest of another token makes that token valid, unless entries are
// sealed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry_for_a_token_that_was_never_issued_is_rejected() -> Outcome {
    let servers = Servers::shared().await?;
    let (plain, sealed) = (servers.sessions().await?, sealed(&servers).await?);
    let alice = login(&plain, "alice").await?;
    until_hit(&plain, &alice).await?;
    until_connected(&sealed).await?;
    let mut redis = servers.redis().await?;
    let mut forged = entry(&servers, &alice).await?;
    let never_issued = SessionToken::generate()?;
    // `Vp`, 16 bytes of incarnation, the beginning of the digest.
    forged[18..26].copy_from_slice(&never_issued.digest().as_bytes()[..8]);
    let place = format!("{}:2:{}", servers.namespace(), never_issued.digest().to_base64url());
    let () = redis.set(&place, &forged).await?;
    let accepted = whose(&plain, never_issued.reveal()).await;
    assert_eq!(accepted.as_deref(), Some("alice"), "otherwise this test proves nothing");

    let before = rejected(&sealed).unsealed;
    assert_eq!(whose(&sealed, never_issued.reveal()).await, None);
    assert_eq!(rejected(&sealed).unsealed, before + 1);
    // A sealed entry of another token.
    let bob = login(&sealed, "bob").await?;
    until_hit(&sealed, &bob).await?;
    let bobs = entry(&servers, &bob).await?;
    let () = redis.set(&place, &bobs).await?;
    assert_eq!(whose(&sealed, never_issued.reveal()).await, None);
    assert_eq!(rejected(&sealed).forged, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry_moved_to_another_key_is_rejected() -> Outcome {
    let servers = Servers::shared().await?;
    let sessions = sealed(&servers).await?;
    let (alice, bob) = (login(&sessions, "alice").await?, login(&sessions, "bob").await?);
    until_hit(&sessions, &alice).await?;
    until_hit(&sessions, &bob).await?;
    let mut redis = servers.redis().await?;
    let (of_alice, of_bob) = (entry(&servers, &alice).await?, entry(&servers, &bob).await?);
    let () = redis.set(servers.key(&alice), of_bob).await?;
    let () = redis.set(servers.key(&bob), of_alice).await?;
    for (created, user) in [(&alice, "alice"), (&bob, "bob")] {
        let seen = whose(&sessions, created.token.reveal()).await;
        assert_eq!(seen.as_deref(), Some(user));
        until_hit(&sessions, created).await?;
    }
    let counted = rejected(&sessions);
    assert_eq!((counted.forged, counted.total()), (2, 2), "{counted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_truncated_and_oversized_entries_are_rejected() -> Outcome {
    let servers = Servers::shared().await?;
    let (sessions, alice) = sealed_and_cached(&servers).await?;
    let mut redis = servers.redis().await?;
    let good = entry(&servers, &alice).await?;
    let mut changed = good.clone();
    changed[good.len() / 2] ^= 1;
    let planted = [
        b"Vs".to_vec(),
        b"garbage".to_vec(),
        good[..good.len() - 1].to_vec(),
        changed,
        [good.clone(), vec![0; 10_000_000]].concat(),
    ];
    for (number, planted) in (1..).zip(planted) {
        let () = redis.set(servers.key(&alice), planted).await?;
        assert_eq!(ask(&sessions, &alice).await, "valid");
        let counted = rejected(&sessions);
        assert_eq!(counted.total(), number, "{counted:?}");
        until_hit(&sessions, &alice).await?;
    }
    let counted = rejected(&sessions);
    assert_eq!((counted.undecodable, counted.forged), (3, 2), "{counted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry_from_another_namespace_is_rejected() -> Outcome {
    let servers = Servers::shared().await?;
    let here = sealed(&servers).await?;
    let elsewhere = format!("{}:elsewhere", servers.namespace());
    let there = sealed_in(&elsewhere, "a", &servers).await?;
    let alice = login(&here, "alice").await?;
    until_hit(&there, &alice).await?;
    until_connected(&here).await?;
    let digest = alice.token.digest().to_base64url();
    let mut redis = servers.redis().await?;
    let theirs: Vec<u8> = redis.get(format!("{elsewhere}:2:{digest}")).await?;
    let () = redis.set(servers.key(&alice), theirs).await?;
    assert_eq!(ask(&here, &alice).await, "valid");
    assert_eq!(rejected(&here).forged, 1);
    until_hit(&here, &alice).await?;
    Ok(())
}

// Two environments have one Redis, one namespace, one sealing key and the same token. Each node
// serves the session of its own store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry_from_another_store_is_rejected() -> Outcome {
    let ours = Servers::shared().await?;
    let theirs = Servers::on(Arc::clone(&ours.backends));
    let here = sealed(&ours).await?;
    let there = sealed_in(ours.namespace(), "a", &theirs).await?;
    let alice = login(&here, "alice").await?;
    there.register(alice.token.reveal(), NewSession::new("mallory")).await?;
    let token = alice.token.reveal();
    for (node, user) in [(&here, "alice"), (&there, "mallory"), (&here, "alice")] {
        until_hit(node, &alice).await?;
        assert_eq!(whose(node, token).await.as_deref(), Some(user));
    }
    for node in [&here, &there] {
        let counted = rejected(node);
        assert!(counted.foreign >= 1, "{counted:?}");
        assert_eq!(counted.total(), counted.foreign, "{counted:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry_from_another_incarnation_is_rejected() -> Outcome {
    let servers = Servers::own_redis().await?;
    let (sessions, alice) = sealed_and_cached(&servers).await?;
    let old = entry(&servers, &alice).await?;
    servers.redis.kill().await?;
    servers.redis.restart().await?;
    let () = servers.redis().await?.set(servers.key(&alice), &old).await?;
    until_connected(&sessions).await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    let counted = rejected(&sessions);
    assert_eq!((counted.stale_incarnation, counted.total()), (1, 1), "{counted:?}");
    until_hit(&sessions, &alice).await?;
    // An entry whose clear part claims this incarnation.
    let mut redis = servers.redis().await?;
    let new = entry(&servers, &alice).await?;
    let mut lying = old;
    lying[2..18].copy_from_slice(&new[2..18]);
    let () = redis.set(servers.key(&alice), lying).await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(rejected(&sessions).forged, 1);
    Ok(())
}

// The entry opens, because it was sealed for this key. The journal rejects it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry_replayed_after_a_revocation_is_rejected_by_the_journal() -> Outcome {
    let servers = Servers::shared().await?;
    let (one, other) = (sealed(&servers).await?, sealed(&servers).await?);
    let alice = login(&one, "alice").await?;
    until_hit(&other, &alice).await?;
    let mut redis = servers.redis().await?;
    let old = entry(&servers, &alice).await?;
    let _ = one.revoke(alice.token.reveal()).await?;
    // The node that revoked it does not need the journal.
    let () = redis.set(servers.key(&alice), &old).await?;
    assert_eq!(ask(&one, &alice).await, "invalid");
    until_journal_is_read(&other).await?;
    let since = sealed(&servers).await?;
    until_connected(&since).await?;
    for node in [&one, &other, &since] {
        let () = redis.set(servers.key(&alice), &old).await?;
        assert_eq!(ask(node, &alice).await, "invalid");
        let counted = rejected(node);
        assert_eq!(counted.total(), 0, "the entry did not open: {counted:?}");
    }
    Ok(())
}
