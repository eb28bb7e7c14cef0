//! The embedded pair: SQLite and the in-process cache, one process, nothing to install.

use std::time::Duration;

use session_layer::cache::{MemoryCache, NoCache};
use session_layer::store::{SessionStore as _, SqliteStore};
use session_layer::{Error, NewSession, Reach, Sessions};
use session_testkit::wait;

use crate::harness::{Failure, Outcome, Registry};
use crate::support::{SOON, ask, built, lives_for_ever, login, until_hit};

pub(crate) fn tests(reg: &mut Registry) {
    reg.plain("hit_revoke_and_restart", hit_revoke_and_restart);
    reg.plain("update_and_rotate", update_and_rotate);
    reg.plain("revoke_all_but_one", revoke_all);
    reg.plain("without_a_cache_too_it_is_propagated", uncached);
    reg.plain("no_span_is_too_long", for_ever);
    reg.plain("a_second_process_is_kept_out", second_process);
}

async fn open(path: &str) -> Result<Sessions, Failure> {
    Ok(built(
        MemoryCache::new(1_000),
        SqliteStore::open(path).await?,
    ))
}

async fn hit_revoke_and_restart() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("sessions.db").display().to_string();
    let sessions = open(&path).await?;
    let alice = login(&sessions, "alice").await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &alice).await?;
    assert_eq!(
        sessions.revoke(alice.token.reveal()).await?.reach,
        Reach::Propagated
    );
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    sessions.shutdown(SOON).await?;
    drop(sessions);
    let again = open(&path).await?;
    assert_eq!(ask(&again, &alice).await, "invalid");
    assert_eq!(ask(&again, &bob).await, "valid");
    Ok(())
}

async fn update_and_rotate() -> Outcome {
    let sessions = open(":memory:").await?;
    let alice = sessions
        .create(NewSession::new("alice").data("old"))
        .await?;
    until_hit(&sessions, &alice).await?;
    let changed = sessions.update(&alice.session, "new").await?;
    assert_eq!(changed.reach, Reach::Propagated);
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

async fn revoke_all() -> Outcome {
    let sessions = open(":memory:").await?;
    let (one, two) = (
        login(&sessions, "alice").await?,
        login(&sessions, "alice").await?,
    );
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &one).await?;
    until_hit(&sessions, &two).await?;
    assert_eq!(sessions.list("alice").await?.len(), 2);
    assert_eq!(sessions.revoke_all_but(&one.session).await?.value, 1);
    assert_eq!(ask(&sessions, &one).await, "valid");
    assert_eq!(ask(&sessions, &two).await, "invalid");
    assert_eq!(sessions.revoke_all("alice").await?.value, 1);
    assert_eq!(ask(&sessions, &one).await, "invalid");
    assert_eq!(ask(&sessions, &bob).await, "valid");
    Ok(())
}

/// There is no other process that could have a copy.
async fn uncached() -> Outcome {
    let sessions = built(NoCache, SqliteStore::open(":memory:").await?);
    let alice = login(&sessions, "alice").await?;
    let revoked = sessions.revoke(alice.token.reveal()).await?;
    assert_eq!((revoked.value, revoked.reach), (1, Reach::Propagated));
    Ok(())
}

async fn for_ever() -> Outcome {
    let store = SqliteStore::open(":memory:").await?;
    assert_eq!(store.sweep(Duration::MAX, 1).await?, 0);
    assert_eq!(store.purge_journal(Duration::MAX).await?, 0);
    let sessions = Sessions::builder(MemoryCache::new(100), store)
        .ttl(Duration::MAX)
        .budget(Duration::MAX)
        .build();
    lives_for_ever(&sessions).await
}

async fn second_process() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("sessions.db").display().to_string();
    let sessions = open(&path).await?;
    assert!(
        SqliteStore::open(&path).await.is_err(),
        "one process at a time"
    );
    sessions.shutdown(SOON).await?;
    Ok(())
}
