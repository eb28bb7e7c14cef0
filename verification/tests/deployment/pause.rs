//! A Postgres that scales to zero: a node without traffic leaves it alone, and every promise holds
//! when the node wakes.

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::store::SessionStore;
use session_layer::{Created, PartitionPolicy, Sessions, Validation, Visibility};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, built, login, until_hit};

/// The shortest setting, so that a test waits for a second or two.
const AFTER: Duration = Duration::from_secs(1);
const JOURNAL: Duration = session_layer::defaults::DEFAULT_JOURNAL_INTERVAL;
const MIB: usize = 1 << 20;

/// A node that pauses, and the line between it and Postgres.
struct Sleeper {
    servers: Servers,
    line: Proxy,
    sessions: Sessions,
}

impl Sleeper {
    async fn start(policy: PartitionPolicy, near_cache: usize) -> Result<Self, Failure> {
        let servers = Servers::shared().await?;
        let line = Proxy::start(servers.postgres().address()).await?;
        let store = servers.store_at(&line.url(servers.database_url())).await?;
        let sessions = Sessions::builder(servers.cache()?, store)
            .validation_timeout(Duration::from_secs(5))
            .slow_lookup_threshold(Duration::from_secs(5))
            .policy(policy)
            .near_cache(near_cache)
            .pause_without_traffic(AFTER)
            .build()?;
        Ok(Self { servers, line, sessions })
    }

    /// Creates a session that this node serves from an entry.
    async fn cached(&self, user: &str) -> Result<Created, Failure> {
        let created = login(&self.sessions, user).await?;
        until_hit(&self.sessions, &created).await?;
        Ok(created)
    }

    /// Waits until this node has paused: its reader rests, it is not registered, and its
    /// connections are closed.
    async fn pause(&self) -> Outcome {
        self.pause_beside(0).await
    }

    /// Does so while this many other nodes are awake.
    async fn pause_beside(&self, others: i64) -> Outcome {
        let mut operator = self.servers.operator().await?;
        wait::until("a pause", SOON, async || {
            let metrics = self.sessions.metrics();
            let rests = metrics.paused && metrics.journal_age.is_none();
            rests && registrations(&mut operator).await == others && self.line.traffic().open == 0
        })
        .await?;
        Ok(())
    }

    /// Validates a session often and at once, until the node serves entries again.
    async fn wake(&self, created: &Created) -> Result<Vec<&'static str>, Failure> {
        let (hits, mut words) = (self.sessions.metrics().hits, Vec::new());
        let deadline = Instant::now() + JOURNAL * 3;
        while Instant::now() < deadline && self.sessions.metrics().hits == hits {
            words.extend(join_all((0..20).map(|_| ask(&self.sessions, created))).await);
        }
        Ok(words)
    }
}

/// Returns the number of registered nodes.
async fn registrations(operator: &mut PgConnection) -> i64 {
    let counting = sqlx::query_scalar("SELECT count(*) FROM session_nodes");
    counting.fetch_one(operator).await.expect("Postgres is up")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_node_sends_nothing_to_postgres() -> Outcome {
    let node = Sleeper::start(PartitionPolicy::Available, 0).await?;
    let alice = node.cached("alice").await?;
    assert_eq!(node.sessions.health().await.http_status(), 200);
    for _ in 0..2 {
        node.pause().await?;
        let before = node.line.traffic();
        for _ in 0..8 {
            let health = node.sessions.health().await;
            assert!(health.paused && health.errors.is_empty(), "{health:?}");
            assert_eq!(health.http_status(), 200);
            sleep(JOURNAL / 2).await;
        }
        assert_eq!(node.line.traffic(), before);
        until_hit(&node.sessions, &alice).await?;
        assert!(node.line.traffic().accepted > before.accepted);
        assert_eq!(registrations(&mut node.servers.operator().await?).await, 1);
    }
    node.pause().await?;
    let before = node.line.traffic();
    node.sessions.shutdown(Duration::from_secs(1)).await?;
    assert_eq!(node.line.traffic(), before);
    Ok(())
}

// Its entry is still in Redis, or in the memory of the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_sql_ends_during_a_pause_is_rejected_at_once() -> Outcome {
    for policy in [PartitionPolicy::Available, PartitionPolicy::FailClosed] {
        for near_cache in [0, MIB] {
            let node = Sleeper::start(policy, near_cache).await?;
            let (alice, bob) = (node.cached("alice").await?, node.cached("bob").await?);
            node.pause().await?;
            node.servers.revoke_by_sql(&alice).await?;
            let words = node.wake(&alice).await?;
            assert!(words.iter().all(|word| *word == "invalid"), "{policy:?}: {words:?}");
            until_hit(&node.sessions, &bob).await?;
        }
    }
    Ok(())
}

