//! The bulkhead: the limit of reads of the store in flight, and which callers are shed.
//!
//! Without a bulkhead, an outage of Redis becomes an outage of Postgres. All requests that Redis
//! served then reach Postgres at once and take every connection. Changes and reads of the journal
//! wait behind them. The bulkhead fixes the number of reads. The other callers share the next reads
//! (`engine/coalescing.rs`). A caller whose reply would come too late fails at once (load
//! shedding).
//!
//! Logins, changes and lists have one bulkhead per kind (`engine/admission.rs`).
//!
//! Every decision is a function of its arguments, the time included.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many durations of past reads are kept.
const RECENT_READS: usize = 8;

/// The slots for reads, and the past durations, from which it estimates the next ones.
#[derive(Debug)]
pub(crate) struct Bulkhead {
    limit: usize,
    /// How many slots are acquired: the readers that read, or are about to.
    acquired: usize,
    /// The start of each read in flight.
    in_flight: Vec<Instant>,
    /// The highest number of reads in flight so far.
    peak: usize,
    /// The moving average of the duration of a read.
    typical: Duration,
    /// The durations of the last reads, the oldest first. Zero for each read that has not been made
    /// yet.
    recent: VecDeque<Duration>,
}

impl Bulkhead {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self {
            limit,
            acquired: 0,
            in_flight: Vec::new(),
            peak: 0,
            typical: Duration::ZERO,
            recent: VecDeque::from([Duration::ZERO; RECENT_READS]),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns how many slots are acquired.
    pub(crate) fn acquired(&self) -> usize {
        self.acquired
    }

    /// Acquires a slot for one reader. Returns `false` if all slots are acquired.
    #[must_use]
    pub(crate) fn acquire(&mut self) -> bool {
        let free = self.acquired < self.limit;
        if free {
            self.acquired += 1;
        }
        free
    }

    /// Releases a slot whose reader has no read in flight.
    pub(crate) fn release(&mut self) {
        debug_assert!(self.acquired > self.in_flight.len());
        self.acquired -= 1;
    }

    /// Records that a reader with a slot begins a read.
    pub(crate) fn begin(&mut self, now: Instant) {
        debug_assert!(self.in_flight.len() < self.acquired);
        self.in_flight.push(now);
        self.peak = self.peak.max(self.in_flight.len());
    }

    /// Records that the read that began at `began` has ended, successfully or not. Its reader keeps
    /// the slot.
    pub(crate) fn end(&mut self, began: Instant, now: Instant) {
        self.cancel(began);
        let took = now.saturating_duration_since(began);
        self.recent.pop_front();
        self.recent.push_back(took);
        // The average follows a quick read sooner than a slow one. A caller that is shed without
        // need is harmed, and a caller that waits without need hardly is. A read that timed out
        // counts with its duration. The average therefore shows a store that hangs after one round
        // of reads.
        self.typical = if took < self.typical {
            (self.typical + took) / 2
        } else {
            (self.typical * 3 + took) / 4
        };
    }

    /// Records that the read that began at `began` was cancelled. Its duration is not used.
    pub(crate) fn cancel(&mut self, began: Instant) {
        if let Some(at) = self.in_flight.iter().position(|each| *each == began) {
            self.in_flight.swap_remove(at);
        }
    }

    /// Returns when a caller that comes at `now` can expect its reply, if this many full reads are
    /// made before its own. If a slot is free, it returns `now`: the caller tries, whatever the
    /// past reads took.
    pub(crate) fn expected(&self, reads_before: usize, now: Instant) -> Instant {
        if self.acquired < self.limit {
            return now;
        }
        let start = self.start_if_each_takes(self.typical, reads_before, now);
        start + self.typical
    }

    /// Returns the earliest start of a call that must wait for a slot. Each call before it counts
    /// with the duration of the quickest recent call. The first call over a new connection is slow,
    /// and would be a bad estimate for a queue of single calls.
    pub(crate) fn earliest_start(&self, calls_before: usize, now: Instant) -> Instant {
        let quickest = self.recent.iter().min().copied().unwrap_or_default();
        self.start_if_each_takes(quickest, calls_before, now)
    }

