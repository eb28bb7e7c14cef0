//! validate: whose session is this, and may it still be used?
//!
//! 1. Ask the cache. A copy that is believed answers at once.
//! 2. Anything else asks the store (`reads.rs`), *after* the lease was granted. A cache that is down, slow
//!    or lying costs its deadline at most, and once the breaker is open nothing; it changes no answer.
//! 3. The answer goes out; the fill follows behind it, and only with the lease.
//!
//! What ends here is `Valid`, `Invalid` (the store said so) or `Unavailable` (nobody could say):
//! no error of any kind turns into `Invalid`.
//!
//! ```text
//! validate ─▶ ask_cache ─▶ believe (decide.rs) ─▶ a hit: the answer
//!                │ else
//!                ▼
//!            ask_store (reads.rs): waits in turn, one read for many
//!                │ each row
//!                ▼
//!            answer (answer.rs) ─▶ touch (touch.rs), invalid ─▶ the answer ─▶ work_behind: the fill
//! ```

use std::sync::Arc;

use tokio::time::Instant;

mod answer;
mod decide;

pub(crate) use self::answer::{ReadContext, Told};
use self::decide::believe;
use crate::cache::{Entry, Lookup, SessionCache};
use crate::driver::Driver;
use crate::session::{Session, SessionId};
use crate::sessions::Mode;
use crate::store::SessionStore;
use crate::token::TokenDigest;

/// The answer to "whose session is this, and may it still be used?".
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Validation {
    /// This one's, and it may.
    Valid(Session),
    /// Postgres said that there is no such session, or that it has ended.
    Invalid,
    /// Nobody could say: an outage, to be answered with 503, never with 401.
    Unavailable,
}

/// Who gave an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// The cache alone.
    Cache,
    /// The store.
    Store,
    /// Nobody could.
    Nobody,
}

impl Tier {
    /// `hit`, `store` or `unavailable`, as in the `Server-Timing` header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "hit",
            Self::Store => "store",
            Self::Nobody => "unavailable",
        }
    }
}

/// The answers to one look-up of one or several digests.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    /// One per digest, in order.
    pub(crate) validations: Vec<Validation>,
    /// Who gave them.
    pub(crate) tier: Tier,
    /// The cache was to be asked and could not be.
    pub(crate) degraded: bool,
    /// The sessions that now end later, by a touch before this very answer, and the digests they were
    /// found under.
    pub(crate) prolonged: Vec<(SessionId, TokenDigest)>,
}

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// Looks the digests up in one round trip each to the cache and, if need be, the store.
    pub(crate) async fn validate(self: Arc<Self>, digests: Vec<TokenDigest>) -> Answers {
        self.start();
        let deadline = Instant::now() + self.settings.budget;
        let (found, degraded) = match self.mode() {
            Mode::Bypass => {
                self.counters.bypassed.add_one();
                (digests.iter().map(|_| Lookup::DoNotFill).collect(), false)
            }
            Mode::On => self.ask_cache(&digests).await,
        };
        let mut validations = Vec::with_capacity(digests.len());
        let mut open = Vec::new();
        for (at, (digest, lookup)) in digests.iter().zip(found).enumerate() {
            let (lease, cache_failed) = match lookup {
                Lookup::Hit(entry) => {
                    validations.push(Validation::Valid(entry.session));
                    continue;
                }
                Lookup::Leased(lease) => (Some(lease), false),
                Lookup::DoNotFill | Lookup::Refused(_) => (None, false),
                Lookup::Failed(_) => (None, true),
            };
            validations.push(Validation::Unavailable);
            open.push(Open {
                at,
                digest: *digest,
                lease,
                cache_failed,
            });
        }
        if open.is_empty() {
            return Answers {
                validations,
                tier: Tier::Cache,
                degraded,
                prolonged: Vec::new(),
            };
        }
        let told = self.ask_store(open, deadline).await;
        let tier = if told.is_empty() {
            self.counters.unavailable.add_one();
            Tier::Nobody
        } else {
            Tier::Store
        };
        let mut prolonged = Vec::new();
        for (at, told) in told {
            if let (true, Validation::Valid(session)) = (told.prolonged, &told.validation) {
                prolonged.push((session.id(), digests[at]));
            }
            validations[at] = told.validation;
        }
        Answers {
            validations,
            tier,
            degraded,
            prolonged,
        }
    }

    /// Step 1. Also says whether the cache failed, and counts: every validation is a hit, a miss or
    /// an error.
    async fn ask_cache(self: &Arc<Self>, digests: &[TokenDigest]) -> (Vec<Lookup<C::Lease>>, bool) {
        let ttl = self.settings.ttl;
        // Judged when the reply is there: what was learnt meanwhile counts.
        let judge = move |entry: &Entry| {
            let word = self.journal.says(entry, Instant::now());
            believe(entry, self.seen.clock.now(), self.seen.id(), ttl, word)
        };
        // Of what this node changed, or could not remove, it knows better. Looked up before and after: a copy
        // may have been read before the removal that was acknowledged, or judged before the journal that was read,
        // meanwhile.
        let now = Instant::now();
        let doubt = |digest: &TokenDigest| self.pending.doubt(digest, now);
        let before: Vec<_> = digests.iter().map(doubt).collect();
        let mut found = self.look_up_cached(digests, &judge).await;
        for ((digest, before), lookup) in digests.iter().zip(before).zip(&mut found) {
            if let Lookup::Hit(entry) = lookup {
                let version = entry.session.version();
                let doubts = [before, doubt(digest)];
                if doubts.into_iter().flatten().any(|d| d.rules_out(version)) {
                    *lookup = Lookup::DoNotFill;
                }
            }
        }
        let failure = found.iter().find_map(|lookup| match lookup {
            Lookup::Failed(error) => Some(error),
            _ => None,
        });
        self.note_look_up(&found);
        let counters = &self.counters;
        match failure {
            Some(_) => counters.errors.add_one(),
            None if found.iter().all(|lookup| matches!(lookup, Lookup::Hit(_))) => {
                counters.hits.add_one();
            }
            None => counters.misses.add_one(),
        }
        let degraded = failure.is_some();
        (found, degraded)
    }
}

/// A digest that the cache did not answer.
pub(crate) struct Open<L> {
    /// Its place among the digests of the look-up.
    pub(crate) at: usize,
    pub(crate) digest: TokenDigest,
    pub(crate) lease: Option<L>,
    /// The cache did not answer at all, and took its time.
    pub(crate) cache_failed: bool,
}
