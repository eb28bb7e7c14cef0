//! Diagnostics: the problems of cache and store, in the log and in the health document.
//!
//! Each guard reports the outcome of its calls here ([`GuardedCache`], [`GuardedStore`]). The
//! submodules decide when a problem begins and ends. This file logs one event for each.
//!
//! [`GuardedCache`]: crate::engine::guarded_cache
//! [`GuardedStore`]: crate::engine::guarded_store

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

mod outage;
mod recent_errors;
mod rejections;

use self::outage::Outage;
pub(crate) use self::recent_errors::{
    Cause, MAX_ERRORS, Origin, RecentError, RecentErrors, ReportedError,
};
pub(crate) use self::rejections::Operation;
use self::rejections::{EndedRejection, Rejections};
use crate::cache::Lookup;
use crate::model::error::{CacheError, CacheErrorKind, StoreError, StoreErrorKind};
use crate::store::UnreadableRow;

/// The problems of one cache and one store.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics {
    errors: RecentErrors,
    rejections: Rejections,
    store_outage: Outage,
    /// Whether the store has replied since the start.
    store_is_known: AtomicBool,
}

/// The cache.
impl Diagnostics {
    /// Records the outcome of a look-up.
    pub(crate) fn looked_up<L>(&self, found: &[Lookup<L>]) {
        for lookup in found {
            match lookup {
                Lookup::Failed(error) => self.cache_failed(Operation::LookUp, error),
                Lookup::Refused(error) => {
                    self.cache_succeeded(Operation::LookUp);
                    self.cache_failed(Operation::Lease, error);
                }
                Lookup::Leased(_) => {
                    self.cache_succeeded(Operation::LookUp);
                    self.cache_succeeded(Operation::Lease);
                }
                Lookup::Hit(_) | Lookup::DoNotFill => self.cache_succeeded(Operation::LookUp),
            }
        }
    }

    /// Records a failed call of the cache.
    pub(crate) fn cache_failed(&self, operation: Operation, error: &CacheError) {
        use CacheErrorKind::{Entry, NotQueried, Protocol, Refused, TimedOut, Unreachable};
        let (now, why) = (Instant::now(), error.to_string());
        // The breaker logs that the cache can't be used, and that it can be used again.
        if matches!(error.kind(), Refused | Protocol | Entry) {
            let operation = if error.kind() == Entry { Operation::Encode } else { operation };
            if self.rejections.rejected(now, operation, &why, true) {
                tracing::warn!(
                    %error,
                    "the session cache rejected a command: affected sessions are read from the \
                     store"
                );
            }
        }
        let cause = match error.kind() {
            NotQueried => Cause::Unknown,
            Unreachable | TimedOut => Cause::Unreachable,
            _ => Cause::Named,
        };
        self.errors.record(None, now, Origin::Cache, cause, why);
    }

    /// Records why the breaker stays open.
    pub(crate) fn cache_probe_failed(&self, why: String) {
        self.errors.record(None, Instant::now(), Origin::Cache, Cause::Unreachable, why);
    }

    /// Records a successful call of the cache.
    pub(crate) fn cache_succeeded(&self, operation: Operation) {
        for EndedRejection { why, times } in self.rejections.succeeded(Instant::now(), operation) {
            tracing::info!(
                was = why,
                times,
                "the session cache accepts the rejected command again"
            );
        }
    }
}

/// The store.
impl Diagnostics {
    /// Records that the store replied to a read that was sent at `sent`.
    pub(crate) fn store_replied(&self, sent: Instant) {
        self.store_is_known.store(true, Ordering::Relaxed);
        if self.store_outage.succeeded(sent) {
            tracing::info!("the session store can be read");
        }
    }

    /// Records a failed read of a validation, or a read that was shed.
    pub(crate) fn read_failed(&self, error: &StoreError) {
        let now = Instant::now();
        // An error of the kind `Other` concerns this read and not the store.
        if error.kind() != StoreErrorKind::Other {
            self.store_unavailable(now, error);
        }
        self.errors.record(None, now, Origin::Store, cause_of(error), error.to_string());
    }

    /// Records that the store cannot be read. An outage has one log event.
    pub(crate) fn store_unavailable(&self, now: Instant, error: &StoreError) {
        if !self.store_outage.failed(now) {
            return;
        }
        if self.store_is_known.load(Ordering::Relaxed) {
            tracing::warn!(
                %error,
                "the session store cannot be read: sessions without an entry are unavailable"
            );
        } else {
            tracing::warn!(
                %error,
                "the session store cannot be read yet: sessions without an entry are unavailable"
            );
        }
    }

