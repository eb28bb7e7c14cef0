//! Logins against a revoke-all that comes in between, and a logout that waits until it holds.

use std::sync::Arc;
use std::time::Duration;

use session_layer::{Error, LoginMoment, NewSession, Reach};
use session_testkit::backends::Backends;
use tokio::time::Instant;

use crate::harness::{Outcome, Registry};
use crate::support::{OwnRedis, ask, login, sessions, until_connected, until_hit};

pub(crate) fn tests(reg: &mut Registry) {
    reg.shared("a_login_begun_before_a_revoke_all_is_refused", superseded);
    reg.shared("a_login_goes_on_in_another_process", resumed);
    reg.shared("a_login_begun_by_the_embedded_pair", embedded);
    reg.shared("revoke_and_wait_waits_until_it_holds", waits);
}

async fn superseded(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let (one, other) = (sessions(&sandbox).await?, sessions(&sandbox).await?);
    for user in ["somebody new", "somebody known"] {
        if user == "somebody known" {
            login(&one, user).await?;
        }
        let before = one.begin_login().await?;
        let _ = other.revoke_all(user).await?;
        let after = one.begin_login().await?;
        let refused = before.create(NewSession::new(user)).await;
        assert!(
            matches!(refused, Err(Error::LoginSuperseded)),
            "{refused:?}"
        );
        let created = after.create(NewSession::new(user)).await?;
        assert_eq!(ask(&other, &created).await, "valid");
        // Another user's login is none of its business.
        before.create(NewSession::new("bystander")).await?;
        // Without a beginning it begins with the creation.
        login(&one, user).await?;
    }
    Ok(())
}

async fn resumed(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let (one, other) = (sessions(&sandbox).await?, sessions(&sandbox).await?);
    let written_down = one.begin_login().await?.moment().to_string();
    let moment: LoginMoment = written_down.parse()?;
    let created = other
        .resume_login(moment.clone())
        .create(NewSession::new("alice"))
        .await?;
    assert_eq!(ask(&one, &created).await, "valid");
    let _ = one.revoke_all("alice").await?;
    let refused = other
        .resume_login(moment)
        .create(NewSession::new("alice"))
        .await;
    assert!(
        matches!(refused, Err(Error::LoginSuperseded)),
        "{refused:?}"
    );
    Ok(())
}

async fn embedded(_: Arc<Backends>) -> Outcome {
    let store = session_layer::store::SqliteStore::open(":memory:").await?;
    let cache = session_layer::cache::MemoryCache::new(100);
    let sessions = session_layer::Sessions::builder(cache, store).build();
    let before = sessions.begin_login().await?;
    let _ = sessions.revoke_all("alice").await?;
    let refused = before.create(NewSession::new("alice")).await;
    assert!(
        matches!(refused, Err(Error::LoginSuperseded)),
        "{refused:?}"
    );
    let after = sessions.begin_login().await?;
    after.create(NewSession::new("alice")).await?;
    Ok(())
}

async fn waits(backends: Arc<Backends>) -> Outcome {
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    until_connected(&sessions).await?;
    let long = Duration::from_secs(30);

    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let done = sessions.revoke_and_wait(alice.token.reveal(), long).await?;
    assert_eq!((done.value, done.reach), (1, Reach::Propagated));

    let (bob, carol) = (
        login(&sessions, "bob").await?,
        login(&sessions, "carol").await?,
    );
    own.redis.kill().await?;
    let began = Instant::now();
    let done = sessions.revoke_and_wait(bob.token.reveal(), long).await?;
    assert_eq!(done.value, 1);
    assert!(
        matches!(done.reach, Reach::Committed { within, .. } if within.is_zero()),
        "{done:?}"
    );
    assert!(began.elapsed() >= Duration::from_secs(2), "that is D");

    let soon = Duration::from_millis(500);
    let done = sessions.revoke_and_wait(carol.token.reveal(), soon).await?;
    assert!(
        matches!(done.reach, Reach::Committed { within, .. } if !within.is_zero()),
        "the deadline came first: {done:?}"
    );
    let nothing = sessions.revoke_and_wait(&"A".repeat(43), long).await?;
    assert_eq!((nothing.value, nothing.reach), (0, Reach::Nothing));
    Ok(())
}
