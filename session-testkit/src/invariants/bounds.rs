//! Changes that were made for certain, and from when on nobody may honour what was before.

use std::time::Duration;

use super::index::Index;
use crate::history::{Change, Nanos, Operation, nanos};

/// A change that was made for certain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<'a> {
    /// The operation that made it.
    pub(super) by: &'a Operation,
    /// From its answer on (and what the promise adds to that) ...
    from: Nanos,
    /// ... and this, nodes in touch with Postgres honour it,
    within: Nanos,
    /// and every node after this.
    at_most: Nanos,
}

impl<'a> Bound<'a> {
    /// `None` where it is not certain that the change was made. `extra` counts on top: a grace.
    pub(super) fn of(by: &'a Operation, answer: Option<&Change>, extra: Duration) -> Option<Self> {
        let (within, at_most) = answer?.reach()?;
        Some(Self {
            by,
            from: by.ret?.saturating_add(nanos(extra)),
            within: nanos(within),
            at_most: nanos(at_most),
        })
    }

    fn in_touch(&self) -> Nanos {
        self.from.saturating_add(self.within)
    }

    fn anywhere(&self) -> Nanos {
        self.from.saturating_add(self.at_most)
    }
}

/// The changes of one thing, to be asked which of those begun after some time binds first.
///
/// Of several changes with different spans only two are looked at: the one that binds nodes in touch
/// first and the one that binds all first. Whatever those two do not forbid, a third that binds later
/// could forbid only where spans of different length mix around an outage; a miss there is the price of
/// O(log n).
#[derive(Debug, Default)]
pub(super) struct Bounds<'a> {
    /// By call.
    all: Vec<Bound<'a>>,
    /// For each position: the positions, from there on, of those two.
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
                if all[at].in_touch() <= all[touch].in_touch() {
                    at
                } else {
                    touch
                },
                if all[at].anywhere() <= all[any].anywhere() {
                    at
                } else {
                    any
                },
            );
        }
        Self { all, first }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A change whose call came after `after` and that this operation must know of, for it began late
    /// enough.
    pub(super) fn binding(
        &self,
        index: &Index<'_>,
        after: Option<Nanos>,
        operation: &Operation,
    ) -> Option<Bound<'a>> {
        let begin = self
            .all
            .partition_point(|bound| after.is_some_and(|after| bound.by.call <= after));
        let &(touch, any) = self.first.get(begin)?;
        if self.all[any].anywhere() < operation.call {
            return Some(self.all[any]);
        }
        let bound = self.all[touch];
        (bound.in_touch() < operation.call && index.in_touch(operation, bound.within))
            .then_some(bound)
    }
}