    /// Records a row that can't be read. It is no outage, because other sessions can be read.
    pub(crate) fn row_unreadable(&self, row: &UnreadableRow) {
        let (now, text) = (Instant::now(), row.to_string());
        if self.errors.record(None, now, Origin::Store, Cause::Named, text) {
            tracing::warn!(
                error = %row,
                "a session is unavailable, because its row cannot be read"
            );
        }
    }

    /// Records that a validation timed out before the store replied. The read's own error has the
    /// reason.
    pub(crate) fn no_reply_in_time(&self) {
        let error =
            StoreError::new(StoreErrorKind::TimedOut, "no reply within the request's budget");
        let now = Instant::now();
        self.store_unavailable(now, &error);
        self.errors.record(None, now, Origin::Store, Cause::Unknown, error.to_string());
    }

    /// Records the outcome of a call, and returns it.
    pub(crate) fn store_called<T>(
        &self,
        operation: Operation,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &outcome {
            Ok(_) => self.store_succeeded(operation),
            Err(error) => self.store_failed(operation, error),
        }
        outcome
    }

    /// Records a failed call that is no read of a validation. Reads may succeed meanwhile, because
    /// the store is read-only, its disk is full, or a lock is held. Therefore no read ends this
    /// problem.
    pub(crate) fn store_failed(&self, operation: Operation, error: &StoreError) {
        match error.kind() {
            StoreErrorKind::Unreachable => return self.read_failed(error),
            // The store works. The caller gets the error about its own input.
            StoreErrorKind::Input => return,
            _ => {}
        }
        let now = Instant::now();
        if error.kind() != StoreErrorKind::Other {
            self.store_rejected(now, operation, error);
        }
        self.errors.record(None, now, Origin::Store, cause_of(error), error.to_string());
    }

    /// Records a successful call that is no read of a validation.
    pub(crate) fn store_succeeded(&self, operation: Operation) {
        for EndedRejection { why, times } in self.rejections.succeeded(Instant::now(), operation) {
            tracing::info!(was = why, times, "the session store executes the failed call again");
        }
    }

    /// Records a failed touch. No request waits for it.
    pub(crate) fn touch_failed(&self, error: &StoreError) {
        // If the store can't be reached, the failed reads report it.
        if error.kind() != StoreErrorKind::Unreachable {
            self.store_rejected(Instant::now(), Operation::Touch, error);
        }
        self.background_failed("touching a session", error);
    }

    /// Records a call that failed in the background, during `work`.
    pub(crate) fn background_failed(&self, work: &'static str, error: &StoreError) {
        let (now, text) = (Instant::now(), error.to_string());
        self.errors.record(Some(work), now, Origin::Store, cause_of(error), text);
    }

    /// Records a failed operation, and logs it if a rejection begins.
    fn store_rejected(&self, now: Instant, operation: Operation, error: &StoreError) {
        // During an outage, only the outage is logged.
        let may_begin = !self.store_outage.is_on();
        if self.rejections.rejected(now, operation, &error.to_string(), may_begin) {
            let what = match operation {
                Operation::Create => "sessions cannot be created",
                Operation::Touch => {
                    "the use of sessions cannot be recorded: they are served, and an idle timeout \
                     may end them early"
                }
                Operation::Read => "a user's sessions cannot be listed, or no login can begin",
                _ => "sessions cannot be changed or ended",
            };
            tracing::warn!(%error, what, "a call of the session store failed");
        }
    }
}

/// The reports for operators.
impl Diagnostics {
    /// Returns the errors of the last minute, newest first.
    pub(crate) fn recent_errors(&self) -> Vec<ReportedError> {
        self.errors.report(Instant::now())
    }

    /// Returns whether the store has replied since the start.
    pub(crate) fn store_is_known(&self) -> bool {
        self.store_is_known.load(Ordering::Relaxed)
    }

    /// Returns whether the store must be probed, because it has not replied yet or an outage may be
    /// over.
    pub(crate) fn store_needs_a_probe(&self, now: Instant) -> bool {
        !self.store_is_known() || self.store_outage.may_be_over(now)
    }
}

/// Returns what an error reveals about its cause.
fn cause_of(error: &StoreError) -> Cause {
    match error.kind() {
        StoreErrorKind::Unreachable => Cause::Unreachable,
        // There was no reply or no connection in time. The error has no cause of its own.
        StoreErrorKind::TimedOut if error.source().is_none() => Cause::Unreachable,
        _ => Cause::Named,
    }
}
