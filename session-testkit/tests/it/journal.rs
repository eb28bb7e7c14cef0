//! What the journal of changes gives: a bound for every change, whatever Redis does, and for plain SQL too.
//!
//! The bounds are the table of the README, "How long can a revoked session live on?", cell by cell: the
//! answer of `revoke` against the state of the node that reads. Redis "loses" what the tests say here: its
//! UNLINKs are acknowledged and not carried out, as by a failover right after, or never sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use session_layer::cache::{
    Belief, CacheProbe, CacheStatus, Entry, Filled, Invalidated, Lookup, RedisCache, RedisLease,
    SessionCache,
};
use session_layer::store::PostgresStore;
use session_layer::{CacheError, Created, Policy, Reach, Sessions, TokenDigest};
use session_testkit::backends::{Backends, Sandbox};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;
use tokio::time::Instant;

use crate::harness::{Failure, Outcome, Registry};
use crate::support::{SOON, ask, cache, login, store, store_on, until_hit};

/// So often the journal is read in these tests; D is four of it.
const INTERVAL: Duration = Duration::from_millis(250);
const D: Duration = Duration::from_secs(1);
/// Short, so that `at_most` can be waited for.
const TTL: Duration = Duration::from_secs(4);
/// What a busy machine may be late by, on top of a bound.
const LATE: Duration = Duration::from_secs(2);

pub(crate) fn tests(reg: &mut Registry) {
    reg.shared("propagated_holds_at_once_on_every_node", propagated);
    reg.shared("committed_holds_within_d_in_touch", in_touch);
    reg.shared(
        "committed_holds_at_most_ttl_and_lease_when_cut_off",
        cut_off,
    );
    reg.shared("fail_closed_serves_nothing_when_cut_off", fail_closed);
    reg.shared("plain_sql_counts_within_d", plain_sql);
    reg.shared("a_change_that_commits_late_is_seen", late_commit);
    reg.shared(
        "a_starting_node_believes_nothing_before_its_first_read",
        starting,
    );
    reg.shared(
        "old_data_is_contradicted_although_the_copy_is_there",
        old_data,
    );
    reg.shared("a_truncate_ends_every_copy", truncate);
    reg.shared("rows_locked_by_hand_hold_up_nobody", locked_rows);
}

/// A Redis that acknowledges UNLINKs and loses them, for as long as it is told to.
#[derive(Clone)]
struct Forgetful {
    cache: RedisCache,
    loses: Arc<AtomicBool>,
}

impl SessionCache for Forgetful {
    type Lease = RedisLease;
    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<RedisLease>> {
        self.cache.get(digests, judge).await
    }
    async fn fill(
        &self,
        lease: RedisLease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        self.cache.fill(lease, entry, lifetime).await
    }
    async fn fence(&self, digests: &[TokenDigest]) -> Result<(), CacheError> {
        if self.loses.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.cache.fence(digests).await
    }
    /// What is lost this way may come back, so it is `Here` only.
    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        if self.loses.load(Ordering::SeqCst) {
            return Ok(Invalidated::Here);
        }
        self.cache.invalidate(digests).await
    }
    fn status(&self) -> CacheStatus {
        self.cache.status()
    }
    async fn probe(&self) -> CacheProbe {
        self.cache.probe().await
    }
    async fn close(&self) {
        self.cache.close().await;
    }
}

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
        policy: Policy,
    ) -> Result<Self, Failure> {
        let loses = Arc::new(AtomicBool::new(false));
        let line = Proxy::start(backends.postgres().address()).await?;
        let near = store(sandbox).await?;
        let far = store_on(&line.url(sandbox.database_url()), sandbox).await?;
        let node = |store: PostgresStore| {
            let cache = Forgetful {
                cache: cache(sandbox.redis_url(), sandbox)?,
                loses: Arc::clone(&loses),
            };
            let sessions = Sessions::builder(cache, store)
                .budget(Duration::from_secs(5))
                .ttl(TTL)
                .journal_interval(INTERVAL)
                .policy(policy);
            Ok::<_, Failure>(sessions.build())
        };
        Ok(Self {
            revoker: node(near)?,
            reader: node(far)?,
            line,
            loses,
        })
    }

    /// A session that both nodes serve from Redis.
    async fn cached(&self, user: &str) -> Result<Created, Failure> {
        let created = login(&self.revoker, user).await?;
        until_hit(&self.revoker, &created).await?;
        until_hit(&self.reader, &created).await?;
        Ok(created)
    }

    /// How long after now the reader still says "valid", asked again and again.
    async fn lives_on(&self, created: &Created) -> Result<(Duration, &'static str), Failure> {
        let since = Instant::now();
        let mut last = Duration::ZERO;
        let mut answer = "valid";
        wait::until("the session to end", SOON, async || {
            answer = ask(&self.reader, created).await;
            if answer == "valid" {
                last = since.elapsed();
            }
            answer != "valid"
        })
        .await?;
        Ok((last, answer))
    }
}

