//! What every [`SessionCache`] must do.
//!
//! A check gets the handles of two [`Nodes`]: `here` is the one that reads and fills, `there` the one that
//! asks too, or changes the session. Only what the port's documentation says is demanded; a cache is free
//! to lose a copy, a lease or a fence when its server does, but not on a healthy one.

mod belief;
mod fences;
mod fills;
mod invalidation;
mod keys;
mod leases;
mod truth;

use std::{future::Future, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use session_layer::cache::{Belief, Entry, Filled, Invalidated, LEASE, Lookup, SessionCache};
use session_layer::{Session, SessionId, SessionParts, Timestamp, TokenDigest};
use tokio::time::{Instant, sleep};

use super::check::{Check, Failure, Outcome, PATIENCE, When, answer, ensure, in_time};

/// By how much clocks and timers may be off: more than any resolution, less than what would matter.
const TOLERANCE: Duration = Duration::from_millis(500);
/// How often a condition is looked at.
const TICK: Duration = Duration::from_millis(25);
/// Long enough for no check to see its end.
const LONG: Duration = Duration::from_secs(3600);

/// All checks of a cache.
#[must_use]
pub fn cache_checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    [
        leases::checks(),
        fills::checks(),
        invalidation::checks(),
        fences::checks(),
        belief::checks(),
        keys::checks(),
        truth::checks(),
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
    /// Both nodes have the same handle: for a cache inside a process.
    #[must_use]
    pub fn one(cache: C) -> Self {
        let here = Arc::new(cache);
        let there = Arc::clone(&here);
        Self { here, there }
    }

    /// Two handles on one and the same cache.
    #[must_use]
    pub fn two(here: C, there: C) -> Self {
        Self {
            here: Arc::new(here),
            there: Arc::new(there),
        }
    }

    /// Both, when they are connected: a cache may do that in the background.
    async fn connected(&self) -> Outcome<(&C, &C)> {
        let end = Instant::now() + PATIENCE;
        while !(self.here.status().connected && self.there.status().connected) {
            ensure!(
                Instant::now() < end,
                "`status()` still says that it is not connected, {PATIENCE:?} after it was made"
            );
            sleep(TICK).await;
        }
        Ok((&self.here, &self.there))
    }
}

/// Tokens that no other check has.
struct Tokens(uuid::Uuid);

impl Tokens {
    fn new() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    fn of(&self, name: &str) -> TokenDigest {
        TokenDigest::of(&format!("{} {name}", self.0))
    }
}

/// A copy of a session of this user.
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
        store_id: [9; 16],
        xmin: 42,
        read_at: at,
        not_after: at.after(LONG),
    }
}

fn json(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_default()
}

fn believe(_: &Entry) -> Belief {
    Belief::Believed
}

fn dead(_: &Entry) -> Belief {
    Belief::Dead
}

/// What a look-up answered, and when it was asked.
struct Seen<L> {
    answer: Lookup<L>,
    asked: Instant,
}

/// A lease, which surely stands for `LEASE` from when it was asked for.
struct Held<L> {
    lease: L,
    asked: Instant,
}

/// What was looked at before this means nothing if it is called after that time.
fn still_within(span: Duration, began: Instant, what: &str) -> Outcome {
    if began.elapsed() < span {
        return Ok(());
    }
    Err(Failure::too_slow(what))
}

impl<L> Held<L> {
    /// Did it surely stand, until now?
    fn stands(&self) -> Outcome {
        still_within(LEASE, self.asked, "a lease")
    }
}

/// What a look-up of one digest answers, where every copy is believed.
async fn look_up<C: SessionCache>(cache: &C, digest: TokenDigest) -> Outcome<Seen<C::Lease>> {
    judged(cache, digest, believe).await
}

/// What a look-up of one digest answers, with this judge of copies.
async fn judged<C: SessionCache>(
    cache: &C,
    digest: TokenDigest,
    judge: impl Fn(&Entry) -> Belief + Send + Sync,
) -> Outcome<Seen<C::Lease>> {
    let mut seen = look_up_all(cache, &[digest], judge).await?;
    let one = seen.pop();
    one.ok_or_else(|| Failure::new("`get` gave no answer"))
}

/// What one look-up of many digests answers: as many answers.
async fn look_up_all<C: SessionCache>(
    cache: &C,
    digests: &[TokenDigest],
    judge: impl Fn(&Entry) -> Belief + Send + Sync,
) -> Outcome<Vec<Seen<C::Lease>>> {
    let asked = Instant::now();
    let answers = in_time("get", cache.get(digests, &judge)).await?;
    ensure!(
        answers.len() == digests.len(),
        "`get` of {} digests gave {} answers",
        digests.len(),
        answers.len()
    );
    let seen = |answer| Seen { answer, asked };
    Ok(answers.into_iter().map(seen).collect())
}

