//! Checks of a [`SessionCache`].
//!
//! A check gets the handles of two [`Nodes`]: `here` reads and fills, and `there` also reads, or
//! changes the session. The checks demand only what the port's documentation states. A cache may
//! lose an entry, a lease or a fence when its server does, but not while the server works.

mod fences;
mod fills;
mod freshness;
mod invalidation;
mod keys;
mod leases;
mod status;

use std::{future::Future, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use session_layer::cache::{
    Entry, EntryVerdict, Filled, Invalidated, LEASE_TTL, Lookup, SessionCache,
};
use session_layer::store::SessionParts;
use session_layer::{Session, SessionId, Timestamp, TokenDigest};
use tokio::time::{Instant, sleep};

use super::check::{Check, Failure, Outcome, PATIENCE, When, answer, ensure, in_time};

/// The tolerance for clocks and timers. It exceeds their resolution, and is below relevant times.
const TOLERANCE: Duration = Duration::from_millis(500);
/// The interval at which a condition is polled.
const TICK: Duration = Duration::from_millis(25);
/// A lifetime that exceeds every check.
const LONG: Duration = Duration::from_secs(3600);

/// Returns all checks of a cache.
pub fn cache_checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    [
        leases::checks(),
        fills::checks(),
        invalidation::checks(),
        fences::checks(),
        freshness::checks(),
        keys::checks(),
        status::checks(),
    ]
    .concat()
}

/// The handles of two nodes on one cache.
#[derive(Debug)]
pub struct Nodes<C> {
    here: Arc<C>,
    there: Arc<C>,
}

impl<C: SessionCache> Nodes<C> {
    /// Creates two nodes with the same handle, for a cache inside a process.
    #[must_use]
    pub fn one(cache: C) -> Self {
        let here = Arc::new(cache);
        let there = Arc::clone(&here);
        Self { here, there }
    }

    /// Creates two nodes with two handles on the same cache.
    #[must_use]
    pub fn two(here: C, there: C) -> Self {
        Self { here: Arc::new(here), there: Arc::new(there) }
    }

    /// Waits until both are connected, because a cache may connect in the background.
    async fn connected(&self) -> Outcome<(&C, &C)> {
        let end = Instant::now() + PATIENCE;
        while !(self.here.status().connected && self.there.status().connected) {
            ensure!(
                Instant::now() < end,
                "`status()` still reports no connection after {PATIENCE:?}"
            );
            sleep(TICK).await;
        }
        Ok((&self.here, &self.there))
    }
}

/// Tokens that no other check uses.
struct Tokens(uuid::Uuid);

impl Tokens {
    fn new() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    fn of(&self, name: &str) -> TokenDigest {
        TokenDigest::of(&format!("{} {name}", self.0))
    }

    fn named<const N: usize>(names: [&str; N]) -> [TokenDigest; N] {
        let tokens = Self::new();
        names.map(|name| tokens.of(name))
    }
}

