//! Changes that were certainly made, and when each node must respect them.

use std::time::Duration;

use super::index::Index;
use crate::history::{Nanos, Operation, nanos};

/// A change that was certainly made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<'a> {
    /// The operation that made it.
    pub(super) by: &'a Operation,
    /// The time of its result, plus a grace.
    from: Nanos,
    /// The time after `from` within which connected nodes respect it.
    within: Nanos,
    /// The time after `from` within which every node respects it.
    at_most: Nanos,
}

impl<'a> Bound<'a> {
    /// Returns `None` if it is not certain that the change was made. `extra` is added: a grace.
    pub(super) fn of(by: &'a Operation, extra: Duration) -> Option<Self> {
        let (within, at_most) = by.op.change()?.reach()?;
        Some(Self {
            by,
            from: by.ret?.saturating_add(nanos(extra)),
            within: nanos(within),
            at_most: nanos(at_most),
        })
    }

    fn when_connected(&self) -> Nanos {
        self.from.saturating_add(self.within)
    }

    fn anywhere(&self) -> Nanos {
        self.from.saturating_add(self.at_most)
    }
}

/// The changes of one object, sorted for a search of the first binding one after some time.
///
/// The search considers two changes: the first to bind connected nodes and the first to bind all
/// nodes. A third change with other spans could forbid more only around an outage. The check misses
/// such cases for the sake of O(log n).
#[derive(Debug, Default)]
pub(super) struct Bounds<'a> {
    /// Sorted by call.
    all: Vec<Bound<'a>>,
    /// For each position, the positions of those two from there on.
    first: Vec<(usize, usize)>,
}

impl<'a> Bounds<'a> {
    pub(super) fn new(bounds: impl IntoIterator<Item = Bound<'a>>) -> Self {
        let mut all: Vec<_> = bounds.into_iter().collect();
        all.sort_by_key(|bound| bound.by.call);
        let mut first = vec![(0, 0); all.len()];
        for at in (0..all.len()).rev() {
            let (touch, any) = first.get(at + 1).copied().unwrap_or((at, at));
            first[at] = (
                if all[at].when_connected() <= all[touch].when_connected() { at } else { touch },
                if all[at].anywhere() <= all[any].anywhere() { at } else { any },
            );
        }
        Self { all, first }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns a change whose call came after `after` and that must be visible to this operation.
    pub(super) fn binding(
        &self,
        index: &Index<'_>,
        after: Option<Nanos>,
        operation: &Operation,
    ) -> Option<Bound<'a>> {
        let begin =
            self.all.partition_point(|bound| after.is_some_and(|after| bound.by.call <= after));
        let &(touch, any) = self.first.get(begin)?;
        if self.all[any].anywhere() < operation.call {
            return Some(self.all[any]);
        }
        let bound = self.all[touch];
        (bound.when_connected() < operation.call && index.is_connected(operation, bound.within))
            .then_some(bound)
    }
}
