//! The embedded pair: SQLite and the in-process cache, one process, nothing to install.

use std::time::Duration;

use session_layer::cache::{MemoryCache, NoCache};
use session_layer::store::{SessionStore as _, SqliteStore};
use session_layer::{Error, NewSession, RevokeTarget, Sessions, Visibility};
use session_testkit::wait;

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, ask, built, lives_for_ever, login, until_hit};

async fn open(path: &str) -> Result<Sessions, Failure> {
    Ok(built(MemoryCache::new(1_000), SqliteStore::open(path).await?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_session_stays_revoked_after_a_restart() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("sessions.db").display().to_string();
    let sessions = open(&path).await?;
    let alice = login(&sessions, "alice").await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &alice).await?;
    assert_eq!(sessions.revoke(alice.token.reveal()).await?.visibility, Visibility::Propagated);
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    sessions.shutdown(SOON).await?;
    drop(sessions);
    let again = open(&path).await?;
    assert_eq!(ask(&again, &alice).await, "invalid");
    assert_eq!(ask(&again, &bob).await, "valid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn update_and_rotate_work_embedded() -> Outcome {
    let sessions = open(":memory:").await?;
    let alice = sessions.create(NewSession::new("alice").data("old")).await?;
    until_hit(&sessions, &alice).await?;
    let changed = sessions.update(&alice.session, "new").await?;
    assert_eq!(changed.visibility, Visibility::Propagated);
    let lost = sessions.update(&alice.session, "newer").await;
    assert!(matches!(lost, Err(Error::VersionConflict)), "{lost:?}");
    let rotated = sessions.rotate(alice.token.reveal(), SOON).await?.value;
    assert_eq!(ask(&sessions, &alice).await, "valid", "within the grace");
    let twice = sessions.rotate(alice.token.reveal(), SOON).await;
    assert!(matches!(twice, Err(Error::AlreadyRotated)), "{twice:?}");
    assert_eq!(sessions.revoke(rotated.token.reveal()).await?.value, 1);
    wait::until("both tokens to be worthless", SOON, async || {
        ask(&sessions, &alice).await == "invalid"
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_all_but_one_works_embedded() -> Outcome {
    let sessions = open(":memory:").await?;
    let (one, two) = (login(&sessions, "alice").await?, login(&sessions, "alice").await?);
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &one).await?;
    until_hit(&sessions, &two).await?;
    assert_eq!(sessions.list("alice").await?.sessions.len(), 2);
    assert_eq!(sessions.revoke(RevokeTarget::others_of(&one.session)).await?.value, 1);
    assert_eq!(ask(&sessions, &one).await, "valid");
    assert_eq!(ask(&sessions, &two).await, "invalid");
    assert_eq!(sessions.revoke(RevokeTarget::user("alice")).await?.value, 1);
    assert_eq!(ask(&sessions, &one).await, "invalid");
    assert_eq!(ask(&sessions, &bob).await, "valid");
    Ok(())
}

/// There is no other process that could have a copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cache_too_it_is_propagated() -> Outcome {
    let sessions = built(NoCache, SqliteStore::open(":memory:").await?);
    let alice = login(&sessions, "alice").await?;
    let revoked = sessions.revoke(alice.token.reveal()).await?;
    assert_eq!((revoked.value, revoked.visibility), (1, Visibility::Propagated));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_duration_is_too_long() -> Outcome {
    let store = SqliteStore::open(":memory:").await?;
    assert_eq!(store.sweep(Duration::MAX, 1).await?, 0);
    assert_eq!(store.purge_journal(Duration::MAX).await?, 0);
    let sessions = Sessions::builder(MemoryCache::new(100), store)
        .ttl(Duration::from_secs(24 * 3600))
        .validation_timeout(Duration::from_secs(24 * 3600))
        .build()?;
    lives_for_ever(&sessions).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_is_kept_out() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("sessions.db").display().to_string();
    let sessions = open(&path).await?;
    assert!(SqliteStore::open(&path).await.is_err(), "one process at a time");
    sessions.shutdown(SOON).await?;
    Ok(())
}
