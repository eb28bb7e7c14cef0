//! The journal of changes ends entries within D, whatever Redis does, also after direct SQL.
//! `bounds.rs` has the bounds of each result of `revoke`. Redis loses removals as
//! `lost_invalidations.rs` describes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::AsyncCommands as _;
use session_layer::store::PostgresStore;
use session_layer::{Created, NewSession, PartitionPolicy, Sessions, Validation, Visibility};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;
use tokio::time::Instant;

use crate::changes::lost_invalidations::{D, lives_on, node, patient_store};
use crate::harness::{Failure, Outcome};
use crate::support::{
    SOON, Servers, ask, login, run, until, until_hit, until_journal_is_read, until_journal_reads,
};

/// Two nodes on one Redis, which can lose every UNLINK and fence.
struct Pair {
    servers: Servers,
    revoker: Sessions,
    reader: Sessions,
    /// The line between the reader and Postgres.
    line: Proxy,
    loses: Arc<AtomicBool>,
}

impl Pair {
    async fn start() -> Result<Self, Failure> {
        let servers = Servers::shared().await?;
        let loses = Arc::default();
        let line = Proxy::start(servers.postgres().address()).await?;
        let near = patient_store(servers.database_url(), &servers).await?;
        let far = patient_store(&line.url(servers.database_url()), &servers).await?;
        let revoker = available(&servers, near, &loses)?;
        Ok(Self { revoker, reader: available(&servers, far, &loses)?, servers, line, loses })
    }

    fn lose_removals(&self) {
        self.loses.store(true, Ordering::SeqCst);
    }

    /// Creates a session that both nodes serve from Redis.
    async fn cached(&self, user: &str) -> Result<Created, Failure> {
        let created = login(&self.revoker, user).await?;
        until_hit(&self.revoker, &created).await?;
        until_hit(&self.reader, &created).await?;
        Ok(created)
    }

    /// Asserts that the reader ends a session within D that has just ended in Postgres.
    async fn assert_ends_within_d(&self, created: &Created) -> Outcome {
        let lived = lives_on(&self.reader, created, Instant::now(), D).await?;
        assert!(lived.is_within(D) || lived.out_of_touch, "{lived:?}");
        until(&self.reader, created, "invalid").await
    }
}

fn available(
    servers: &Servers,
    store: PostgresStore,
    loses: &Arc<AtomicBool>,
) -> Result<Sessions, Failure> {
    node(servers.redis.url(), store, &servers.sandbox, PartitionPolicy::Available, loses)
}

