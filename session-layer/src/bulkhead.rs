//! The bulkhead: how many reads of the store may be in flight at once, and who need not wait for one.
//!
//! Without it an outage of Redis becomes one of Postgres: what Redis kept away arrives all at once, takes
//! every connection, and those who change sessions or read the journal wait behind it. Here the number of
//! reads is fixed, the rest gathers into the next ones (`coalesce.rs`), and whoever would get the answer
//! too late is told so at once (load shed).
//!
//! A function of what it is told, the time included.

use std::time::Duration;

use tokio::time::Instant;

/// Slots for reads, and what their past durations say about the next.
#[derive(Debug)]
pub(crate) struct Bulkhead {
    limit: usize,
    /// Slots given away: readers that are reading or about to.
    taken: usize,
    /// When each read that is in flight began.
    in_flight: Vec<Instant>,
    most: usize,
    /// How long a read takes, lately.
    typical: Duration,
}

impl Bulkhead {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self {
            limit,
            taken: 0,
            in_flight: Vec::new(),
            most: 0,
            typical: Duration::ZERO,
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes a slot for one reader. False where all are taken.
    #[must_use]
    pub(crate) fn take(&mut self) -> bool {
        let free = self.taken < self.limit;
        if free {
            self.taken += 1;
        }
        free
    }

    /// Gives a slot back, whose reader has no read in flight.
    pub(crate) fn give_back(&mut self) {
        debug_assert!(self.taken > self.in_flight.len());
        self.taken -= 1;
    }

    /// A reader that has a slot begins a read.
    pub(crate) fn begin(&mut self, now: Instant) {
        debug_assert!(self.in_flight.len() < self.taken);
        self.in_flight.push(now);
        self.most = self.most.max(self.in_flight.len());
    }

    /// The read that began then has ended, well or badly; its reader keeps the slot.
    pub(crate) fn end(&mut self, began: Instant, now: Instant) {
        self.abandon(began);
        let took = now.saturating_duration_since(began);
        // A moving average that believes good news sooner than bad: who is shed in vain is harmed, who
        // waits in vain hardly. A read that timed out counts as what it took, so a store that hangs is
        // known to after a round of reads.
        self.typical = if took < self.typical {
            (self.typical + took) / 2
        } else {
            (self.typical * 3 + took) / 4
        };
    }

    /// The read that began then was broken off and tells nothing.
    pub(crate) fn abandon(&mut self, began: Instant) {
        if let Some(at) = self.in_flight.iter().position(|each| *each == began) {
            self.in_flight.swap_remove(at);
        }
    }

    /// When a caller that comes now may expect its answer, with this many full reads to be made before
    /// its own. With a slot free that is not asked: it is tried, whatever the past was like.
    pub(crate) fn expected(&self, reads_before: usize, now: Instant) -> Instant {
        if self.taken < self.limit {
            return now;
        }
        let oldest = self.in_flight.iter().min();
        let age = oldest.map_or(Duration::ZERO, |began| {
            now.saturating_duration_since(*began)
        });
        let until_free = self.typical.saturating_sub(age);
        let before = u32::try_from(reads_before / self.limit).unwrap_or(u32::MAX);
        now + until_free + self.typical.saturating_mul(before.saturating_add(1))
    }

    /// Reads in flight now.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The most there were at once.
    pub(crate) fn most(&self) -> usize {
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One whose slots are all reading, since `now`, and whose reads take `typical`.
    fn full(limit: usize, typical: Duration, now: Instant) -> Bulkhead {
        let mut bulkhead = Bulkhead::new(limit);
        for _ in 0..limit {
            assert!(bulkhead.take());
            bulkhead.begin(now);
        }
        bulkhead.typical = typical;
        bulkhead
    }

    #[test]
    fn there_are_never_more_reads_than_slots() {
        let now = Instant::now();
        let mut bulkhead = full(3, MS, now);
        assert!(!bulkhead.take());
        bulkhead.end(now, now + MS);
        assert_eq!(bulkhead.in_flight(), 2);
        assert!(!bulkhead.take(), "its reader still has the slot");
        bulkhead.give_back();
        assert!(bulkhead.take());
        bulkhead.begin(now + MS);
        assert_eq!((bulkhead.in_flight(), bulkhead.most()), (3, 3));
        assert!(Bulkhead::new(0).take(), "none at all would be no store");
    }

    #[test]
    fn who_waits_expects_a_free_slot_then_the_reads_before_it_then_its_own() {
        let now = Instant::now();
        let bulkhead = full(2, 10 * MS, now);
        for (reads_before, age, expected) in [
            (0, 0, 20),  // until a slot is free, and its own
            (0, 4, 16),  // the one in flight is nearly done
            (0, 99, 10), // overdue: any moment now
            (1, 0, 20),  // the other slot makes that one
            (2, 0, 30),
            (4, 0, 40),
        ] {
            let then = now + age * MS;
            let after = bulkhead.expected(reads_before, then) - then;
            assert_eq!(after, expected * MS, "{reads_before} before, {age} ms old");
        }
        assert!(bulkhead.expected(usize::MAX, now) > now);
    }

    #[test]
    fn with_a_slot_free_it_is_tried_whatever_the_past_was_like() {
        let now = Instant::now();
        let mut bulkhead = full(2, Duration::from_secs(9), now);
        bulkhead.end(now, now);
        bulkhead.give_back();
        assert_eq!(bulkhead.expected(0, now), now);
    }

    #[test]
    fn a_store_that_hangs_is_known_to_after_one_round_and_forgiven_soon() {
        let now = Instant::now();
        let mut bulkhead = full(4, MS, now);
        let budget = now + 250 * MS;
        assert!(bulkhead.expected(0, now) < budget);
        for _ in 0..4 {
            bulkhead.end(now, now + 200 * MS);
            bulkhead.begin(now);
        }
        assert!(bulkhead.expected(0, now) > budget, "{bulkhead:?}");
        for _ in 0..4 {
            bulkhead.end(now, now + MS);
            bulkhead.begin(now);
        }
        assert!(bulkhead.expected(0, now) < budget, "{bulkhead:?}");
    }
}