    /// Returns when a call starts if each of the `before` calls before it takes `each`.
    fn start_if_each_takes(&self, each: Duration, before: usize, now: Instant) -> Instant {
        let oldest = self.in_flight.iter().min();
        let age = oldest.map_or(Duration::ZERO, |began| now.saturating_duration_since(*began));
        let until_free = each.saturating_sub(age);
        let before = u32::try_from(before / self.limit).unwrap_or(u32::MAX);
        now + until_free + each.saturating_mul(before)
    }

    /// Returns how many reads are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Returns the highest number of reads in flight so far.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_MS: Duration = Duration::from_millis(1);

    /// Returns a bulkhead without a free slot. All its reads began at `now`, and take `typical`.
    fn full(limit: usize, typical: Duration, now: Instant) -> Bulkhead {
        let mut bulkhead = Bulkhead::new(limit);
        for _ in 0..limit {
            assert!(bulkhead.acquire());
            bulkhead.begin(now);
        }
        bulkhead.typical = typical;
        bulkhead
    }

    #[test]
    fn full_bulkhead_admits_no_further_read() {
        let now = Instant::now();
        let mut bulkhead = full(3, ONE_MS, now);
        assert!(!bulkhead.acquire());
        bulkhead.end(now, now + ONE_MS);
        assert_eq!(bulkhead.in_flight(), 2);
        assert!(!bulkhead.acquire(), "the reader has the slot still");
        bulkhead.release();
        assert!(bulkhead.acquire());
        bulkhead.begin(now + ONE_MS);
        assert_eq!((bulkhead.in_flight(), bulkhead.peak()), (3, 3));
        assert!(Bulkhead::new(0).acquire(), "the limit is at least 1");
    }

    #[test]
    fn waiting_caller_expects_its_reply_after_earlier_reads() {
        let now = Instant::now();
        let bulkhead = full(2, 10 * ONE_MS, now);
        for (reads_before, age, expected) in [
            (0, 0, 20),  // a slot is free after 10 ms, and its own read takes 10 ms
            (0, 4, 16),  // the read in flight has 6 ms left
            (0, 99, 10), // the read in flight is overdue
            (1, 0, 20),  // the other slot makes the earlier read
            (2, 0, 30),
            (4, 0, 40),
        ] {
            let then = now + age * ONE_MS;
            let after = bulkhead.expected(reads_before, then) - then;
            assert_eq!(after, expected * ONE_MS, "{reads_before} before, {age} ms old");
        }
        assert!(bulkhead.expected(usize::MAX, now) > now);
    }

    #[test]
    fn free_slot_is_used_at_once_after_slow_reads() {
        let now = Instant::now();
        let mut bulkhead = full(2, Duration::from_secs(9), now);
        bulkhead.end(now, now);
        bulkhead.release();
        assert_eq!(bulkhead.expected(0, now), now);
    }

    #[test]
    fn earliest_start_follows_quickest_of_last_eight_reads() {
        let now = Instant::now();
        let mut bulkhead = full(2, ONE_MS, now);
        let mut took = |ms| {
            bulkhead.end(now, now + ms * ONE_MS);
            bulkhead.begin(now);
            bulkhead.earliest_start(100, now) - now
        };
        for _ in 0..RECENT_READS - 1 {
            assert_eq!(took(30), Duration::ZERO, "fewer than eight reads are known");
        }
        assert_eq!(took(30), 51 * 30 * ONE_MS);
        assert_eq!(took(2), 51 * 2 * ONE_MS, "one quick read suffices");
        for _ in 0..RECENT_READS - 1 {
            assert_eq!(took(30), 51 * 2 * ONE_MS);
        }
        assert_eq!(took(30), 51 * 30 * ONE_MS);
    }

    #[test]
    fn store_that_hangs_raises_estimate_after_one_round() {
        let now = Instant::now();
        let mut bulkhead = full(4, ONE_MS, now);
        let budget = now + 250 * ONE_MS;
        assert!(bulkhead.expected(0, now) < budget);
        for _ in 0..4 {
            bulkhead.end(now, now + 200 * ONE_MS);
            bulkhead.begin(now);
        }
        assert!(bulkhead.expected(0, now) > budget, "{bulkhead:?}");
        for _ in 0..4 {
            bulkhead.end(now, now + ONE_MS);
            bulkhead.begin(now);
        }
        assert!(bulkhead.expected(0, now) < budget, "{bulkhead:?}");
    }
}
