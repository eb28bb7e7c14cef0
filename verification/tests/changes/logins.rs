//! Logins beside a revoke-all, and revocations that wait until they hold.

use std::time::Duration;

use session_layer::cache::MemoryCache;
use session_layer::store::SqliteStore;
use session_layer::{
    Applied, Error, LoginSnapshot, NewSession, RevokeTarget, Sessions, Visibility,
};
use tokio::time::Instant;

use crate::harness::Outcome;
use crate::support::{Servers, ask, built, login, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_begun_before_a_revoke_all_is_refused() -> Outcome {
    let servers = Servers::shared().await?;
    assert_refused(&servers.sessions().await?, &servers.sessions().await?).await?;
    let embedded = built(MemoryCache::new(100), SqliteStore::open(":memory:").await?);
    assert_refused(&embedded, &embedded).await
}

async fn assert_refused(one: &Sessions, other: &Sessions) -> Outcome {
    login(one, "known").await?;
    for user in ["new", "known"] {
        let before = one.begin_login().await?;
        let _ = other.revoke(RevokeTarget::user(user)).await?;
        let after = one.begin_login().await?;
        let refused = before.create(NewSession::new(user)).await;
        assert!(matches!(refused, Err(Error::LoginSuperseded)), "{refused:?}");
        let created = after.create(NewSession::new(user)).await?;
        assert_eq!(ask(other, &created).await, "valid");
        // The login of another user is not affected.
        before.create(NewSession::new("bystander")).await?;
        // A login without a snapshot begins with the creation.
        login(one, user).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_continues_in_another_process() -> Outcome {
    let servers = Servers::shared().await?;
    let (one, other) = (servers.sessions().await?, servers.sessions().await?);
    let text = one.begin_login().await?.snapshot().to_string();
    let snapshot: LoginSnapshot = text.parse()?;
    let created = other.resume_login(snapshot.clone()).create(NewSession::new("alice")).await?;
    assert_eq!(ask(&one, &created).await, "valid");
    let _ = one.revoke(RevokeTarget::user("alice")).await?;
    let refused = other.resume_login(snapshot).create(NewSession::new("alice")).await;
    assert!(matches!(refused, Err(Error::LoginSuperseded)), "{refused:?}");
    Ok(())
}

/// Asserts that a revocation of one session waited for D, which began at this moment.
fn assert_waited(done: &Applied<u64>, began: Instant) {
    assert_eq!(done.value, 1);
    assert!(
        matches!(done.visibility, Visibility::Committed { within, .. } if within.is_zero()),
        "{done:?}"
    );
    assert!(began.elapsed() >= Duration::from_secs(2), "that is D");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_revocation_returns_once_it_holds() -> Outcome {
    let servers = Servers::own_redis().await?;
    let (sessions, alice) = servers.cached().await?;
    let long = Duration::from_secs(30);
    let done = sessions.revoke(alice.token.reveal()).wait(long).await?;
    assert_eq!((done.value, done.visibility), (1, Visibility::Propagated));

    let (bob, carol) = (login(&sessions, "bob").await?, login(&sessions, "carol").await?);
    servers.redis.kill().await?;
    let began = Instant::now();
    assert_waited(&sessions.revoke(bob.token.reveal()).wait(long).await?, began);

    // A later try finds nothing, because an operator has deleted the row. The bound of the first
    // try holds.
    let dave = login(&sessions, "dave").await?;
    let began = Instant::now();
    let waiting = tokio::spawn({
        let (sessions, token) = (sessions.clone(), dave.token.clone());
        async move { sessions.revoke(token.reveal()).wait(long).await }
    });
    until(&sessions, &dave, "invalid").await?;
    servers.delete_by_sql(&dave).await?;
    assert_waited(&waiting.await??, began);

    let done = sessions.revoke(carol.token.reveal()).wait(Duration::from_millis(500)).await?;
    assert!(
        matches!(done.visibility, Visibility::Committed { within, .. } if !within.is_zero()),
        "the deadline is before D: {done:?}"
    );
    let nothing = sessions.revoke(&"A".repeat(43)).wait(long).await?;
    assert_eq!((nothing.value, nothing.visibility), (0, Visibility::Nothing));
    Ok(())
}
