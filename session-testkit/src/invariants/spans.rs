//! Merged and sorted spans of time, for binary search.

use crate::history::Nanos;

/// Disjoint sorted spans. Both ends belong to a span.
#[derive(Debug, Default)]
pub(super) struct Spans(Vec<(Nanos, Nanos)>);

impl Spans {
    /// Merges spans that touch, and drops those that end before they begin.
    pub(super) fn merged(spans: impl IntoIterator<Item = (Nanos, Nanos)>) -> Self {
        let mut sorted: Vec<_> = spans.into_iter().filter(|(a, b)| a <= b).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(Nanos, Nanos)> = Vec::with_capacity(sorted.len());
        for (from, to) in sorted {
            match merged.last_mut() {
                Some((_, end)) if from <= *end => *end = (*end).max(to),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }

    pub(super) fn overlap(&self, from: Nanos, to: Nanos) -> bool {
        // The spans are disjoint and sorted. Their ends are therefore sorted too.
        let first = self.0.partition_point(|(_, end)| *end < from);
        self.0.get(first).is_some_and(|(begin, _)| *begin <= to)
    }

    /// Returns whether one span covers this one completely.
    pub(super) fn cover(&self, from: Nanos, to: Nanos) -> bool {
        let first = self.0.partition_point(|(_, end)| *end < to);
        self.0.get(first).is_some_and(|(begin, _)| *begin <= from)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Nanos, Nanos)> {
        self.0.iter().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_spans_are_merged() {
        let spans = Spans::merged([(5, 7), (1, 3), (3, 4), (9, 8)]);
        assert_eq!(spans.iter().collect::<Vec<_>>(), [(1, 4), (5, 7)]);
        assert!(spans.overlap(4, 4) && spans.overlap(0, 1) && spans.overlap(2, 6));
        assert!(!spans.overlap(8, 9) && !spans.overlap(0, 0));
        assert!(spans.cover(1, 4) && spans.cover(6, 7));
        assert!(!spans.cover(4, 5) && !spans.cover(0, 1) && !spans.cover(7, 8));
    }
}
