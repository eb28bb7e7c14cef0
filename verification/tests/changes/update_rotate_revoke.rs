//! What changes a session: update, rotate, revoke of one, of another's, of all.

use std::time::Duration;

use redis::AsyncCommands as _;
use session_layer::cache::{MemoryCache, NoCache, RedisCache};
use session_layer::store::{PostgresStore, SessionStore as _, SqliteStore};
use session_layer::{Error, NewSession, RevokeTarget, Sessions, Validation, Visibility};
use session_testkit::wait;

use crate::harness::{Outcome, shared};
use crate::support::{
    SOON, ask, built, by_leases_alone, cache, execute, key, lives_for_ever, login, sessions, store,
    until_connected, until_hit,
};

/// Nobody reads the journal here: it is the revoke that removes the copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_after_its_row_was_deleted() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let node = async || {
        let cache = cache(sandbox.redis_url(), &sandbox)?;
        by_leases_alone(cache, store(&sandbox).await?).await
    };
    let (reader, one) = (node().await?, node().await?);
    let alice = login(&one, "alice").await?;
    until_hit(&reader, &alice).await?;
    until_connected(&one).await?;
    let delete = format!("DELETE FROM {}.sessions", sandbox.schema());
    execute(backends.postgres(), delete).await?;
    assert_eq!(ask(&reader, &alice).await, "valid", "from the cache");
    let changed = one.revoke(alice.token.reveal()).await?;
    assert_eq!(changed.visibility, Visibility::Nothing, "there was none to end");
    assert_eq!(ask(&reader, &alice).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn update_is_seen_everywhere_and_a_lost_race_says_so() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let (one, other) = (sessions(&sandbox).await?, sessions(&sandbox).await?);
    let alice = one.create(NewSession::new("alice").data("old")).await?;
    until_hit(&other, &alice).await?;
    until_connected(&one).await?;
    let changed = one.update(&alice.session, "new").await?;
    assert_eq!(changed.visibility, Visibility::Propagated);
    let Validation::Valid(seen) = other.validate(alice.token.reveal()).await else { panic!() };
    assert_eq!(seen.data::<String>()?, "new");
    assert_eq!(seen.version(), changed.value.version());
    let lost = other.update(&alice.session, "newer").await;
    assert!(matches!(lost, Err(Error::VersionConflict)), "{lost:?}");
    let _ = one.revoke(alice.token.reveal()).await?;
    let gone = one.update(&seen, "newest").await;
    assert!(matches!(gone, Err(Error::NoSession)), "{gone:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotate_with_grace_serves_both_tokens_until_revoked() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let old = login(&sessions, "alice").await?;
    until_hit(&sessions, &old).await?;
    let rotated = sessions.rotate(old.token.reveal(), Duration::from_secs(60)).await?;
    assert_eq!(rotated.visibility, Visibility::Propagated);
    let new = rotated.value;
    assert_eq!(new.session.id(), old.session.id());
    until_hit(&sessions, &old).await?;
    let Validation::Valid(seen) = sessions.validate(new.token.reveal()).await else { panic!() };
    assert_eq!(seen.id(), old.session.id());
    // The old token's copy lives no longer than the grace.
    let mut redis = backends.redis().connect().await?;
    let left: i64 = redis.pttl(key(&sandbox, &old)).await?;
    assert!(left > 0 && left <= 60_000, "{left}");
    // Revoking by the new token ends the old one too.
    assert_eq!(sessions.revoke(new.token.reveal()).await?.visibility, Visibility::Propagated);
    assert_eq!(ask(&sessions, &old).await, "invalid");
    assert!(matches!(sessions.validate(new.token.reveal()).await, Validation::Invalid));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotate_without_grace_ends_the_old_token_at_once() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let old = login(&sessions, "alice").await?;
    until_hit(&sessions, &old).await?;
    let new = sessions.rotate(old.token.reveal(), Duration::ZERO).await?.value;
    assert_eq!(ask(&sessions, &old).await, "invalid");
    assert!(matches!(sessions.validate(new.token.reveal()).await, Validation::Valid(_)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_rotation_gets_no_token() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let old = login(&sessions, "alice").await?;
    let grace = Duration::from_secs(60);
    let (a, b) = tokio::join!(
        sessions.rotate(old.token.reveal(), grace),
        sessions.rotate(old.token.reveal(), grace)
    );
    let (won, lost) = if a.is_ok() { (a, b) } else { (b, a) };
    assert!(matches!(lost, Err(Error::AlreadyRotated)), "{lost:?}");
    let won = won?.value;
    assert!(matches!(sessions.validate(won.token.reveal()).await, Validation::Valid(_)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_owned_touches_only_the_owners() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let (alice, bob) = (login(&sessions, "alice").await?, login(&sessions, "bob").await?);
    let others = sessions.revoke(RevokeTarget::owned("bob", alice.session.id())).await?;
    assert_eq!((others.value, others.visibility), (0, Visibility::Nothing));
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(sessions.revoke(RevokeTarget::owned("bob", bob.session.id())).await?.value, 1);
    assert_eq!(ask(&sessions, &bob).await, "invalid");
    assert_eq!(sessions.revoke(alice.session.id()).await?.value, 1);
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_all_ends_all_or_all_but_one() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let (one, two) = (login(&sessions, "alice").await?, login(&sessions, "alice").await?);
    let bob = login(&sessions, "bob").await?;
    for created in [&one, &two, &bob] {
        until_hit(&sessions, created).await?;
    }
    let listed: Vec<_> =
        sessions.list("alice").await?.sessions.iter().map(|listed| listed.id).collect();
    assert_eq!(listed.len(), 2);
    let changed = sessions.revoke(RevokeTarget::others_of(&one.session)).await?;
    assert_eq!((changed.value, changed.visibility), (1, Visibility::Propagated));
    assert_eq!([ask(&sessions, &one).await, ask(&sessions, &two).await], ["valid", "invalid"]);
    assert_eq!(sessions.revoke(RevokeTarget::user("alice")).await?.value, 1);
    assert_eq!([ask(&sessions, &one).await, ask(&sessions, &bob).await], ["invalid", "valid"]);
    assert!(sessions.list("alice").await?.sessions.is_empty());
    // A login after it is not hindered.
    let three = login(&sessions, "alice").await?;
    assert_eq!(ask(&sessions, &three).await, "valid");
    Ok(())
}

/// Used every half second, a session with an idle timeout of 3 s lives for more than 3 s; left
/// alone, it ends. The one test that has to let time pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_lives_while_it_is_used() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let idle = Duration::from_secs(3);
    let alice = sessions.create(NewSession::new("alice").idle_timeout(idle)).await?;
    let begin = std::time::Instant::now();
    while begin.elapsed() < idle * 2 {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        tokio::time::sleep(idle / 6).await;
    }
    tokio::time::sleep(idle + Duration::from_millis(200)).await;
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    Ok(())
}

/// Other processes have copies of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_shared_cache_it_is_committed() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let (one, other) = (
        built(MemoryCache::new(100), store(&sandbox).await?),
        built(MemoryCache::new(100), store(&sandbox).await?),
    );
    let alice = login(&one, "alice").await?;
    until_hit(&one, &alice).await?;
    until_hit(&other, &alice).await?;
    let changed = one.update(&alice.session, "new").await?;
    let committed = |visibility| matches!(visibility, Visibility::Committed { within, .. } if !within.is_zero());
    assert!(committed(changed.visibility), "{changed:?}");
    let revoked = one.revoke(alice.token.reveal()).await?;
    assert!(committed(revoked.visibility), "{revoked:?}");
    assert_eq!(ask(&one, &alice).await, "invalid");
    wait::until("the other process to have read of it", SOON, async || {
        ask(&other, &alice).await == "invalid"
    })
    .await?;
    let uncached = built(NoCache, store(&sandbox).await?);
    let alice = login(&uncached, "alice").await?;
    let revoked = uncached.revoke(alice.token.reveal()).await?;
    assert!(committed(revoked.visibility), "{revoked:?}");
    Ok(())
}

/// What a failover of its Redis brings back, no journal ends: it is not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_store_of_one_process_the_journal_is_no_bound() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let cache = RedisCache::builder(sandbox.redis_url())
        .namespace(sandbox.namespace())
        .replicated(true)
        .build()?;
    let sessions = built(cache, SqliteStore::open(":memory:").await?);
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let visibility = sessions.revoke(alice.token.reveal()).await?.visibility;
    let Visibility::Committed { within, at_most } = visibility else {
        return Err(format!("{visibility:?}").into());
    };
    assert_eq!(within, at_most);
    assert!(within > Duration::from_secs(300), "TTL and lease: {within:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_duration_is_too_long() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let cache = RedisCache::builder(sandbox.redis_url())
        .namespace(sandbox.namespace())
        .deadline(Duration::from_secs(24 * 3600))
        .build()?;
    let store = PostgresStore::builder(sandbox.database_url())
        .schema(sandbox.schema())
        .read_deadline(Duration::from_secs(60))
        .change_deadline(Duration::from_secs(60))
        .build()?;
    store.migrate().await?;
    assert_eq!(store.sweep(Duration::MAX, 1).await?, 0);
    store.purge_journal(Duration::MAX).await?;
    let sessions = Sessions::builder(cache, store)
        .ttl(Duration::from_secs(24 * 3600))
        .validation_timeout(Duration::from_secs(24 * 3600))
        .build()?;
    lives_for_ever(&sessions).await?;
    sessions.shutdown(Duration::MAX).await?;
    Ok(())
}
