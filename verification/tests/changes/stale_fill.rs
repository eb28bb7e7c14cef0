//! The race that a cache beside a database loses: a reader has read the old row, the change is
//! committed and the copy removed, and then the reader's fill arrives.
//!
//! It is forced, not hoped for: the read is stopped between Postgres' answer and the fill while the
//! change is made, 1,000 times, with every fence lost. To show that the test can fail, the same is
//! done with the fill as a plain SET: then all 1,000 come back.

pub(crate) mod ports;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use session_layer::store::SessionStore as _;
use session_layer::{NewSession, Sessions, TokenDigest, Validation};
use session_testkit::backends::Backends;
use session_testkit::wait;

use self::ports::{Faulty, FillBy, LateFills, Stops};
use crate::harness::{Failure, Outcome, shared};
use crate::mutants::BrokenStore;
use crate::support::{SOON, ask, by_leases_alone, cache, execute, store};

const TRIES: usize = 1_000;
const AT_ONCE: usize = 25;

/// A token is read, rotated away by a node whose UNLINK is lost, and then touched: the touch goes
/// by the session, and answers with the version after the rotation, which every node's journal
/// believes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_between_read_and_touch_leaves_no_old_copy() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let stops = Stops::default();
    let postgres = store(&sandbox).await?;
    let stopping = BrokenStore { store: Arc::new(postgres.clone()), broken: stops.clone() };
    let slow = by_leases_alone(cache(sandbox.redis_url(), &sandbox)?, stopping).await?;
    let other = crate::support::sessions(&sandbox).await?;
    let new = NewSession::new("alice").idle_timeout(Duration::from_secs(3_600));
    let alice = slow.create(new).await?;
    let unused = format!(
        "UPDATE {}.sessions SET last_seen_at = now() - interval '10 minutes'",
        sandbox.schema()
    );
    execute(backends.postgres(), unused).await?;
    let (arrived, go_on) = stops.next_read_of(alice.token.digest());
    let reading = tokio::spawn({
        let (slow, token) = (slow.clone(), alice.token.reveal().to_owned());
        async move { slow.validate(&token).await }
    });
    arrived.await?;
    let next = TokenDigest::of("the next token");
    postgres.rotate(alice.token.digest(), next, Duration::ZERO).await?;
    let _ = go_on.send(());
    assert!(matches!(reading.await?, Validation::Valid(_)), "it began before the rotation");
    let reads = other.metrics().journal_reads;
    wait::until("two reads of the journal", SOON, async || {
        other.metrics().journal_reads >= reads + 2
    })
    .await?;
    assert_eq!(ask(&other, &alice).await, "invalid");
    Ok(())
}

