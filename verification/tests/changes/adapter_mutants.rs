//! The mistakes that a Redis adapter can make, each on a real Redis in the interleaving that shows
//! it: a session whose revocation was `Propagated` is valid again. The correct adapter keeps the
//! promise in the same interleaving. `stale_fill.rs` has the fill as a plain SET.
//!
//! | mutant | interleaving |
//! |---|---|
//! | SET NX and a tombstone | read, revoke, *the tombstone is evicted*, fill |
//! | lease nonce reused | read, revoke, *another's lease*, fill |
//! | a fill sealed with the present incarnation | lease and read, dump, revoke, *restart from the dump*, fill |
//! | values without incarnation | entry, dump, revoke, *restart from the dump*, hit |

use redis::AsyncCommands as _;
use session_layer::{Created, Visibility};
use session_testkit::wait;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::broken_ports::{By, Node};
use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, login, until_connected, until_hit};

/// A validation that has its lease and Postgres' reply, and is stopped there.
struct Reading {
    reply: JoinHandle<&'static str>,
    release: oneshot::Sender<()>,
}

impl Node {
    async fn reading(&self, of: &Created) -> Result<Reading, Failure> {
        let (arrived, release) = self.stops.next_read_of(of.token.digest());
        let (sessions, of) = (self.sessions.clone(), of.clone());
        let reply = tokio::spawn(async move { ask(&sessions, &of).await });
        arrived.await?;
        Ok(Reading { reply, release })
    }

    /// Releases a read of an active session, and waits for its fill.
    async fn finish(&self, reading: Reading, of: &Created) -> Outcome {
        let digest = of.token.digest();
        let before = self.fills.of(&digest);
        let _ = reading.release.send(());
        assert_eq!(reading.reply.await?, "valid", "it began before the revocation");
        wait::until("the late fill", SOON, async || self.fills.of(&digest) > before).await?;
        Ok(())
    }

    /// Revokes on this node, which does not serve the entry afterwards. Others are tested.
    async fn revoke(&self, session: &Created) -> Outcome {
        let visibility = self.sessions.revoke(session.token.reveal()).await?.visibility;
        assert_eq!(visibility, Visibility::Propagated);
        Ok(())
    }
}

/// Starts two nodes, and creates a session.
async fn start(servers: &Servers, by: By) -> Result<(Node, Node, Created), Failure> {
    let (node, other) = (Node::start(servers, by).await?, Node::start(servers, by).await?);
    for node in [&node, &other] {
        until_connected(&node.sessions).await?;
    }
    let alice = login(&node.sessions, "alice").await?;
    Ok((node, other, alice))
}

async fn restart(servers: &Servers) -> Outcome {
    servers.redis.kill().await?;
    Ok(servers.redis.restart().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn set_nx_and_a_tombstone_revives_a_revoked_session() -> Outcome {
    for (by, seen) in [(By::Nothing, "invalid"), (By::TombstoneAndSetNx, "valid")] {
        let servers = Servers::shared().await?;
        let (node, other, alice) = start(&servers, by).await?;
        let reading = node.reading(&alice).await?;
        other.revoke(&alice).await?;
        // An eviction or a flush does the same.
        let () = servers.redis().await?.del(servers.key(&alice)).await?;
        node.finish(reading, &alice).await?;
        assert_eq!(ask(&node.sessions, &alice).await, seen, "{by:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reused_nonce_revives_a_revoked_session() -> Outcome {
    for (by, seen) in [(By::Nothing, "invalid"), (By::NonceReused, "valid")] {
        let servers = Servers::shared().await?;
        let (node, other, alice) = start(&servers, by).await?;
        let reading = node.reading(&alice).await?;
        other.revoke(&alice).await?;
        let second = other.reading(&alice).await?;
        node.finish(reading, &alice).await?;
        assert_eq!(ask(&node.sessions, &alice).await, seen, "{by:?}");
        let _ = second.release.send(());
        assert_eq!(second.reply.await?, "invalid");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fill_sealed_with_the_present_incarnation_revives_a_session() -> Outcome {
    for (by, seen) in [(By::Nothing, "invalid"), (By::SealedWithThePresent, "valid")] {
        let servers = Servers::own_redis().await?;
        let (node, other, alice) = start(&servers, by).await?;
        let reading = node.reading(&alice).await?;
        // The lease must not expire during a slow restart.
        let kept: bool = servers.redis().await?.persist(servers.key(&alice)).await?;
        assert!(kept, "there is no lease");
        servers.redis.save().await?;
        other.revoke(&alice).await?;
        restart(&servers).await?;
        let restored: bool = servers.redis().await?.exists(servers.key(&alice)).await?;
        assert!(restored, "the dump has no lease");
        until_connected(&node.sessions).await?;
        // The node serves entries of this incarnation from here on.
        let bob = login(&node.sessions, "bob").await?;
        until_hit(&node.sessions, &bob).await?;
        node.finish(reading, &alice).await?;
        assert_eq!(ask(&node.sessions, &alice).await, seen, "{by:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_without_incarnation_revive_a_session() -> Outcome {
    for (by, seen) in [(By::Nothing, "invalid"), (By::WithoutIncarnation, "valid")] {
        // Without INFO, the incarnation never changes. The adapter returns `Committed` there, and
        // the mutant `Propagated`.
        let arguments: &[&str] = match by {
            By::WithoutIncarnation => &["--rename-command", "INFO", ""],
            _ => &[],
        };
        let servers = Servers::own_redis_with(arguments).await?;
        let (node, other, alice) = start(&servers, by).await?;
        until_hit(&node.sessions, &alice).await?;
        servers.redis.save().await?;
        other.revoke(&alice).await?;
        restart(&servers).await?;
        until_connected(&node.sessions).await?;
        assert_eq!(ask(&node.sessions, &alice).await, seen, "{by:?}");
    }
    Ok(())
}
