//! What is written to Redis by somebody else, and what the nodes make of it.

use redis::AsyncCommands as _;
use session_layer::{NewSession, SessionToken, Sessions, Validation};
use session_testkit::wait;

use super::{rejected, sealed, sealed_in, sealed_on, value};
use crate::harness::{Outcome, shared};
use crate::support::{OwnRedis, SOON, ask, key, login, sessions, until_connected, until_hit};

/// Whose session is it? `None` where it is nobody's.
async fn whose(sessions: &Sessions, token: &str) -> Option<String> {
    match sessions.validate(token).await {
        Validation::Valid(session) => Some(session.user_id().to_owned()),
        Validation::Invalid => None,
        other => panic!("{other:?}"),
    }
}

/// A plain entry with the digest of another token in it: without sealing it lets a token in that
/// nobody was ever given; with it, it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_for_a_token_that_was_never_issued() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let (plain, sealed) = (sessions(&sandbox).await?, sealed(&sandbox).await?);
    let alice = login(&plain, "alice").await?;
    until_hit(&plain, &alice).await?;
    until_connected(&sealed).await?;
    let mut redis = backends.redis().connect().await?;
    let mut forged = value(&mut redis, &sandbox, &alice).await?;
    let never_issued = SessionToken::generate()?;
    // `Vp`, 16 bytes of incarnation, the digest.
    forged[18..50].copy_from_slice(never_issued.digest().as_bytes());
    let place = format!("{}:2:{}", sandbox.namespace(), never_issued.digest().to_base64url());
    let () = redis.set(&place, &forged).await?;
    let let_in = whose(&plain, never_issued.reveal()).await;
    assert_eq!(let_in.as_deref(), Some("alice"), "or this test proves nothing");

    let before = rejected(&sealed).unsealed;
    assert_eq!(whose(&sealed, never_issued.reveal()).await, None);
    assert_eq!(rejected(&sealed).unsealed, before + 1);
    // One that says of itself that it is sealed.
    let bob = login(&sealed, "bob").await?;
    until_hit(&sealed, &bob).await?;
    let bobs = value(&mut redis, &sandbox, &bob).await?;
    let () = redis.set(&place, &bobs).await?;
    assert_eq!(whose(&sealed, never_issued.reveal()).await, None);
    assert_eq!(rejected(&sealed).forged, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_between_keys() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sealed(&sandbox).await?;
    let (alice, bob) = (login(&sessions, "alice").await?, login(&sessions, "bob").await?);
    until_hit(&sessions, &alice).await?;
    until_hit(&sessions, &bob).await?;
    let mut redis = backends.redis().connect().await?;
    let (of_alice, of_bob) =
        (value(&mut redis, &sandbox, &alice).await?, value(&mut redis, &sandbox, &bob).await?);
    let () = redis.set(key(&sandbox, &alice), of_bob).await?;
    let () = redis.set(key(&sandbox, &bob), of_alice).await?;
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
async fn garbage_cut_and_oversized() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sealed(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let mut redis = backends.redis().connect().await?;
    let good = value(&mut redis, &sandbox, &alice).await?;
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
        let () = redis.set(key(&sandbox, &alice), planted).await?;
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
async fn moved_from_another_namespace() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let here = sealed(&sandbox).await?;
    let elsewhere = format!("{}:elsewhere", sandbox.namespace());
    let there = sealed_in(sandbox.redis_url(), &elsewhere, &sandbox, "a").await?;
    let alice = login(&here, "alice").await?;
    until_hit(&there, &alice).await?;
    until_connected(&here).await?;
    let digest = alice.token.digest().to_base64url();
    let mut redis = backends.redis().connect().await?;
    let theirs: Vec<u8> = redis.get(format!("{elsewhere}:2:{digest}")).await?;
    let () = redis.set(key(&sandbox, &alice), theirs).await?;
    assert_eq!(ask(&here, &alice).await, "valid");
    assert_eq!(rejected(&here).forged, 1);
    until_hit(&here, &alice).await?;
    Ok(())
}

/// Two environments with one Redis, one namespace and one key, and the same token in both: each
/// node serves what its own store says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_from_another_store() -> Outcome {
    let backends = shared().await?;
    let (ours, theirs) = (backends.sandbox(), backends.sandbox());
    let here = sealed(&ours).await?;
    let there = sealed_in(theirs.redis_url(), ours.namespace(), &theirs, "a").await?;
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
async fn moved_from_another_incarnation() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = sealed_on(own.redis.url(), &own.sandbox, "a").await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let mut redis = own.redis.connect().await?;
    let old = value(&mut redis, &own.sandbox, &alice).await?;
    own.redis.kill().await?;
    own.redis.restart().await?;
    let () = own.redis.connect().await?.set(key(&own.sandbox, &alice), &old).await?;
    until_connected(&sessions).await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    let counted = rejected(&sessions);
    assert_eq!((counted.stale_incarnation, counted.total()), (1, 1), "{counted:?}");
    until_hit(&sessions, &alice).await?;
    // One that claims to be of this incarnation, in the clear part where it says so.
    let mut redis = own.redis.connect().await?;
    let new = value(&mut redis, &own.sandbox, &alice).await?;
    let mut lying = old;
    lying[2..18].copy_from_slice(&new[2..18]);
    let () = redis.set(key(&own.sandbox, &alice), lying).await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(rejected(&sessions).forged, 1);
    Ok(())
}

/// It opens, for it was sealed for this place; that its session has ended is known from the
/// journal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_under_its_own_key_after_a_revocation() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let (one, other) = (sealed(&sandbox).await?, sealed(&sandbox).await?);
    let alice = login(&one, "alice").await?;
    until_hit(&other, &alice).await?;
    let mut redis = backends.redis().connect().await?;
    let old = value(&mut redis, &sandbox, &alice).await?;
    let _ = one.revoke(alice.token.reveal()).await?;
    // The node that ended it need not read of it in the journal.
    let () = redis.set(key(&sandbox, &alice), &old).await?;
    assert_eq!(ask(&one, &alice).await, "invalid");
    let before = other.metrics().journal_reads;
    wait::until("a read of the journal that began since", SOON, async || {
        other.metrics().journal_reads >= before + 2
    })
    .await?;
    let since = sealed(&sandbox).await?;
    until_connected(&since).await?;
    for node in [&one, &other, &since] {
        let () = redis.set(key(&sandbox, &alice), &old).await?;
        assert_eq!(ask(node, &alice).await, "invalid");
        let counted = rejected(node);
        assert_eq!(counted.total(), 0, "it opens: {counted:?}");
    }
    Ok(())
}