/// A row deleted by plain SQL: nobody unlinks its key. But a node that has answered "invalid" has
/// seen to it that a fill under way, of a row read before the DELETE, comes to nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_invalid_was_answered_a_late_fill_is_refused() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let stops = Stops::default();
    let late = Faulty::cache(&backends, &sandbox, FillBy::Lease).await?;
    let late_fills = Arc::clone(&late.broken.late_fills);
    let stopping = BrokenStore { store: Arc::new(store(&sandbox).await?), broken: stops.clone() };
    let slow = by_leases_alone(late, stopping).await?;
    let other = crate::support::sessions(&sandbox).await?;
    crate::support::until_connected(&other).await?;
    let alice = slow.create(NewSession::new("alice")).await?;
    let token = alice.token.reveal().to_owned();
    let (arrived, go_on) = stops.next_read_of(alice.token.digest());
    let reading = tokio::spawn({
        let (slow, token) = (slow.clone(), token.clone());
        async move { slow.validate(&token).await }
    });
    arrived.await?;
    let delete =
        format!("DELETE FROM {}.sessions WHERE id = '{}'", sandbox.schema(), alice.session.id());
    execute(backends.postgres(), delete).await?;
    assert!(matches!(other.validate(&token).await, Validation::Invalid));
    let _ = go_on.send(());
    assert!(matches!(reading.await?, Validation::Valid(_)), "it began before the DELETE");
    wait::until("the late fill", SOON, async || late_fills.of(&alice.token.digest()) == 1).await?;
    assert!(matches!(other.validate(&token).await, Validation::Invalid));
    assert_eq!(slow.metrics().fills_refused, 1);
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ChangeBy {
    Revoke,
    Update,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_fill_never_brings_a_revoked_session_back() -> Outcome {
    let backends = shared().await?;
    assert_eq!(resurrected(&backends, ChangeBy::Revoke, FillBy::Lease).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_fill_never_brings_old_data_back() -> Outcome {
    let backends = shared().await?;
    assert_eq!(resurrected(&backends, ChangeBy::Update, FillBy::Lease).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_plain_set_as_the_fill_revoked_ones_come_back() -> Outcome {
    let backends = shared().await?;
    nearly_all(resurrected(&backends, ChangeBy::Revoke, FillBy::PlainSet).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_plain_set_as_the_fill_old_data_comes_back() -> Outcome {
    let backends = shared().await?;
    nearly_all(resurrected(&backends, ChangeBy::Update, FillBy::PlainSet).await?)
}

/// Where Redis was too slow for one of a try's deadlines on a busy machine, Postgres answered, or
/// an UNLINK was repeated.
fn nearly_all(came_back: usize) -> Outcome {
    assert!(came_back >= TRIES * 9 / 10, "{came_back} of {TRIES}");
    Ok(())
}

/// In how many of the tries the old state was served after its end.
async fn resurrected(
    backends: &Backends,
    change: ChangeBy,
    fill: FillBy,
) -> Result<usize, Failure> {
    let sandbox = backends.sandbox();
    let cache = Faulty::cache(backends, &sandbox, fill).await?;
    let stops = Stops::default();
    let store = BrokenStore { store: Arc::new(store(&sandbox).await?), broken: stops.clone() };
    let late_fills = Arc::clone(&cache.broken.late_fills);
    let sessions = by_leases_alone(cache, store).await?;
    // Another node: what one changed itself it holds back.
    let other = Faulty::cache(backends, &sandbox, fill).await?;
    let changing = by_leases_alone(other, crate::support::store(&sandbox).await?).await?;
    let tries = stream::iter(0..TRIES)
        .map(|number| one_try((&sessions, &changing), &stops, &late_fills, change, number))
        .buffer_unordered(AT_ONCE);
    let came_back: Vec<bool> = tries.try_collect().await?;
    let fences = sessions.metrics();
    eprintln!("{} fills refused, {} stored", fences.fills_refused, fences.fills);
    Ok(came_back.into_iter().filter(|back| *back).count())
}

async fn one_try(
    (sessions, changing): (&Sessions, &Sessions),
    stops: &Stops,
    late_fills: &LateFills,
    change: ChangeBy,
    number: usize,
) -> Result<bool, Failure> {
    let created = sessions.create(NewSession::new(format!("user {number}")).data("old")).await?;
    let digest = created.token.digest();
    let token = created.token.reveal().to_owned();

    let (arrived, go_on) = stops.next_read_of(digest);
    let reading = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.validate(&token).await }
    });
    arrived.await?;
    let changed = match change {
        ChangeBy::Revoke => changing.revoke(created.token.reveal()).await?.visibility,
        ChangeBy::Update => changing.update(&created.session, "new").await?.visibility,
    };
    assert_eq!(changed, session_layer::Visibility::Propagated);
    let _ = go_on.send(());
    // The read that began before the change may still answer the old state; its fill is what
    // counts.
    assert!(
        matches!(reading.await?, Validation::Valid(session) if session.data::<String>()? == "old")
    );
    wait::until("the late fill", SOON, async || late_fills.of(&digest) == 1).await?;

    match sessions.validate(created.token.reveal()).await {
        Validation::Valid(session) => {
            Ok(change == ChangeBy::Revoke || session.data::<String>()? == "old")
        }
        Validation::Invalid => {
            assert!(change == ChangeBy::Revoke);
            Ok(false)
        }
        other => panic!("{other:?}"),
    }
}