// While the node sleeps, it is not registered. Another node's revocation is therefore `Propagated`,
// although no UNLINK reaches the near cache of the sleeping one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_that_was_propagated_during_a_pause_holds_for_the_first_request() -> Outcome {
    let node = Sleeper::start(PartitionPolicy::Available, MIB).await?;
    let (alice, bob) = (node.cached("alice").await?, node.cached("bob").await?);
    let other = built(node.servers.cache()?, node.servers.store().await?);
    until_hit(&other, &alice).await?;
    node.pause_beside(1).await?;
    let revoked = other.revoke(alice.token.reveal()).await?;
    assert_eq!((revoked.value, revoked.visibility), (1, Visibility::Propagated));
    let words = node.wake(&alice).await?;
    assert!(words.iter().all(|word| *word == "invalid"), "{words:?}");
    until_hit(&node.sessions, &bob).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_whose_journal_row_was_purged_during_a_pause_is_honored() -> Outcome {
    for near_cache in [0, MIB] {
        let node = Sleeper::start(PartitionPolicy::Available, near_cache).await?;
        let alice = node.cached("alice").await?;
        node.pause().await?;
        let id = alice.session.id();
        node.servers
            .sql(format!(
                "UPDATE sessions SET data = '{{\"new\":1}}' WHERE id = '{id}';
                 DELETE FROM session_journal"
            ))
            .await?;
        let hits = node.sessions.metrics().hits;
        wait::until("a hit", SOON, async || {
            let validation = node.sessions.validate(alice.token.reveal()).await;
            let Validation::Valid(session) = validation else { panic!("{validation:?}") };
            assert_eq!(session.data_json(), "{\"new\":1}");
            node.sessions.metrics().hits > hits
        })
        .await?;
    }
    Ok(())
}

// A partitioned node would serve the entry under this policy. This one does not know what changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_wakes_without_postgres_serves_no_entry() -> Outcome {
    let servers = Servers::shared().await?;
    let line = Proxy::start(servers.postgres().address()).await?;
    let store = servers.store_at(&line.url(servers.database_url())).await?;
    let sessions = Sessions::builder(servers.cache()?, store)
        .slow_lookup_threshold(Duration::from_secs(5))
        .pause_without_traffic(AFTER)
        .build()?;
    let node = Sleeper { servers, line, sessions };
    let alice = node.cached("alice").await?;
    node.pause().await?;
    let cut = node.line.inject(Toxic::down());
    let hits = node.sessions.metrics().hits;
    for _ in 0..5 {
        assert_eq!(ask(&node.sessions, &alice).await, "unavailable");
    }
    assert_eq!(node.sessions.metrics().hits, hits);
    drop(cut);
    wait::until("a hit", SOON, async || {
        let _ = ask(&node.sessions, &alice).await;
        node.sessions.metrics().hits > hits
    })
    .await?;
    Ok(())
}

// The application's pool is the application's to close. The node leaves it idle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_idle_closes_no_connection_of_the_application() -> Outcome {
    let servers = Servers::shared().await?;
    let pool = sqlx::PgPool::connect(servers.database_url()).await?;
    let store = session_layer::store::PostgresStore::from_pool(pool.clone());
    let store = store.schema(servers.schema()).build()?;
    store.migrate().await?;
    wait::until("an idle connection", SOON, async || pool.num_idle() > 0).await?;
    let idle = pool.num_idle();
    store.close_idle().await;
    assert_eq!(pool.num_idle(), idle);
    Ok(())
}
