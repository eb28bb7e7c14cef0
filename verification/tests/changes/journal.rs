//! What the journal of changes gives: a bound for every change, whatever Redis does, and for plain
//! SQL too.
//!
//! How long a session lives on after each answer of `revoke` is in `bounds.rs`; here is what the
//! journal is made of. Redis "loses" what the tests say: its UNLINKs are acknowledged and not
//! carried out (`lost_invalidations.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::AsyncCommands as _;
use session_layer::store::PostgresStore;
use session_layer::{Created, PartitionPolicy, Sessions, Visibility};
use session_testkit::backends::{Backends, Sandbox};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;
use tokio::time::Instant;

use crate::changes::lost_invalidations::{D, lives_on, node, store_on};
use crate::harness::{Failure, Outcome, shared};
use crate::support::{SOON, ask, execute, key, login, sessions, until_hit};

/// Two nodes on one Redis, which loses every UNLINK and fence from now on.
struct Pair {
    revoker: Sessions,
    reader: Sessions,
    /// Between the reader and Postgres.
    line: Proxy,
    loses: Arc<AtomicBool>,
}

impl Pair {
    async fn start(
        backends: &Backends,
        sandbox: &Sandbox,
        policy: PartitionPolicy,
    ) -> Result<Self, Failure> {
        let loses = Arc::new(AtomicBool::new(false));
        let line = Proxy::start(backends.postgres().address()).await?;
        let near = store_on(sandbox.database_url(), sandbox).await?;
        let far = store_on(&line.url(sandbox.database_url()), sandbox).await?;
        let node = |store| node(sandbox.redis_url(), store, sandbox, policy, &loses);
        Ok(Self { revoker: node(near)?, reader: node(far)?, line, loses })
    }

    /// A session that both nodes serve from Redis.
    async fn cached(&self, user: &str) -> Result<Created, Failure> {
        let created = login(&self.revoker, user).await?;
        until_hit(&self.revoker, &created).await?;
        until_hit(&self.reader, &created).await?;
        Ok(created)
    }

    /// The session has just ended, and this node hears of it from the journal alone.
    async fn ends_within_d(&self, created: &Created) -> Outcome {
        let lived = lives_on(&self.reader, created, Instant::now(), D).await?;
        assert!(lived.is_within(D) || lived.out_of_touch, "{lived:?}");
        wait::until("the session to end", SOON, async || {
            ask(&self.reader, created).await == "invalid"
        })
        .await?;
        Ok(())
    }
}

/// Nobody was revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fail_closed_serves_nothing_when_cut_off() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, PartitionPolicy::FailClosed).await?;
    let bob = pair.cached("bob").await?;
    let cut = pair.line.inject(Toxic::down());
    let lived = lives_on(&pair.reader, &bob, Instant::now(), D).await?;
    assert!(lived.is_within(D), "{lived:?}");
    assert_eq!(lived.answer, "unavailable");
    // The health document says why.
    let health = serde_json::to_value(pair.reader.health().await)?;
    let journal = &health["journal"];
    assert!(journal["ageMs"].as_u64() > journal["withinMs"].as_u64(), "{health}");
    drop(cut);
    wait::until("Postgres to be asked again", SOON, async || {
        ask(&pair.reader, &bob).await == "valid"
    })
    .await?;
    Ok(())
}

/// Its transaction id is older than those of changes that were read long before it: a reader that
/// goes by the last id, or by a window of time, never sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_commits_late_is_seen() -> Outcome {
    let backends = shared().await?;
    use sqlx::Connection as _;

    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, PartitionPolicy::Available).await?;
    let alice = pair.cached("alice").await?;
    pair.loses.store(true, Ordering::SeqCst);
    let mut person = backends.postgres().connect().await?;
    let mut open = person.begin().await?;
    let revoke = format!(
        "UPDATE {}.sessions SET revoked_at = now() WHERE id = '{}'",
        sandbox.schema(),
        alice.session.id()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(revoke)).execute(&mut *open).await?;
    // Others commit meanwhile, and are read: several times over.
    for user in ["bob", "carol", "dave"] {
        let other = login(&pair.revoker, user).await?;
        let _ = pair.revoker.revoke(other.token.reveal()).await?;
        let reads = pair.reader.metrics().journal_reads;
        wait::until("two reads of the journal", SOON, async || {
            pair.reader.metrics().journal_reads >= reads + 2
        })
        .await?;
        assert_eq!(ask(&pair.reader, &alice).await, "valid", "not committed");
    }
    open.commit().await?;
    pair.ends_within_d(&alice).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_starting_node_believes_nothing_before_its_first_read() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, PartitionPolicy::Available).await?;
    let (alice, bob) = (pair.cached("alice").await?, pair.cached("bob").await?);
    pair.loses.store(true, Ordering::SeqCst);
    let _ = pair.revoker.revoke(alice.token.reveal()).await?;
    // It can't read the journal, and so serves neither copy, though both look well.
    let cut = pair.line.inject(Toxic::down());
    let store = store_on_lazily(&pair.line.url(sandbox.database_url()), &sandbox)?;
    let keeps = Arc::default();
    let fresh = node(sandbox.redis_url(), store, &sandbox, PartitionPolicy::Available, &keeps)?;
    for _ in 0..5 {
        assert_eq!(ask(&fresh, &alice).await, "unavailable");
        assert_eq!(ask(&fresh, &bob).await, "unavailable");
    }
    assert_eq!((fresh.metrics().hits, fresh.metrics().journal_reads), (0, 0));
    drop(cut);
    wait::until("a first read of the journal", SOON, async || fresh.metrics().journal_reads > 0)
        .await?;
    assert_eq!(ask(&fresh, &alice).await, "invalid");
    until_hit(&fresh, &bob).await?;
    Ok(())
}

