//! A Redis Cluster: moved slots and a lost shard cost misses, and no wrong answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use redis::cmd;
use session_layer::cache::{ConnectCause, RedisCache};
use session_layer::{Created, RevokeTarget, Sessions, Visibility};
use session_testkit::backends::{Backend, Backends, Cluster, RedisServer};
use session_testkit::wait;
use tokio::task::JoinHandle;

use crate::harness::{Failure, Outcome, on, shared};
use crate::judged::judged;
use crate::support::{
    SOON, Servers, ask, assert_contains, login, roomy, until, until_connected, until_hit,
};

/// The limit of logins until each shard has a session.
const LOGINS: usize = 200;
/// The time that a direct connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A cluster, a node, and a session of alice on each shard.
struct Scene {
    servers: Servers,
    cluster: Cluster,
    sessions: Sessions,
    /// In the order of the shards.
    of_shards: Vec<Arc<Created>>,
}

impl Scene {
    async fn on(cluster: Cluster) -> Result<Self, Failure> {
        let servers = Servers::on(shared().await?);
        let sessions = servers.sessions_at(&cluster.url()).await?;
        until_connected(&sessions).await?;
        let mut of_shards = vec![None, None, None];
        for _ in 0..LOGINS {
            let alice = login(&sessions, "alice").await?;
            let shard = shard_of(slot(&servers, &cluster, &alice).await?);
            if of_shards[shard].is_none() {
                until_hit(&sessions, &alice).await?;
                of_shards[shard] = Some(Arc::new(alice));
            }
            if of_shards.iter().all(Option::is_some) {
                break;
            }
        }
        let of_shards = of_shards.into_iter().flatten().collect();
        Ok(Self { servers, cluster, sessions, of_shards })
    }

    async fn slot(&self, session: &Created) -> Result<u16, Failure> {
        slot(&self.servers, &self.cluster, session).await
    }

    /// Returns whether this server has the key of a session.
    async fn has_key(&self, server: &RedisServer, session: &Created) -> Result<bool, Failure> {
        let slot = self.slot(session).await?;
        let mut redis = server.connect().await?;
        let mut keys = cmd("CLUSTER");
        keys.arg("GETKEYSINSLOT").arg(slot).arg(1_000);
        let keys: Vec<String> = keys.query_async(&mut redis).await?;
        Ok(keys.contains(&self.servers.key(session)))
    }
}

/// Returns the slot of a session's key, as Redis computes it.
async fn slot(servers: &Servers, cluster: &Cluster, session: &Created) -> Result<u16, Failure> {
    let mut redis = cluster.masters()[2].connect().await?;
    let mut keyslot = cmd("CLUSTER");
    keyslot.arg("KEYSLOT").arg(servers.key(session));
    Ok(keyslot.query_async(&mut redis).await?)
}

/// Returns the shard that has the slot at the start.
fn shard_of(slot: u16) -> usize {
    (0..3u16).position(|shard| Cluster::slots(shard).contains(&slot)).expect("every slot is served")
}

/// Validates sessions until it is stopped. Each must be valid. Returns the number of validations.
fn validate(sessions: &Sessions, all: &[Arc<Created>], stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let (sessions, all, stop) = (sessions.clone(), all.to_vec(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut count = 0;
        while !stop.load(Ordering::SeqCst) {
            for answer in join_all(all.iter().map(|session| ask(&sessions, session))).await {
                assert_eq!(answer, "valid");
                count += 1;
            }
            tokio::task::yield_now().await;
        }
        count
    })
}