impl<L> Seen<L> {
    /// In words.
    fn told(&self) -> String {
        match &self.answer {
            Lookup::Hit(entry) => format!("a hit, of the user {:?}", entry.session.user_id()),
            Lookup::Leased(_) => "a lease".to_owned(),
            Lookup::DoNotFill => "`DoNotFill`".to_owned(),
            Lookup::Refused(error) => format!("`Refused`: {error}"),
            Lookup::Failed(error) => format!("`Failed`: {error}"),
            _ => "an answer that these checks do not know".to_owned(),
        }
    }

    fn is_leased(&self) -> bool {
        matches!(self.answer, Lookup::Leased(_))
    }

    /// It must be a lease.
    fn leased(self) -> Outcome<Held<L>> {
        let told = self.told();
        match self.answer {
            Lookup::Leased(lease) => Ok(Held {
                lease,
                asked: self.asked,
            }),
            _ => Err(Failure::new(format!("expected a lease, got {told}"))),
        }
    }

    /// It must be: ask the store, and do not fill.
    fn not_to_fill(&self) -> Outcome {
        let told = self.told();
        ensure!(
            matches!(self.answer, Lookup::DoNotFill),
            "expected `DoNotFill`, got {told}"
        );
        Ok(())
    }

    /// It must be a copy of this user's session.
    fn hit_of(self, user: &str) -> Outcome<Entry> {
        let told = self.told();
        match self.answer {
            Lookup::Hit(entry) if entry.session.user_id() == user => Ok(entry),
            _ => Err(Failure::new(format!(
                "expected a hit, of the user {user:?}, got {told}"
            ))),
        }
    }

    /// It must not be a copy.
    fn no_hit(&self) -> Outcome {
        let told = self.told();
        ensure!(
            matches!(
                self.answer,
                Lookup::Leased(_) | Lookup::DoNotFill | Lookup::Refused(_)
            ),
            "expected no copy, got {told}"
        );
        Ok(())
    }
}

/// Takes the lease of a key where nothing is.
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

/// Fills under a lease that stands.
async fn store<C: SessionCache>(cache: &C, held: Held<C::Lease>, user: &str) -> Outcome {
    store_entry(cache, held, &entry(user), LONG).await
}

/// The same with an entry and lifetime of one's own.
async fn store_entry<C: SessionCache>(
    cache: &C,
    held: Held<C::Lease>,
    entry: &Entry,
    lifetime: Duration,
) -> Outcome {
    let asked = held.asked;
    match fill(cache, held, entry, lifetime).await? {
        Filled::Stored => Ok(()),
        other => {
            still_within(LEASE, asked, "a lease")?;
            Err(Failure::new(format!(
                "a fill under a lease that stands was answered {other:?}"
            )))
        }
    }
}

/// Tries to fill under a lease that no longer stands.
async fn refused<C: SessionCache>(cache: &C, held: Held<C::Lease>, user: &str) -> Outcome {
    match fill(cache, held, &entry(user), LONG).await? {
        Filled::Refused => Ok(()),
        other => Err(Failure::new(format!(
            "a fill under a lease that no longer stands was answered {other:?}"
        ))),
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

/// Asks until the lease is granted, which must not be before `early` nor long after `late`.
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
            ensure!(
                early < TOLERANCE,
                "someone else got the lease {early:?} too early"
            );
            return found.leased();
        }
        found.not_to_fill()?;
        ensure!(
            found.asked < late + 2 * TOLERANCE,
            "nobody gets the lease, {:?} after what was in its way should have lapsed",
            found.asked - late
        );
        sleep(TICK).await;
    }
}

/// Runs these at once on threads of the runtime.
async fn at_once<T, F>(askers: impl IntoIterator<Item = F>) -> Outcome<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Outcome<T>> + Send + 'static,
{
    let mut asking = tokio::task::JoinSet::new();
    for asker in askers {
        asking.spawn(asker);
    }
    let mut answers = Vec::new();
    while let Some(done) = asking.join_next().await {
        answers.push(done.map_err(|error| Failure::new(format!("the port panicked: {error}")))??);
    }
    Ok(answers)
}

/// "At once" is meant: on one thread much of what these checks look for can't happen.
fn on_several_threads() -> Outcome {
    use tokio::runtime::{Handle, RuntimeFlavor};
    ensure!(
        Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread,
        "this check needs a runtime of several threads: \
         `#[tokio::test(flavor = \"multi_thread\")]`"
    );
    Ok(())
}