fn store_on_lazily(url: &str, sandbox: &Sandbox) -> Result<PostgresStore, Failure> {
    Ok(PostgresStore::builder(url).schema(sandbox.schema()).build()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_data_is_contradicted_although_the_copy_is_there() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, PartitionPolicy::Available).await?;
    let alice = pair.cached("alice").await?;
    pair.loses.store(true, Ordering::SeqCst);
    let changed = pair.revoker.update(&alice.session, "new").await?;
    assert!(matches!(changed.visibility, Visibility::Committed { within, .. } if within == D));
    wait::until("the new data", SOON, async || {
        match pair.reader.validate(alice.token.reveal()).await {
            session_layer::Validation::Valid(session) => {
                session.data::<String>().is_ok_and(|data| data == "new")
            }
            other => panic!("{other:?}"),
        }
    })
    .await?;
    // The first reader replaced the old copy; from then on there are hits.
    until_hit(&pair.reader, &alice).await?;
    Ok(())
}

/// By a node that reads of it. The copy would live for its TTL else, which nobody here waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_elsewhere_is_removed_though_nobody_asks() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let end = format!("UPDATE {}.sessions SET revoked_at = now()", sandbox.schema());
    execute(backends.postgres(), end).await?;
    let mut redis = backends.redis().connect().await?;
    wait::until("the copy to be removed", SOON, async || {
        let there: Result<bool, _> = redis.exists(key(&sandbox, &alice)).await;
        there.is_ok_and(|there| !there)
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_ends_every_copy() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, PartitionPolicy::Available).await?;
    let alice = pair.cached("alice").await?;
    let truncate = format!("TRUNCATE {}.sessions", sandbox.schema());
    execute(backends.postgres(), truncate).await?;
    pair.ends_within_d(&alice).await?;
    pair.cached("bob").await?;
    Ok(())
}

/// In one transaction: the rows that tell of its own changes are gone with the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_ends_sessions_and_empties_the_journal_ends_copies() -> Outcome {
    let backends = shared().await?;
    for empties in ["DELETE FROM", "TRUNCATE"] {
        let sandbox = backends.sandbox();
        let pair = Pair::start(&backends, &sandbox, PartitionPolicy::Available).await?;
        let alice = pair.cached("alice").await?;
        let schema = sandbox.schema();
        let end = format!(
            "BEGIN; UPDATE {schema}.sessions SET revoked_at = now(); {empties} \
             {schema}.session_journal; COMMIT"
        );
        execute(backends.postgres(), end).await?;
        pair.ends_within_d(&alice).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_raised_by_hand_ends_every_copy() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, PartitionPolicy::Available).await?;
    let alice = pair.cached("alice").await?;
    let bob = pair.cached("bob").await?;
    let raise = format!(
        "UPDATE {}.session_users SET epoch = epoch + 1 WHERE user_id = 'alice'",
        sandbox.schema()
    );
    execute(backends.postgres(), raise).await?;
    pair.ends_within_d(&alice).await?;
    assert_eq!(ask(&pair.reader, &bob).await, "valid");
    pair.cached("alice").await?;
    Ok(())
}

/// An UPDATE that nobody has committed yet, of sessions that are due to be touched. They are valid
/// meanwhile, and what else is changed counts within D.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_locked_by_hand_hold_up_nobody() -> Outcome {
    let backends = shared().await?;
    use sqlx::Connection as _;
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, PartitionPolicy::Available).await?;
    let zed = pair.cached("zed").await?;
    let mut locked = Vec::new();
    for n in 0..12 {
        let new = session_layer::NewSession::new(format!("locked {n}")).idle_timeout(SOON * 60);
        locked.push(pair.revoker.create(new).await?);
    }
    let mut person = backends.postgres().connect().await?;
    let run = |sql: &str| sqlx::AssertSqlSafe(sql.replace("{}", sandbox.schema()));
    let unused = "UPDATE {}.sessions SET last_seen_at = now() - interval '2 minutes' WHERE user_id \
                  LIKE 'locked%'";
    sqlx::raw_sql(run(unused)).execute(&mut person).await?;
    let mut transaction = person.begin().await?;
    let lock = "UPDATE {}.sessions SET label = 'x' WHERE user_id LIKE 'locked%'";
    sqlx::raw_sql(run(lock)).execute(&mut *transaction).await?;
    let polling = locked.iter().map(|one| {
        let (reader, token) = (pair.reader.clone(), one.token.reveal().to_owned());
        tokio::spawn(async move {
            for _ in 0..20 {
                assert!(matches!(
                    reader.validate(&token).await,
                    session_layer::Validation::Valid(_)
                ));
            }
        })
    });
    let polling: Vec<_> = polling.collect();
    let end = "UPDATE {}.sessions SET revoked_at = now() WHERE user_id = 'zed'";
    execute(backends.postgres(), end.replace("{}", sandbox.schema())).await?;
    pair.ends_within_d(&zed).await?;
    pair.reader.create(session_layer::NewSession::new("another")).await?;
    for one in polling {
        one.await?;
    }
    transaction.rollback().await?;
    Ok(())
}
