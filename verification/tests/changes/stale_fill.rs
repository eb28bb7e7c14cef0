//! The classic race of a cache beside a database: a reader has read the old row, the change commits
//! and removes the entry, and then the reader's fill arrives.
//!
//! The tests force it: the read is stopped between Postgres' reply and the fill while the change is
//! made, 200 times, with every fence lost. With a plain SET as the fill, all 200 return, which
//! shows that the tests can fail.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use session_layer::store::SessionStore as _;
use session_layer::{Created, NewSession, TokenDigest, Validation, Visibility};
use session_testkit::wait;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::broken_ports::{By, Node};
use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, until_connected, until_journal_is_read};

const TRIES: usize = 200;
const CONCURRENT: usize = 25;

type Stopped = (JoinHandle<Validation>, oneshot::Sender<()>);

/// Validates on a node, and returns once the read has Postgres' reply.
async fn stopped(node: &Node, created: &Created) -> Result<Stopped, Failure> {
    let (arrived, release) = node.stops.next_read_of(created.token.digest());
    let (sessions, token) = (node.sessions.clone(), created.token.reveal().to_owned());
    let reading = tokio::spawn(async move { sessions.validate(&token).await });
    arrived.await?;
    Ok((reading, release))
}

// A node whose UNLINK is lost rotates the token between the read and the touch. The touch names the
// session, and returns the version after the rotation, which the journal does not reject.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_between_read_and_touch_leaves_no_old_entry() -> Outcome {
    let servers = Servers::shared().await?;
    let slow = Node::start(&servers, By::Nothing).await?;
    let other = servers.sessions().await?;
    let new = NewSession::new("alice").idle_timeout(Duration::from_secs(3_600));
    let alice = slow.sessions.create(new).await?;
    servers.sql("UPDATE sessions SET last_seen_at = now() - interval '10 minutes'").await?;
    let (reading, release) = stopped(&slow, &alice).await?;
    let next = TokenDigest::of("the next token");
    servers.store().await?.rotate(alice.token.digest(), next, Duration::ZERO).await?;
    let _ = release.send(());
    assert!(matches!(reading.await?, Validation::Valid(_)), "it began before the rotation");
    until_journal_is_read(&other).await?;
    assert_eq!(ask(&other, &alice).await, "invalid");
    Ok(())
}

// Direct SQL deletes the row and no node removes its key. A node that returned "invalid" has ended
// the lease of every fill in progress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_fill_is_refused_after_a_node_returned_invalid() -> Outcome {
    let servers = Servers::shared().await?;
    let slow = Node::start(&servers, By::Nothing).await?;
    let other = servers.sessions().await?;
    until_connected(&other).await?;
    let alice = slow.sessions.create(NewSession::new("alice")).await?;
    let (reading, release) = stopped(&slow, &alice).await?;
    servers.delete_by_sql(&alice).await?;
    assert_eq!(ask(&other, &alice).await, "invalid");
    let _ = release.send(());
    assert!(matches!(reading.await?, Validation::Valid(_)), "it began before the DELETE");
    let digest = alice.token.digest();
    wait::until("the late fill", SOON, async || slow.fills.of(&digest) == 1).await?;
    assert_eq!(ask(&other, &alice).await, "invalid");
    assert_eq!(slow.sessions.metrics().fills_refused, 1);
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ChangeBy {
    Revoke,
    Update,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_fill_never_revives_a_revoked_session() -> Outcome {
    assert_eq!(revived(ChangeBy::Revoke, By::Nothing).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_fill_never_restores_old_data() -> Outcome {
    assert_eq!(revived(ChangeBy::Update, By::Nothing).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_set_revives_revoked_sessions() -> Outcome {
    assert_nearly_all(revived(ChangeBy::Revoke, By::PlainSet).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_set_restores_old_data() -> Outcome {
    assert_nearly_all(revived(ChangeBy::Update, By::PlainSet).await?);
    Ok(())
}

/// On a busy machine, a try whose look-up times out reads Postgres, and an UNLINK may be repeated.
fn assert_nearly_all(revived: usize) {
    assert!(revived >= TRIES * 9 / 10, "{revived} of {TRIES}");
}

/// Returns the number of tries in which the old state was served after its end.
async fn revived(change: ChangeBy, by: By) -> Result<usize, Failure> {
    let servers = Servers::shared().await?;
    let node = Node::start(&servers, by).await?;
    // A node does not serve entries that it changed itself, therefore another makes the changes.
    let changing = Node::start(&servers, by).await?;
    let tries = stream::iter(0..TRIES)
        .map(|number| one_try(&node, &changing, change, number))
        .buffer_unordered(CONCURRENT);
    let revived: Vec<bool> = tries.try_collect().await?;
    let metrics = node.sessions.metrics();
    eprintln!("{} fills refused, {} stored", metrics.fills_refused, metrics.fills);
    Ok(revived.into_iter().filter(|revived| *revived).count())
}

async fn one_try(
    node: &Node,
    changing: &Node,
    change: ChangeBy,
    number: usize,
) -> Result<bool, Failure> {
    let new = NewSession::new(format!("user {number}")).data("old");
    let created = node.sessions.create(new).await?;
    let (reading, release) = stopped(node, &created).await?;
    let token = created.token.reveal();
    let changed = match change {
        ChangeBy::Revoke => changing.sessions.revoke(token).await?.visibility,
        ChangeBy::Update => changing.sessions.update(&created.session, "new").await?.visibility,
    };
    assert_eq!(changed, Visibility::Propagated);
    let _ = release.send(());
    // The read began before the change and may return the old state. Its fill must not.
    assert!(
        matches!(reading.await?, Validation::Valid(session) if session.data::<String>()? == "old")
    );
    let digest = created.token.digest();
    wait::until("the late fill", SOON, async || node.fills.of(&digest) == 1).await?;
    match node.sessions.validate(token).await {
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