async fn propagated(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    for policy in [Policy::Available, Policy::FailClosed] {
        let pair = Pair::start(&backends, &sandbox, policy).await?;
        let alice = pair.cached("alice").await?;
        // Also on a node that is cut off from Postgres: its copy is gone.
        let cut = pair.line.inject(Toxic::down());
        let revoked = pair.revoker.revoke(alice.token.reveal()).await?;
        assert_eq!(revoked.reach, Reach::Propagated);
        assert_eq!(ask(&pair.reader, &alice).await, "unavailable");
        drop(cut);
        assert_eq!(ask(&pair.revoker, &alice).await, "invalid");
    }
    Ok(())
}

async fn in_touch(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    for policy in [Policy::Available, Policy::FailClosed] {
        let pair = Pair::start(&backends, &sandbox, policy).await?;
        let alice = pair.cached("alice").await?;
        pair.loses.store(true, Ordering::SeqCst);
        let revoked = pair.revoker.revoke(alice.token.reveal()).await?;
        let at_most = match policy {
            Policy::FailClosed => D,
            _ => TTL + Duration::from_secs(2),
        };
        let within = D;
        assert_eq!(revoked.reach, Reach::Committed { within, at_most });
        let (lived, answer) = pair.lives_on(&alice).await?;
        assert_eq!(answer, "invalid");
        assert!(lived < within + LATE, "{policy:?}: {lived:?}");
    }
    Ok(())
}

async fn cut_off(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, Policy::Available).await?;
    let alice = pair.cached("alice").await?;
    let cut = pair.line.inject(Toxic::down());
    pair.loses.store(true, Ordering::SeqCst);
    let revoked = pair.revoker.revoke(alice.token.reveal()).await?;
    let Reach::Committed { at_most, .. } = revoked.reach else {
        panic!("{revoked:?}");
    };
    let (lived, answer) = pair.lives_on(&alice).await?;
    assert_eq!(answer, "unavailable", "nobody can say any more");
    assert!(lived < at_most + LATE, "{lived:?}");
    drop(cut);
    wait::until("Postgres to be asked again", SOON, async || {
        ask(&pair.reader, &alice).await == "invalid"
    })
    .await?;
    Ok(())
}

async fn fail_closed(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, Policy::FailClosed).await?;
    let (alice, bob) = (pair.cached("alice").await?, pair.cached("bob").await?);
    let cut = pair.line.inject(Toxic::down());
    pair.loses.store(true, Ordering::SeqCst);
    let revoked = pair.revoker.revoke(alice.token.reveal()).await?;
    assert!(matches!(revoked.reach, Reach::Committed { at_most, .. } if at_most == D));
    let (lived, answer) = pair.lives_on(&alice).await?;
    assert_eq!(answer, "unavailable");
    assert!(lived < D + LATE, "{lived:?}");
    // The same for one that nobody revoked; and its copy was left where it is.
    assert_eq!(ask(&pair.reader, &bob).await, "unavailable");
    // The health document says why.
    let health = serde_json::to_value(pair.reader.health().await)?;
    let journal = &health["journal"];
    assert!(
        journal["ageMs"].as_u64() > journal["withinMs"].as_u64(),
        "{health}"
    );
    drop(cut);
    wait::until("Postgres to be asked again", SOON, async || {
        ask(&pair.reader, &bob).await == "valid"
    })
    .await?;
    assert_eq!(ask(&pair.reader, &alice).await, "invalid");
    Ok(())
}

async fn plain_sql(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, Policy::Available).await?;
    for change in [
        "UPDATE {}.sessions SET revoked_at = now()",
        "DELETE FROM {}.sessions",
    ] {
        let alice = pair.cached("alice").await?;
        let change = change.replace("{}", sandbox.schema());
        let change = format!("{change} WHERE id = '{}'", alice.session.id());
        sqlx::raw_sql(sqlx::AssertSqlSafe(change))
            .execute(&mut backends.postgres().connect().await?)
            .await?;
        let (lived, answer) = pair.lives_on(&alice).await?;
        assert_eq!(answer, "invalid");
        assert!(lived < D + LATE, "{lived:?}");
    }
    Ok(())
}

