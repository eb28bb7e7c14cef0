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
    async fn connected(&self) -> Outcome<(Node<'_, C>, Node<'_, C>)> {
        let end = Instant::now() + PATIENCE;
        while !(self.here.status().connected && self.there.status().connected) {
            ensure!(
                Instant::now() < end,
                "`status()` still reports no connection after {PATIENCE:?}"
            );
            sleep(TICK).await;
        }
        Ok((Node(&*self.here), Node(&*self.there)))
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

/// The cache of one node.
struct Node<'a, C>(&'a C);

impl<C> Clone for Node<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<C> Copy for Node<'_, C> {}

impl<C: SessionCache> Node<'_, C> {
    /// Looks up one digest with a judge that considers every entry fresh.
    async fn look_up(self, digest: TokenDigest) -> Outcome<Seen<C::Lease>> {
        self.judged(digest, believe).await
    }

    async fn judged(
        self,
        digest: TokenDigest,
        judge: impl Fn(&Entry) -> EntryVerdict + Send + Sync,
    ) -> Outcome<Seen<C::Lease>> {
        let mut seen = self.look_up_all(&[digest], judge).await?;
        seen.pop().ok_or_else(|| Failure::new("`get` returned no result"))
    }

    /// Looks up many digests, and checks the number of results.
    async fn look_up_all(
        self,
        digests: &[TokenDigest],
        judge: impl Fn(&Entry) -> EntryVerdict + Send + Sync,
    ) -> Outcome<Vec<Seen<C::Lease>>> {
        let began = Instant::now();
        let answers = in_time("get", self.0.get(digests, &judge)).await?;
        let (requested, replied) = (digests.len(), answers.len());
        ensure!(replied == requested, "`get` of {requested} digests returned {replied} results");
        Ok(answers.into_iter().map(|answer| Seen { answer, began }).collect())
    }

    /// Takes the lease of a key without a value.
    async fn lease(self, digest: TokenDigest) -> Outcome<Held<C::Lease>> {
        self.look_up(digest).await?.leased()
    }

    async fn fill(
        self,
        held: Held<C::Lease>,
        entry: &Entry,
        lifetime: Duration,
    ) -> Outcome<Filled> {
        answer("fill", self.0.fill(held.lease, entry, lifetime)).await
    }

    /// Fills under a current lease.
    async fn store(self, held: Held<C::Lease>, user: &str) -> Outcome {
        self.store_entry(held, &entry(user), LONG).await
    }

    async fn store_entry(self, held: Held<C::Lease>, entry: &Entry, lifetime: Duration) -> Outcome {
        let began = held.began;
        match self.fill(held, entry, lifetime).await? {
            Filled::Stored => Ok(()),
            other => {
                still_within(LEASE_TTL, began, "a lease")?;
                Err(Failure::new(format!("a fill under a current lease returned {other:?}")))
            }
        }
    }

    /// Checks that a fill under a lost lease is refused.
    async fn refused(self, held: Held<C::Lease>, user: &str) -> Outcome {
        match self.fill(held, &entry(user), LONG).await? {
            Filled::Refused => Ok(()),
            other => Err(Failure::new(format!("a fill under a lost lease returned {other:?}"))),
        }
    }

    async fn filled(self, digest: TokenDigest, user: &str) -> Outcome {
        let held = self.lease(digest).await?;
        self.store(held, user).await
    }

    async fn invalidate(self, digests: &[TokenDigest]) -> Outcome<Invalidated> {
        answer("invalidate", self.0.invalidate(digests)).await
    }

    async fn fence(self, digests: &[TokenDigest]) -> Outcome {
        answer("fence", self.0.fence(digests)).await
    }

    /// Looks up until the lease is granted, which must not be before `early` nor long after `late`.
    async fn leased_again(
        self,
        digest: TokenDigest,
        early: Instant,
        late: Instant,
    ) -> Outcome<Held<C::Lease>> {
        loop {
            let found = self.look_up(digest).await?;
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
}

impl<L> Seen<L> {
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

    fn leased(self) -> Outcome<Held<L>> {
        let found = self.describe();
        match self.answer {
            Lookup::Leased(lease) => Ok(Held { lease, began: self.began }),
            _ => Err(Failure::new(format!("expected a lease, got {found}"))),
        }
    }

    fn not_to_fill(&self) -> Outcome {
        let found = self.describe();
        ensure!(matches!(self.answer, Lookup::DoNotFill), "expected `DoNotFill`, got {found}");
        Ok(())
    }

    fn hit_of(self, user: &str) -> Outcome<Entry> {
        let found = self.describe();
        match self.answer {
            Lookup::Hit(entry) if entry.session.user_id() == user => Ok(entry),
            _ => Err(Failure::new(format!("expected a hit, of the user {user:?}, got {found}"))),
        }
    }

    fn no_hit(&self) -> Outcome {
        let found = self.describe();
        ensure!(
            matches!(self.answer, Lookup::Leased(_) | Lookup::DoNotFill | Lookup::Refused(_)),
            "expected no entry, got {found}"
        );
        Ok(())
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
