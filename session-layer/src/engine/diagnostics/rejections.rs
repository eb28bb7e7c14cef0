//! Commands that a server rejects although it replies. Examples are a full memory, a missing right
//! and a read-only server.
//!
//! A rejection has one log event when it begins and one when it ends. The second has the number of
//! rejected calls. Every decision is a function of its arguments, the time included.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::lock::lock;

/// The time without a rejection after which the success of an operation ends the rejection: as long
/// as the breaker keeps a call. A node of a Redis Cluster rejects half of the keys, which is one
/// continuing rejection.
const REJECTION_OVER_AFTER: Duration = Duration::from_secs(10);

/// The limit of distinct causes. Servers send few texts, but the memory of this node must not
/// depend on that.
const MAX_CAUSES: usize = 20;

/// The operation that was requested from a server. A server may reject one operation and execute
/// another. A rejection therefore ends separately for each operation, when that operation succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Looking an entry up.
    LookUp,
    /// Acquiring a lease, or setting a fence.
    Lease,
    /// Filling the cache with an entry.
    Fill,
    /// Invalidating entries.
    Invalidate,
    /// Encoding one entry. The success of another entry proves nothing about it.
    Encode,
    /// Creating a session.
    Create,
    /// Revoking, updating or rotating a session.
    Change,
    /// Touching a session.
    Touch,
    /// Listing a user's sessions, or reading the snapshot of a login.
    Read,
}

/// The rejections that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    open: Mutex<Vec<OpenRejection>>,
    /// Whether a success may end one of them. Successful calls read this and acquire no lock.
    may_end: AtomicBool,
}

#[derive(Debug)]
struct OpenRejection {
    cause: String,
    times: u64,
    /// The operations that were rejected and have not succeeded since, each with the time of its
    /// last rejection.
    operations: Vec<(Operation, Instant)>,
}

/// A rejection that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EndedRejection {
    pub(crate) why: String,
    /// How many calls were rejected.
    pub(crate) times: u64,
}

impl Rejections {
    /// Records a rejected call. Returns whether a rejection begins with it. If `may_begin` is
    /// `false`, the call counts only for a rejection that has begun.
    pub(crate) fn rejected(
        &self,
        now: Instant,
        operation: Operation,
        cause: &str,
        may_begin: bool,
    ) -> bool {
        let mut open = lock(&self.open);
        if let Some(known) = open.iter_mut().find(|rejection| rejection.cause == cause) {
            known.times += 1;
            known.operations.retain(|(other, _)| *other != operation);
            known.operations.push((operation, now));
            self.update_may_end(&open);
            return false;
        }
        if !may_begin || open.len() == MAX_CAUSES {
            return false;
        }
        let operations = vec![(operation, now)];
        open.push(OpenRejection { cause: cause.to_owned(), times: 1, operations });
        self.update_may_end(&open);
        true
    }

    /// Records a successful call. Returns the rejections that end with it.
    pub(crate) fn succeeded(&self, now: Instant, operation: Operation) -> Vec<EndedRejection> {
        if !self.may_end.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut open = lock(&self.open);
        for rejection in open.iter_mut() {
            rejection.operations.retain(|(other, last)| {
                *other != operation || now.saturating_duration_since(*last) < REJECTION_OVER_AFTER
            });
        }
        let ended = open
            .extract_if(.., |rejection| rejection.operations.is_empty())
            .map(|OpenRejection { cause, times, .. }| EndedRejection { why: cause, times })
            .collect();
        self.update_may_end(&open);
        ended
    }

    /// Updates the flag that successful calls read.
    fn update_may_end(&self, open: &[OpenRejection]) {
        let may_end = |rejection: &OpenRejection| {
            rejection.operations.iter().any(|(operation, _)| *operation != Operation::Encode)
        };
        self.may_end.store(open.iter().any(may_end), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejection_ends_once_every_operation_succeeds() {
        let start = Instant::now();
        let rejections = Rejections::default();
        let rejected = |now, operation| rejections.rejected(now, operation, "OOM", true);
        assert_eq!(rejections.succeeded(start, Operation::Lease), [], "there is no rejection");
        assert!(rejected(start, Operation::Lease));
        assert!(!rejected(start, Operation::Fill));
        // For ten minutes some calls succeed and some are rejected. Minutes without a call do not
        // end the rejection.
        let mut now = start;
        for _ in 0..100 {
            now += Duration::from_secs(6);
            assert!(!rejected(now, Operation::Lease));
            assert_eq!(rejections.succeeded(now, Operation::Lease), []);
        }
        now += Duration::from_secs(300);
        assert!(!rejected(now, Operation::Lease));
        now += REJECTION_OVER_AFTER;
        assert_eq!(
            rejections.succeeded(now, Operation::LookUp),
            [],
            "this operation was never rejected"
        );
        assert_eq!(
            rejections.succeeded(now, Operation::Lease),
            [],
            "one of two operations succeeds"
        );
        let over = EndedRejection { why: "OOM".to_owned(), times: 103 };
        assert_eq!(rejections.succeeded(now, Operation::Fill), [over]);
        assert_eq!(rejections.succeeded(now, Operation::Fill), [], "it ends once");
        assert!(rejected(now, Operation::Lease), "the next rejection");
    }

    #[test]
    fn distinct_causes_are_rejections_up_to_the_limit() {
        let now = Instant::now();
        let rejections = Rejections::default();
        assert!(!rejections.rejected(now, Operation::Lease, "may not begin", false));
        for n in 0..100 {
            let begins = rejections.rejected(now, Operation::Lease, &n.to_string(), true);
            assert_eq!(begins, n < MAX_CAUSES, "{n}");
        }
        assert_eq!(
            rejections.succeeded(now + REJECTION_OVER_AFTER, Operation::Lease).len(),
            MAX_CAUSES
        );
        assert!(rejections.rejected(now, Operation::Lease, "another cause", true));
    }
}