/// Its transaction id is older than those of changes that were read long before it: a reader that goes by
/// the last id, or by a window of time, never sees it.
async fn late_commit(backends: Arc<Backends>) -> Outcome {
    use sqlx::Connection as _;

    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, Policy::Available).await?;
    let alice = pair.cached("alice").await?;
    pair.loses.store(true, Ordering::SeqCst);
    let mut person = backends.postgres().connect().await?;
    let mut open = person.begin().await?;
    let revoke = format!(
        "UPDATE {}.sessions SET revoked_at = now() WHERE id = '{}'",
        sandbox.schema(),
        alice.session.id()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(revoke))
        .execute(&mut *open)
        .await?;
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
    let (lived, answer) = pair.lives_on(&alice).await?;
    assert_eq!(answer, "invalid");
    assert!(lived < D + LATE, "{lived:?}");
    Ok(())
}

async fn starting(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, Policy::Available).await?;
    let (alice, bob) = (pair.cached("alice").await?, pair.cached("bob").await?);
    pair.loses.store(true, Ordering::SeqCst);
    let _ = pair.revoker.revoke(alice.token.reveal()).await?;
    // It can't read the journal, and so serves neither copy, though both look well.
    let cut = pair.line.inject(Toxic::down());
    let store = store_on_lazily(&pair.line.url(sandbox.database_url()), &sandbox)?;
    let fresh = Sessions::builder(cache(sandbox.redis_url(), &sandbox)?, store)
        .ttl(TTL)
        .journal_interval(INTERVAL)
        .build();
    for _ in 0..5 {
        assert_eq!(ask(&fresh, &alice).await, "unavailable");
        assert_eq!(ask(&fresh, &bob).await, "unavailable");
    }
    assert_eq!(
        (fresh.metrics().hits, fresh.metrics().journal_reads),
        (0, 0)
    );
    drop(cut);
    wait::until("a first read of the journal", SOON, async || {
        fresh.metrics().journal_reads > 0
    })
    .await?;
    assert_eq!(ask(&fresh, &alice).await, "invalid");
    until_hit(&fresh, &bob).await?;
    Ok(())
}

fn store_on_lazily(url: &str, sandbox: &Sandbox) -> Result<PostgresStore, Failure> {
    Ok(PostgresStore::builder(url)
        .schema(sandbox.schema())
        .connect_lazy()?)
}

async fn old_data(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, Policy::Available).await?;
    let alice = pair.cached("alice").await?;
    pair.loses.store(true, Ordering::SeqCst);
    let changed = pair.revoker.update(&alice.session, "new").await?;
    assert!(matches!(changed.reach, Reach::Committed { within, .. } if within == D));
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

async fn truncate(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, Policy::Available).await?;
    let alice = pair.cached("alice").await?;
    let truncate = format!("TRUNCATE {}.sessions", sandbox.schema());
    sqlx::raw_sql(sqlx::AssertSqlSafe(truncate))
        .execute(&mut backends.postgres().connect().await?)
        .await?;
    let (_, answer) = pair.lives_on(&alice).await?;
    assert_eq!(answer, "invalid");
    pair.cached("bob").await?;
    Ok(())
}

/// An UPDATE that nobody has committed yet, of sessions that are due to be touched. They are valid meanwhile, and
/// what else is changed counts within D.
async fn locked_rows(backends: Arc<Backends>) -> Outcome {
    use sqlx::Connection as _;
    let sandbox = backends.sandbox();
    let pair = Pair::start(&backends, &sandbox, Policy::Available).await?;
    let zed = pair.cached("zed").await?;
    let mut locked = Vec::new();
    for n in 0..12 {
        let new = session_layer::NewSession::new(format!("locked {n}")).idle_timeout(SOON * 60);
        locked.push(pair.revoker.create(new).await?);
    }
    let mut person = backends.postgres().connect().await?;
    let run = |sql: &str| sqlx::AssertSqlSafe(sql.replace("{}", sandbox.schema()));
    let unused = "UPDATE {}.sessions SET last_seen_at = now() - interval '2 minutes' WHERE user_id LIKE 'locked%'";
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
    sqlx::raw_sql(run(end))
        .execute(&mut backends.postgres().connect().await?)
        .await?;
    let (lived, answer) = pair.lives_on(&zed).await?;
    assert_eq!(answer, "invalid");
    assert!(lived < D + LATE, "{lived:?}");
    pair.reader
        .create(session_layer::NewSession::new("another"))
        .await?;
    for one in polling {
        one.await?;
    }
    transaction.rollback().await?;
    Ok(())
}