fn assert_committed(visibility: Visibility) {
    assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_hits_on_every_shard_and_ends_sessions_on_all() -> Outcome {
    on(Backend::Native, |_| async {
        let scene = Scene::on(Cluster::start().await?).await?;
        let Scene { sessions, of_shards, cluster, .. } = &scene;
        let before = sessions.metrics();
        // Concurrent look-ups of keys with different slots.
        for _ in 0..20 {
            let twice = of_shards.iter().chain(of_shards);
            for answer in join_all(twice.map(|session| ask(sessions, session))).await {
                assert_eq!(answer, "valid");
            }
        }
        let after = sessions.metrics();
        assert_eq!((after.hits - before.hits, after.misses - before.misses), (120, 0));
        for (session, master) in of_shards.iter().zip(cluster.masters()) {
            assert!(scene.has_key(master, session).await?, "{}", master.address());
        }
        let report = sessions.health().await;
        assert_eq!(report.errors, Vec::<String>::new());
        assert_eq!(report.session_cache.pool.size, 30);
        let keys = report.redis.total_keys.expect("every shard replies");
        assert!(keys >= 3, "{keys}");

        let revoked = sessions.revoke(RevokeTarget::user("alice")).await?;
        assert_committed(revoked.visibility);
        for (session, master) in of_shards.iter().zip(cluster.masters()) {
            assert!(!scene.has_key(master, session).await?, "{}", master.address());
            assert_eq!(ask(sessions, session).await, "invalid");
        }
        sessions.shutdown(SOON).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slot_moved_under_load_costs_misses_only() -> Outcome {
    on(Backend::Native, |_| async {
        let scene = Scene::on(Cluster::start().await?).await?;
        let Scene { servers, cluster, sessions, of_shards } = &scene;
        let other = servers.sessions_at(&cluster.url()).await?;
        let bob = login(sessions, "bob").await?;
        until_hit(sessions, &bob).await?;
        until_hit(&other, &bob).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let validating = [validate(sessions, of_shards, &stop), validate(&other, of_shards, &stop)];
        // The slots of alice and of bob move with 50 slots around each.
        let masters = cluster.masters();
        for session in [&*of_shards[0], &bob] {
            let slot = scene.slot(session).await?;
            let from = shard_of(slot);
            let of_shard = Cluster::slots(u16::try_from(from)?);
            let first = slot.saturating_sub(25).max(*of_shard.start());
            let last = (slot + 25).min(*of_shard.end());
            cluster.move_slots(&masters[from], &masters[(from + 1) % 3], first..=last).await?;
        }
        assert_committed(sessions.revoke(bob.token.reveal()).await?.visibility);
        assert_eq!(ask(sessions, &bob).await, "invalid");
        until(&other, &bob, "invalid").await?;
        for node in [sessions, &other] {
            until_hit(node, &of_shards[0]).await?;
        }
        stop.store(true, Ordering::SeqCst);
        for count in join_all(validating).await {
            assert!(count? > 0);
        }
        assert!(scene.has_key(&masters[1], &of_shards[0]).await?);
        assert_eq!(ask(&other, &bob).await, "invalid");
        for node in [sessions, &other] {
            node.shutdown(SOON).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_while_its_slot_moves_is_honoured() -> Outcome {
    on(Backend::Native, |_| async {
        let scene = Scene::on(Cluster::start().await?).await?;
        let Scene { servers, cluster, sessions, of_shards } = &scene;
        let other = servers.sessions_at(&cluster.url()).await?;
        let (from, to) = (&cluster.masters()[2], &cluster.masters()[0]);
        let session = &of_shards[2];
        until_hit(&other, session).await?;
        let slot = scene.slot(session).await?;
        let mut mover = cluster.mover(from, to).await?;
        mover.begin(slot).await?;
        assert!(mover.move_keys(slot).await? > 0);
        assert!(scene.has_key(to, session).await?);
        // Its former server redirects (ASK), and no look-up follows.
        for node in [sessions, &other] {
            let hits = node.metrics().hits;
            assert_eq!(ask(node, session).await, "valid");
            assert_eq!(node.metrics().hits, hits);
        }
        assert_committed(sessions.revoke(session.token.reveal()).await?.visibility);
        assert_eq!(ask(sessions, session).await, "invalid");
        until(&other, session, "invalid").await?;
        mover.end(slot).await?;
        // The UNLINK that was not acknowledged is repeated at the new owner.
        wait::until("the entry's end", SOON, async || {
            scene.has_key(to, session).await.is_ok_and(|has| !has)
        })
        .await?;
        for node in [sessions, &other] {
            assert_eq!(ask(node, session).await, "invalid");
            node.shutdown(SOON).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_shard_leaves_the_hits_of_the_others() -> Outcome {
    on(Backend::Native, |_| async {
        let scene = Scene::on(Cluster::start().await?).await?;
        let Scene { cluster, sessions, of_shards, .. } = &scene;
        let stop = Arc::new(AtomicBool::new(false));
        let validating = validate(sessions, of_shards, &stop);
        let lost = &cluster.masters()[1];
        lost.kill().await?;
        // The shard is known to be down, and the others hit.
        wait::until("the report of the shard", SOON, async || {
            sessions.health().await.errors.iter().any(|it| it.contains(lost.address()))
        })
        .await?;
        let report = sessions.health().await;
        assert!(report.http_status() == 200 && report.redis.connected, "{report:?}");
        assert_contains(
            &report.errors.join("\n"),
            &["the shard", lost.address(), "of the cluster"],
            &"health",
        );
        let before = sessions.metrics();
        for session in [&of_shards[0], &of_shards[2]] {
            until_hit(sessions, session).await?;
        }
        assert_eq!(sessions.metrics().breaker_opened, before.breaker_opened);
        stop.store(true, Ordering::SeqCst);
        assert!(validating.await? > 0);
        // A revocation there is committed, and honoured by this node at once.
        let session = &of_shards[1];
        assert_committed(sessions.revoke(session.token.reveal()).await?.visibility);
        assert_eq!(ask(sessions, session).await, "invalid");
        lost.restart().await?;
        let again = login_on(&scene, 1).await?;
        until_hit(sessions, &again).await?;
        sessions.shutdown(SOON).await?;
        Ok(())
    })
    .await
}

/// Logs in until the session is on this shard.
async fn login_on(scene: &Scene, shard: usize) -> Result<Created, Failure> {
    for _ in 0..LOGINS {
        let created = login(&scene.sessions, "carol").await?;
        if shard_of(scene.slot(&created).await?) == shard {
            return Ok(created);
        }
    }
    Err("no session on the shard".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_takes_over_its_shard() -> Outcome {
    on(Backend::Native, |_| async {
        let scene = Scene::on(Cluster::start_with_replicas().await?).await?;
        let Scene { cluster, sessions, of_shards, .. } = &scene;
        let bob = login_on(&scene, 0).await?;
        until_hit(sessions, &bob).await?;
        assert_committed(sessions.revoke(bob.token.reveal()).await?.visibility);
        let stop = Arc::new(AtomicBool::new(false));
        let validating = validate(sessions, of_shards, &stop);
        let lost = &cluster.masters()[0];
        lost.kill().await?;
        cluster.until_master_is_not(lost, *Cluster::slots(0).start()).await?;
        until_hit(sessions, &of_shards[0]).await?;
        stop.store(true, Ordering::SeqCst);
        assert!(validating.await? > 0);
        assert_eq!(ask(sessions, &bob).await, "invalid");
        assert!(scene.has_key(&cluster.replicas()[0], &of_shards[0]).await?);
        // The URL names the lost master too. A node that starts now finds the replica.
        let new = scene.servers.sessions_at(&cluster.url()).await?;
        until_hit(&new, &of_shards[0]).await?;
        for node in [sessions, &new] {
            node.shutdown(SOON).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_of_the_cluster_is_used_for_every_node() -> Outcome {
    on(Backend::Native, |_| async {
        let cluster = Cluster::start().await?;
        for master in cluster.masters() {
            let mut admin = master.connect().await?;
            let rule = ["SETUSER", "app", "on", ">s3cret", "~*", "+@all"];
            cmd("ACL").arg(&rule).exec_async(&mut admin).await?;
            cmd("ACL").arg(&["SETUSER", "default", "-mget"]).exec_async(&mut admin).await?;
        }
        let servers = Servers::on(shared().await?);
        let with_password = cluster.url().replacen("://", "://app:s3cret@", 1);
        let sessions = servers.sessions_at(&with_password).await?;
        for _ in 0..10 {
            let created = login(&sessions, "alice").await?;
            until_hit(&sessions, &created).await?;
        }
        for master in cluster.masters() {
            let mut admin = master.connect().await?;
            let clients: String = cmd("CLIENT").arg("LIST").query_async(&mut admin).await?;
            assert!(clients.contains("user=app"), "{clients}");
        }
        sessions.shutdown(SOON).await?;
        let wrong = cluster.url().replacen("://", "://app:wrong@", 1);
        let error = RedisCache::builder(wrong).connect_for_key(b"key", CONNECT).await;
        let error = error.expect_err("another password");
        assert_eq!(error.cause(), ConnectCause::Authentication, "{error}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn url_of_another_topology_is_named() -> Outcome {
    on(Backend::Native, |_| async {
        let (servers, cluster) = (Servers::own_redis().await?, Cluster::start().await?);
        let node = cluster.masters()[0].address();
        let error = RedisCache::builder(format!("redis://{node}")).connect(CONNECT).await;
        let error = error.expect_err("a node of a cluster");
        assert_eq!(error.cause(), ConnectCause::Protocol, "{error}");
        assert_contains(error.remedy(), &["redis+cluster://"], &error);

        let plain = format!("redis+cluster://{}", servers.redis.address());
        let error = RedisCache::builder(&plain).connect_for_key(b"key", CONNECT).await;
        let error = error.expect_err("no cluster");
        assert_eq!(error.cause(), ConnectCause::Protocol, "{error}");
        assert_contains(error.why(), &["no node of a cluster"], &error);
        let sessions = servers.sessions_at(&plain).await?;
        wait::until("the cause in the health document", SOON, async || {
            let errors = sessions.health().await.errors.join("\n");
            errors.contains("no node of a cluster") && errors.contains("redis://")
        })
        .await?;
        sessions.shutdown(SOON).await?;
        Ok(())
    })
    .await
}

// Slots move there and back, and then a shard goes down, while sessions are validated, changed and
// revoked on two nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_while_a_cluster_changes() -> Outcome {
    on(Backend::Native, |backend| async move {
        let own = Backends::builder().backend(backend).start().await?;
        let deployment = roomy().cluster(true).start(own).await?;
        judged(&deployment, &["redis-cluster-slot-move@1+4", "redis-cluster-shard-down@9+4"], 18)
            .await?;
        Ok(())
    })
    .await
}