// The transaction's id is older than those of changes that were read long before its COMMIT. A
// reader that continues after the last id, or reads a window of time, misses it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_that_commits_late_ends_its_entry() -> Outcome {
    let pair = Pair::start().await?;
    let alice = pair.cached("alice").await?;
    pair.lose_removals();
    let mut open = pair.servers.operator().await?;
    let id = alice.session.id();
    let revoke = format!("BEGIN; UPDATE sessions SET revoked_at = now() WHERE id = '{id}'");
    run(&mut open, revoke).await?;
    for user in ["bob", "carol", "dave"] {
        let other = login(&pair.revoker, user).await?;
        let _ = pair.revoker.revoke(other.token.reveal()).await?;
        until_journal_is_read(&pair.reader).await?;
        assert_eq!(ask(&pair.reader, &alice).await, "valid", "not committed");
    }
    run(&mut open, "COMMIT").await?;
    pair.assert_ends_within_d(&alice).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_node_serves_nothing_before_its_first_read() -> Outcome {
    let pair = Pair::start().await?;
    let (alice, bob) = (pair.cached("alice").await?, pair.cached("bob").await?);
    pair.lose_removals();
    let _ = pair.revoker.revoke(alice.token.reveal()).await?;
    // The node cannot read the journal, and therefore serves neither entry.
    let cut = pair.line.inject(Toxic::down());
    let url = pair.line.url(pair.servers.database_url());
    let store = PostgresStore::builder(url).schema(pair.servers.schema()).build()?;
    let new = available(&pair.servers, store, &Arc::default())?;
    for _ in 0..5 {
        assert_eq!(ask(&new, &alice).await, "unavailable");
        assert_eq!(ask(&new, &bob).await, "unavailable");
    }
    assert_eq!((new.metrics().hits, new.metrics().journal_reads), (0, 0));
    drop(cut);
    until_journal_reads(&new, 1).await?;
    assert_eq!(ask(&new, &alice).await, "invalid");
    until_hit(&new, &bob).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_data_is_rejected_although_its_entry_remains() -> Outcome {
    let pair = Pair::start().await?;
    let alice = pair.cached("alice").await?;
    pair.lose_removals();
    let changed = pair.revoker.update(&alice.session, "new").await?;
    assert!(matches!(changed.visibility, Visibility::Committed { within, .. } if within == D));
    wait::until("the new data", SOON, async || {
        match pair.reader.validate(alice.token.reveal()).await {
            Validation::Valid(session) => session.data::<String>().is_ok_and(|data| data == "new"),
            other => panic!("{other:?}"),
        }
    })
    .await?;
    // The first reader replaced the old entry.
    until_hit(&pair.reader, &alice).await
}

// The node that reads of the change removes the entry. No request needs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry_of_a_session_ended_by_sql_is_removed_without_a_request() -> Outcome {
    let servers = Servers::shared().await?;
    let (_sessions, alice) = servers.cached().await?;
    servers.revoke_by_sql(&alice).await?;
    let mut redis = servers.redis().await?;
    wait::until("the entry to be removed", SOON, async || {
        let there: Result<bool, _> = redis.exists(servers.key(&alice)).await;
        there.is_ok_and(|there| !there)
    })
    .await?;
    Ok(())
}

// A transaction that empties the journal removes the rows of its own changes too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncate_emptied_journal_and_raised_epoch_end_every_entry() -> Outcome {
    for change in [
        "TRUNCATE sessions",
        "BEGIN; UPDATE sessions SET revoked_at = now(); DELETE FROM session_journal; COMMIT",
        "BEGIN; UPDATE sessions SET revoked_at = now(); TRUNCATE session_journal; COMMIT",
        "UPDATE session_users SET epoch = epoch + 1 WHERE user_id = 'alice'",
    ] {
        let pair = Pair::start().await?;
        let (alice, bob) = (pair.cached("alice").await?, pair.cached("bob").await?);
        pair.servers.sql(change).await?;
        pair.assert_ends_within_d(&alice).await?;
        if change.contains("alice") {
            assert_eq!(ask(&pair.reader, &bob).await, "valid", "another user");
        }
        pair.cached("alice").await?;
    }
    Ok(())
}

// An uncommitted UPDATE locks sessions that are due for a touch. They stay valid, and other changes
// count within D.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_locked_by_sql_delay_no_other_session() -> Outcome {
    let pair = Pair::start().await?;
    let zed = pair.cached("zed").await?;
    let mut locked = Vec::new();
    for n in 0..12 {
        let new = NewSession::new(format!("locked {n}")).idle_timeout(SOON * 60);
        locked.push(pair.revoker.create(new).await?);
    }
    let mut operator = pair.servers.operator().await?;
    let unused = "UPDATE sessions SET last_seen_at = now() - interval '2 minutes'";
    run(&mut operator, format!("{unused} WHERE user_id LIKE 'locked%'")).await?;
    let lock = "BEGIN; UPDATE sessions SET label = 'x' WHERE user_id LIKE 'locked%'";
    run(&mut operator, lock).await?;
    let polling = locked.into_iter().map(|created| {
        let reader = pair.reader.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                assert_eq!(ask(&reader, &created).await, "valid");
            }
        })
    });
    let polling: Vec<_> = polling.collect();
    pair.servers.revoke_by_sql(&zed).await?;
    pair.assert_ends_within_d(&zed).await?;
    login(&pair.reader, "another").await?;
    for one in polling {
        one.await?;
    }
    run(&mut operator, "ROLLBACK").await
}
