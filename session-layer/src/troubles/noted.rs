//! What the driver does tells here how it went.

use std::error::Error as _;

use tokio::time::Instant;

use super::refusals::{Over, Work};
use super::{Cause, Of};
use crate::cache::{Lookup, SessionCache};
use crate::driver::Driver;
use crate::error::{CacheError, CacheErrorKind, StoreError, StoreErrorKind};
use crate::store::SessionStore;

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// How a look-up went.
    pub(crate) fn note_look_up<L>(&self, found: &[Lookup<L>]) {
        for lookup in found {
            match lookup {
                Lookup::Failed(error) => self.note_cache(Work::Get, error),
                Lookup::Refused(error) => {
                    self.cache_did(Work::Get);
                    self.note_cache(Work::Set, error);
                }
                Lookup::Leased(_) => {
                    self.cache_did(Work::Get);
                    self.cache_did(Work::Set);
                }
                Lookup::Hit(_) | Lookup::DoNotFill => self.cache_did(Work::Get),
            }
        }
    }

    /// The cache could not do this.
    pub(crate) fn note_cache(&self, work: Work, error: &CacheError) {
        use CacheErrorKind::{Entry, NotAsked, Protocol, Refused, TimedOut, Unreachable};
        let (now, why) = (Instant::now(), error.to_string());
        // Of giving the cache up and asking it again, the breaker tells.
        if matches!(error.kind(), Refused | Protocol | Entry) {
            let work = if error.kind() == Entry {
                Work::Entry
            } else {
                work
            };
            if self.troubles.refusals.refused(now, work, &why, true) {
                tracing::warn!(%error, "the session cache refuses something; the store is asked instead");
            }
        }
        let cause = match error.kind() {
            NotAsked => Cause::Unsaid,
            Unreachable | TimedOut => Cause::Away,
            _ => Cause::Own,
        };
        self.troubles.note(now, Of::Cache, cause, why);
    }

    /// The cache did this.
    pub(crate) fn cache_did(&self, work: Work) {
        for Over { why, times } in self.succeeded(work) {
            tracing::info!(
                was = why,
                times,
                "the session cache does again what it refused"
            );
        }
    }

    /// A read for validations failed: of these, the store's outage tells.
    pub(crate) fn note_read(&self, error: &StoreError) {
        let now = Instant::now();
        // `Other` is about what was asked rather than about the store.
        if error.kind() != StoreErrorKind::Other {
            self.seen.failed(now, error);
        }
        self.troubles
            .note(now, Of::Store, cause(error), error.to_string());
    }

    /// A read was not tried: that is no word of the store's.
    pub(crate) fn note_shed(&self, shed: &StoreError) {
        let now = Instant::now();
        self.seen.failed(now, shed);
        self.troubles
            .note(now, Of::Store, Cause::Own, shed.to_string());
    }

    /// Nobody waited for the store's answer any longer; why, its own error says.
    pub(crate) fn note_no_answer(&self) {
        let error = StoreError::new(
            StoreErrorKind::TimedOut,
            "no answer within the request's budget",
        );
        let now = Instant::now();
        self.seen.failed(now, &error);
        self.troubles
            .note(now, Of::Store, Cause::Unsaid, error.to_string());
    }

    /// The store could not do this. It may well be read meanwhile (read-only, a full disk, a lock), so that a read is
    /// not the end of it.
    pub(crate) fn note_store(&self, work: Work, error: &StoreError) {
        if error.kind() == StoreErrorKind::Unreachable {
            return self.note_read(error);
        }
        let now = Instant::now();
        if error.kind() != StoreErrorKind::Other {
            self.store_refused(now, work, error);
        }
        self.troubles
            .note(now, Of::Store, cause(error), error.to_string());
    }

    /// Tells either; the result goes on.
    pub(crate) fn noted<T>(
        &self,
        work: Work,
        done: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &done {
            Ok(_) => self.store_did(work),
            Err(error) => self.note_store(work, error),
        }
        done
    }

    /// The same of a touch, which no request asks for.
    pub(crate) fn noted_touch<T>(&self, done: Result<T, StoreError>) -> Option<T> {
        let error = match done {
            Ok(done) => {
                self.store_did(Work::Touch);
                return Some(done);
            }
            Err(error) => error,
        };
        // Of a store that can't be reached, the reads tell.
        if error.kind() != StoreErrorKind::Unreachable {
            self.store_refused(Instant::now(), Work::Touch, &error);
        }
        self.note_while("touching a session", &error);
        None
    }

    /// The store failed this, in the background.
    pub(crate) fn note_while(&self, doing: &'static str, error: &StoreError) {
        let (now, text) = (Instant::now(), error.to_string());
        self.troubles
            .note_while(Some(doing), now, Of::Store, cause(error), text);
    }

    fn store_refused(&self, now: Instant, work: Work, error: &StoreError) {
        // While it does not answer at all, that is what is wrong.
        let begins = !self.seen.is_failing();
        let why = error.to_string();
        if self.troubles.refusals.refused(now, work, &why, begins) {
            let what = match work {
                Work::Create => "sessions cannot be created",
                Work::Touch => {
                    "the use of sessions cannot be noted: they are served, and an idle timeout may come early"
                }
                Work::Ask => "a user's sessions cannot be listed, or no login can begin",
                _ => "sessions cannot be changed or ended",
            };
            tracing::warn!(%error, what, "the session store refuses something");
        }
    }

    fn store_did(&self, work: Work) {
        for Over { why, times } in self.succeeded(work) {
            tracing::info!(
                was = why,
                times,
                "the session store does again what it refused"
            );
        }
    }

    fn succeeded(&self, work: Work) -> Vec<Over> {
        self.troubles.refusals.succeeded(Instant::now(), work)
    }
}

fn cause(error: &StoreError) -> Cause {
    match error.kind() {
        StoreErrorKind::Unreachable => Cause::Away,
        // Nobody told why: no answer, or no connection, in whichever time there was for it.
        StoreErrorKind::TimedOut if error.source().is_none() => Cause::Away,
        _ => Cause::Own,
    }
}
