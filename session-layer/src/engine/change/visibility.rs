//! From when on every node honors a change.

use std::time::Duration;

/// A change that was made, and from when on every node honors it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "`visibility` states from when on no node honors the old state"]
pub struct Applied<T> {
    /// The result of the change.
    pub value: T,
    /// From when on every node honors the change.
    pub visibility: Visibility,
}

/// The time from which no node honors the old state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Visibility {
    /// Nothing was changed, because there was nothing to change.
    Nothing,
    /// Every node honors the change from now on. The one cache that they share has removed its
    /// entry, or there is no cache and one process. No other node has a near cache.
    Propagated,
    /// The change is committed, and every node honors it after these times at the latest.
    Committed {
        /// The bound for connected nodes, which read the journal of changes: D, 2 s by default.
        within: Duration,
        /// The bound for every node, also for a partitioned one: TTL + 2 s, 302 s by default, and
        /// never less than `within`. Under
        /// [`PartitionPolicy::FailClosed`](crate::PartitionPolicy) it equals `within`.
        at_most: Duration,
    },
}

impl Visibility {
    /// Returns what is left of the times after `passed`.
    #[must_use]
    pub fn after(self, passed: Duration) -> Self {
        match self {
            Self::Committed { within, at_most } => Self::Committed {
                within: within.saturating_sub(passed),
                at_most: at_most.saturating_sub(passed),
            },
            whole @ (Self::Nothing | Self::Propagated) => whole,
        }
    }

    /// Returns whether a node that reaches Postgres may still honor the old state.
    pub(super) fn is_awaited(self) -> bool {
        matches!(self, Self::Committed { within, .. } if !within.is_zero())
    }

    /// Returns the visibility of a change that was committed `ago`, after another attempt to
    /// invalidate its entries. Only `Propagated` is more than time alone brings. The other attempt
    /// may find nothing, because the row was deleted meanwhile, which shows nothing about the
    /// entries that the first one left.
    pub(super) fn after_another_attempt(self, ago: Duration, other: Self) -> Self {
        match other {
            Self::Propagated => Self::Propagated,
            Self::Committed { .. } | Self::Nothing => self.after(ago),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_attempt_that_finds_nothing_shortens_no_bound() {
        let committed = |within, at_most| Visibility::Committed {
            within: Duration::from_secs(within),
            at_most: Duration::from_secs(at_most),
        };
        let second = Duration::from_secs(1);
        for (first, other, expected) in [
            (committed(2, 302), Visibility::Nothing, committed(1, 301)),
            (committed(2, 302), committed(2, 302), committed(1, 301)),
            (committed(2, 302), Visibility::Propagated, Visibility::Propagated),
            (Visibility::Propagated, Visibility::Nothing, Visibility::Propagated),
            (Visibility::Nothing, Visibility::Nothing, Visibility::Nothing),
        ] {
            let visibility = first.after_another_attempt(second, other);
            assert_eq!(visibility, expected, "{first:?}, {other:?}");
        }
    }
}