/// Returns an entry of a session of this user.
fn entry(user: &str) -> Entry {
    let at = Timestamp::from_micros(1_700_000_000_000_000);
    let parts = SessionParts {
        id: SessionId::from_bytes([7; 16]),
        user_id: user.to_owned(),
        version: 1,
        created_at: at,
        authenticated_at: at,
        last_seen_at: at,
        expires_at: at.after(LONG),
        idle_timeout: None,
        persistent: false,
        data: json(r#"{"cart":[1,2]}"#.to_owned()),
    };
    Entry {
        session: Session::from(parts),
        user_epoch: 0,
        store_id: [9; 16],
        xmin: 42,
        read_at: at,
        not_after: at.after(LONG),
    }
}

fn json(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_default()
}

fn believe(_: &Entry) -> EntryVerdict {
    EntryVerdict::Fresh
}

fn dead(_: &Entry) -> EntryVerdict {
    EntryVerdict::Stale
}

/// The result of a look-up, and when the look-up began.
struct Seen<L> {
    answer: Lookup<L>,
    began: Instant,
}

/// A lease. It certainly lasts for `LEASE_TTL` from when its look-up began.
struct Held<L> {
    lease: L,
    began: Instant,
}

/// Checks that `span` has not passed. Otherwise earlier observations prove nothing.
fn still_within(span: Duration, began: Instant, what: &str) -> Outcome {
    if began.elapsed() < span {
        return Ok(());
    }
    Err(Failure::too_slow(what))
}

impl<L> Held<L> {
    /// Checks that the lease certainly lasted until now.
    fn stands(&self) -> Outcome {
        still_within(LEASE_TTL, self.began, "a lease")
    }
}

/// Looks up one digest with a judge that considers every entry fresh.
async fn look_up<C: SessionCache>(cache: &C, digest: TokenDigest) -> Outcome<Seen<C::Lease>> {
    judged(cache, digest, believe).await
}

/// Looks up one digest with this judge.
async fn judged<C: SessionCache>(
    cache: &C,
    digest: TokenDigest,
    judge: impl Fn(&Entry) -> EntryVerdict + Send + Sync,
) -> Outcome<Seen<C::Lease>> {
    let mut seen = look_up_all(cache, &[digest], judge).await?;
    seen.pop().ok_or_else(|| Failure::new("`get` returned no result"))
}

/// Looks up many digests, and checks the number of results.
async fn look_up_all<C: SessionCache>(
    cache: &C,
    digests: &[TokenDigest],
    judge: impl Fn(&Entry) -> EntryVerdict + Send + Sync,
) -> Outcome<Vec<Seen<C::Lease>>> {
    let began = Instant::now();
    let answers = in_time("get", cache.get(digests, &judge)).await?;
    ensure!(
        answers.len() == digests.len(),
        "`get` of {} digests returned {} results",
        digests.len(),
        answers.len()
    );
    let seen = |answer| Seen { answer, began };
    Ok(answers.into_iter().map(seen).collect())
}

impl<L> Seen<L> {
    /// Describes the result.
    fn describe(&self) -> String {
        match &self.answer {
            Lookup::Hit(entry) => format!("a hit, of the user {:?}", entry.session.user_id()),
            Lookup::Leased(_) => "a lease".to_owned(),
            Lookup::DoNotFill => "`DoNotFill`".to_owned(),
            Lookup::Refused(error) => format!("`Refused`: {error}"),
            Lookup::Failed(error) => format!("`Failed`: {error}"),
            _ => "a result that is unknown to these checks".to_owned(),
        }
    }

    fn is_leased(&self) -> bool {
        matches!(self.answer, Lookup::Leased(_))
    }

    /// Checks that the result is a lease.
    fn leased(self) -> Outcome<Held<L>> {
        let found = self.describe();
        match self.answer {
            Lookup::Leased(lease) => Ok(Held { lease, began: self.began }),
            _ => Err(Failure::new(format!("expected a lease, got {found}"))),
        }
    }

    /// Checks that the result is `DoNotFill`.
    fn not_to_fill(&self) -> Outcome {
        let found = self.describe();
        ensure!(matches!(self.answer, Lookup::DoNotFill), "expected `DoNotFill`, got {found}");
        Ok(())
    }

    /// Checks that the result is an entry of this user's session.
    fn hit_of(self, user: &str) -> Outcome<Entry> {
        let found = self.describe();
        match self.answer {
            Lookup::Hit(entry) if entry.session.user_id() == user => Ok(entry),
            _ => Err(Failure::new(format!("expected a hit, of the user {user:?}, got {found}"))),
        }
    }

    /// Checks that the result is no entry.
    fn no_hit(&self) -> Outcome {
        let found = self.describe();
        ensure!(
            matches!(self.answer, Lookup::Leased(_) | Lookup::DoNotFill | Lookup::Refused(_)),
            "expected no entry, got {found}"
        );
        Ok(())
    }
}

/// Takes the lease of a key without a value.
async fn lease<C: SessionCache>(cache: &C, digest: TokenDigest) -> Outcome<Held<C::Lease>> {
    look_up(cache, digest).await?.leased()
}

async fn fill<C: SessionCache>(
    cache: &C,
    held: Held<C::Lease>,
    entry: &Entry,
    lifetime: Duration,
) -> Outcome<Filled> {
    answer("fill", cache.fill(held.lease, entry, lifetime)).await
}

/// Fills under a current lease.
async fn store<C: SessionCache>(cache: &C, held: Held<C::Lease>, user: &str) -> Outcome {
    store_entry(cache, held, &entry(user), LONG).await
}

/// Fills under a current lease with this entry and lifetime.
async fn store_entry<C: SessionCache>(
    cache: &C,
    held: Held<C::Lease>,
    entry: &Entry,
    lifetime: Duration,
) -> Outcome {
    let began = held.began;
    match fill(cache, held, entry, lifetime).await? {
        Filled::Stored => Ok(()),
        other => {
            still_within(LEASE_TTL, began, "a lease")?;
            Err(Failure::new(format!("a fill under a current lease returned {other:?}")))
        }
    }
}

/// Checks that a fill under a lost lease is refused.
async fn refused<C: SessionCache>(cache: &C, held: Held<C::Lease>, user: &str) -> Outcome {
    match fill(cache, held, &entry(user), LONG).await? {
        Filled::Refused => Ok(()),
        other => Err(Failure::new(format!("a fill under a lost lease returned {other:?}"))),
    }
}

/// Takes the lease and fills.
async fn filled<C: SessionCache>(cache: &C, digest: TokenDigest, user: &str) -> Outcome {
    let held = lease(cache, digest).await?;
    store(cache, held, user).await
}

async fn invalidate<C: SessionCache>(cache: &C, digests: &[TokenDigest]) -> Outcome<Invalidated> {
    answer("invalidate", cache.invalidate(digests)).await
}

async fn fence<C: SessionCache>(cache: &C, digests: &[TokenDigest]) -> Outcome {
    answer("fence", cache.fence(digests)).await
}

/// Looks up until the lease is granted, which must not be before `early` nor long after `late`.
async fn leased_again<C: SessionCache>(
    cache: &C,
    digest: TokenDigest,
    early: Instant,
    late: Instant,
) -> Outcome<Held<C::Lease>> {
    loop {
        let found = look_up(cache, digest).await?;
        if found.is_leased() {
            let early = early.saturating_duration_since(Instant::now());
            ensure!(early < TOLERANCE, "another look-up got the lease {early:?} too early");
            return found.leased();
        }
        found.not_to_fill()?;
        ensure!(
            found.began < late + 2 * TOLERANCE,
            "no look-up gets the lease, {:?} after the previous value should have lapsed",
            found.began - late
        );
        sleep(TICK).await;
    }
}

/// Runs these tasks concurrently on the threads of the runtime.
async fn at_once<T, F>(tasks: impl IntoIterator<Item = F>) -> Outcome<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Outcome<T>> + Send + 'static,
{
    let mut running: tokio::task::JoinSet<_> = tasks.into_iter().collect();
    let mut results = Vec::new();
    while let Some(done) = running.join_next().await {
        results.push(done.map_err(|error| Failure::new(format!("the port panicked: {error}")))??);
    }
    Ok(results)
}

/// Checks for several threads, because most races cannot happen on one thread.
fn on_several_threads() -> Outcome {
    use tokio::runtime::{Handle, RuntimeFlavor};
    ensure!(
        Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread,
        "this check needs a runtime of several threads: \
         `#[tokio::test(flavor = \"multi_thread\")]`"
    );
    Ok(())
}
