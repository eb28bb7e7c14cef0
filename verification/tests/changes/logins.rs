//! Logins against a revoke-all that comes in between, and a logout that waits until it holds.

use std::time::Duration;

use session_layer::{Error, LoginSnapshot, NewSession, RevokeTarget, Visibility};
use session_testkit::wait;
use tokio::time::Instant;

use crate::harness::{Outcome, shared};
use crate::support::{OwnRedis, SOON, ask, execute, login, sessions, until_connected, until_hit};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_begun_before_a_revoke_all_is_refused() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let (one, other) = (sessions(&sandbox).await?, sessions(&sandbox).await?);
    for user in ["somebody new", "somebody known"] {
        if user == "somebody known" {
            login(&one, user).await?;
        }
        let before = one.begin_login().await?;
        let _ = other.revoke(RevokeTarget::user(user)).await?;
        let after = one.begin_login().await?;
        let refused = before.create(NewSession::new(user)).await;
        assert!(matches!(refused, Err(Error::LoginSuperseded)), "{refused:?}");
        let created = after.create(NewSession::new(user)).await?;
        assert_eq!(ask(&other, &created).await, "valid");
        // Another user's login is none of its business.
        before.create(NewSession::new("bystander")).await?;
        // Without a beginning it begins with the creation.
        login(&one, user).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_goes_on_in_another_process() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let (one, other) = (sessions(&sandbox).await?, sessions(&sandbox).await?);
    let written_down = one.begin_login().await?.snapshot().to_string();
    let moment: LoginSnapshot = written_down.parse()?;
    let created = other.resume_login(moment.clone()).create(NewSession::new("alice")).await?;
    assert_eq!(ask(&one, &created).await, "valid");
    let _ = one.revoke(RevokeTarget::user("alice")).await?;
    let refused = other.resume_login(moment).create(NewSession::new("alice")).await;
    assert!(matches!(refused, Err(Error::LoginSuperseded)), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_begun_by_the_embedded_pair() -> Outcome {
    let _ = shared().await?;
    let store = session_layer::store::SqliteStore::open(":memory:").await?;
    let cache = session_layer::cache::MemoryCache::new(100);
    let sessions = session_layer::Sessions::builder(cache, store).build()?;
    let before = sessions.begin_login().await?;
    let _ = sessions.revoke(RevokeTarget::user("alice")).await?;
    let refused = before.create(NewSession::new("alice")).await;
    assert!(matches!(refused, Err(Error::LoginSuperseded)), "{refused:?}");
    let after = sessions.begin_login().await?;
    after.create(NewSession::new("alice")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_and_wait_waits_until_it_holds() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    until_connected(&sessions).await?;
    let long = Duration::from_secs(30);

    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let done = sessions.revoke(alice.token.reveal()).wait(long).await?;
    assert_eq!((done.value, done.visibility), (1, Visibility::Propagated));

    let (bob, carol) = (login(&sessions, "bob").await?, login(&sessions, "carol").await?);
    own.redis.kill().await?;
    let began = Instant::now();
    let done = sessions.revoke(bob.token.reveal()).wait(long).await?;
    assert_eq!(done.value, 1);
    assert!(
        matches!(done.visibility, Visibility::Committed { within, .. } if within.is_zero()),
        "{done:?}"
    );
    assert!(began.elapsed() >= Duration::from_secs(2), "that is D");

    // A later try finds nothing, because an operator has deleted the row. The first one's bound
    // stands.
    let dave = login(&sessions, "dave").await?;
    let began = Instant::now();
    let waiting = tokio::spawn({
        let (sessions, token) = (sessions.clone(), dave.token.clone());
        async move { sessions.revoke(token.reveal()).wait(long).await }
    });
    wait::until("the revocation", SOON, async || ask(&sessions, &dave).await == "invalid").await?;
    let delete =
        format!("DELETE FROM {}.sessions WHERE id = '{}'", own.sandbox.schema(), dave.session.id());
    execute(backends.postgres(), delete).await?;
    let done = waiting.await??;
    assert_eq!(done.value, 1);
    assert!(
        matches!(done.visibility, Visibility::Committed { within, .. } if within.is_zero()),
        "{done:?}"
    );
    assert!(began.elapsed() >= Duration::from_secs(2), "that is D");

    let soon = Duration::from_millis(500);
    let done = sessions.revoke(carol.token.reveal()).wait(soon).await?;
    assert!(
        matches!(done.visibility, Visibility::Committed { within, .. } if !within.is_zero()),
        "the deadline came first: {done:?}"
    );
    let nothing = sessions.revoke(&"A".repeat(43)).wait(long).await?;
    assert_eq!((nothing.value, nothing.visibility), (0, Visibility::Nothing));
    Ok(())
}
