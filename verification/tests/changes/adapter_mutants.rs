//! The mistakes that a Redis adapter can make, each made on a real Redis and forced to show: a
//! session that was ended, and its end answered `Propagated`, is honoured again. The adapter as it
//! is keeps the promise in the same interleaving. (`stale_fill.rs` has a fourth: the fill as a
//! plain SET.)
//!
//! | mutant | interleaving |
//! |---|---|
//! | SET NX and a tombstone | read, revoke, *the tombstone is evicted*, fill |
//! | lease nonce reused | read, revoke, *another's lease*, fill |
//! | a fill sealed with the present incarnation | lease and read, dump, revoke, *restart from the dump*, fill |
//! | values without incarnation | copy, dump, revoke, *restart from the dump*, hit |

mod tampered;

use std::sync::Arc;

use redis::AsyncCommands as _;
use session_layer::{Created, Sessions, Visibility};
use session_testkit::backends::Sandbox;
use session_testkit::wait;
use tokio::task::JoinHandle;

use self::tampered::{By, Tampered};
use crate::changes::stale_fill::ports::Stops;
use crate::harness::{Failure, Outcome, shared};
use crate::mutants::BrokenStore;
use crate::support::{
    OwnRedis, SOON, ask, by_leases_alone, key, login, store, until_connected, until_hit,
};

/// A node whose reads can be stopped between Postgres' answer and the fill.
struct Node {
    sessions: Sessions,
    stops: Stops,
    fills: Arc<tampered::Fills>,
}

impl Node {
    async fn start(redis_url: &str, sandbox: &Sandbox, by: By) -> Result<Self, Failure> {
        let stops = Stops::default();
        let cache = Tampered::new(redis_url, sandbox, by).await?;
        let fills = cache.fills();
        let store = BrokenStore { store: Arc::new(store(sandbox).await?), broken: stops.clone() };
        let sessions = by_leases_alone(cache, store).await?;
        until_connected(&sessions).await?;
        Ok(Self { sessions, stops, fills })
    }

    /// A validation that has its lease and Postgres' answer, and stops there.
    async fn reading(&self, of: &Created) -> Result<Reading, Failure> {
        let (arrived, go_on) = self.stops.next_read_of(of.token.digest());
        let (sessions, of) = (self.sessions.clone(), of.clone());
        let answer = tokio::spawn(async move { ask(&sessions, &of).await });
        arrived.await?;
        Ok(Reading { answer, go_on })
    }

    /// Lets it go on until its fill is done, and says what it answered.
    async fn finish(&self, reading: Reading) -> Result<&'static str, Failure> {
        let before = self.fills.count();
        let _ = reading.go_on.send(());
        let answer = reading.answer.await?;
        wait::until("the late fill", SOON, async || self.fills.count() > before).await?;
        Ok(answer)
    }
}

struct Reading {
    answer: JoinHandle<&'static str>,
    go_on: tokio::sync::oneshot::Sender<()>,
}

/// By another node than the one that is asked afterwards: what a node changed itself it holds back.
async fn revoke(sessions: &Sessions, session: &Created) -> Outcome {
    let visibility = sessions.revoke(session.token.reveal()).await?.visibility;
    assert_eq!(visibility, Visibility::Propagated);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn set_nx_and_a_tombstone_brings_a_revoked_session_back() -> Outcome {
    let backends = shared().await?;
    for (by, seen) in [(By::Nothing, "invalid"), (By::TombstoneAndSetNx, "valid")] {
        let sandbox = backends.sandbox();
        let node = Node::start(sandbox.redis_url(), &sandbox, by).await?;
        let other = Node::start(sandbox.redis_url(), &sandbox, by).await?;
        let alice = login(&node.sessions, "alice").await?;
        let reading = node.reading(&alice).await?;
        revoke(&other.sessions, &alice).await?;
        // What an eviction or a flush does to it.
        let () = backends.redis().connect().await?.del(key(&sandbox, &alice)).await?;
        assert_eq!(node.finish(reading).await?, "valid", "it began before");
        assert_eq!(ask(&node.sessions, &alice).await, seen, "{by:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reused_nonce_brings_a_revoked_session_back() -> Outcome {
    let backends = shared().await?;
    for (by, seen) in [(By::Nothing, "invalid"), (By::NonceReused, "valid")] {
        let sandbox = backends.sandbox();
        let node = Node::start(sandbox.redis_url(), &sandbox, by).await?;
        let other = Node::start(sandbox.redis_url(), &sandbox, by).await?;
        let alice = login(&node.sessions, "alice").await?;
        let reading = node.reading(&alice).await?;
        revoke(&other.sessions, &alice).await?;
        let second = other.reading(&alice).await?;
        assert_eq!(node.finish(reading).await?, "valid", "it began before");
        assert_eq!(ask(&node.sessions, &alice).await, seen, "{by:?}");
        let _ = second.go_on.send(());
        assert_eq!(second.answer.await?, "invalid");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_sealed_with_the_present_incarnation_brings_it_back() -> Outcome {
    let backends = shared().await?;
    for (by, seen) in [(By::Nothing, "invalid"), (By::SealedWithThePresent, "valid")] {
        let own = OwnRedis::start(&backends).await?;
        let node = Node::start(own.redis.url(), &own.sandbox, by).await?;
        let other = Node::start(own.redis.url(), &own.sandbox, by).await?;
        let alice = login(&node.sessions, "alice").await?;
        let reading = node.reading(&alice).await?;
        // So that it is there still when a busy machine has restarted Redis.
        let mut redis = own.redis.connect().await?;
        let kept: bool = redis.persist(key(&own.sandbox, &alice)).await?;
        assert!(kept, "there is a lease");
        own.redis.save().await?;
        revoke(&other.sessions, &alice).await?;
        restart(&own).await?;
        let mut redis = own.redis.connect().await?;
        let back: bool = redis.exists(key(&own.sandbox, &alice)).await?;
        assert!(back, "the dump has brought the lease back");
        until_connected(&node.sessions).await?;
        // Until it serves copies of this incarnation.
        let bob = login(&node.sessions, "bob").await?;
        until_hit(&node.sessions, &bob).await?;
        assert_eq!(node.finish(reading).await?, "valid", "it began before");
        assert_eq!(ask(&node.sessions, &alice).await, seen, "{by:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_without_incarnation_bring_it_back() -> Outcome {
    let backends = shared().await?;
    for (by, seen) in [(By::Nothing, "invalid"), (By::WithoutIncarnation, "valid")] {
        // A server that does not tell who it is: the incarnation is one and the same for ever. What
        // is promised there is `Committed`; the mutant says `Propagated` all the same.
        let arguments: &[&str] = match by {
            By::WithoutIncarnation => &["--rename-command", "INFO", ""],
            _ => &[],
        };
        let own = OwnRedis::start_with(&backends, arguments).await?;
        let node = Node::start(own.redis.url(), &own.sandbox, by).await?;
        let other = Node::start(own.redis.url(), &own.sandbox, by).await?;
        let alice = login(&node.sessions, "alice").await?;
        until_hit(&node.sessions, &alice).await?;
        own.redis.save().await?;
        revoke(&other.sessions, &alice).await?;
        restart(&own).await?;
        until_connected(&node.sessions).await?;
        assert_eq!(ask(&node.sessions, &alice).await, seen, "{by:?}");
    }
    Ok(())
}

async fn restart(own: &OwnRedis) -> Outcome {
    own.redis.kill().await?;
    own.redis.restart().await?;
    Ok(())
}
