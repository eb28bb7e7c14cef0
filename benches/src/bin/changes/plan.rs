//! The amount of the measurement, and when each change is due: figures and pure functions.

use std::{iter, ops::Range, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha8Rng};

/// The divisor of `--quick` for numbers of rows.
const QUICK_ROWS: u64 = 50;
/// The divisor of `--quick` for durations. A duration must still contain some journal reads.
const QUICK_SPANS: u32 = 20;
/// The number of transactions per second in `rate`. Each changes as many rows as the rate requires.
const TRANSACTIONS_PER_SECOND: u32 = 20;
/// The outer deadline of a scenario, in addition to its own duration.
const SLACK: Duration = Duration::from_secs(30 * 60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The seed of the sessions' names, and of the moments at which they end.
    pub(crate) seed: u64,
    /// `rate`: changes due per second, one run for each.
    pub(crate) rates: Vec<u32>,
    /// `rate`: the duration of the changes.
    pub(crate) span: Duration,
    /// `rate`: the interval of CHECKPOINTs.
    pub(crate) checkpoint_every: Duration,
    /// `rate`: the number of connections that change rows.
    pub(crate) writers: usize,
    /// `backlog`: rows that one transaction changes.
    pub(crate) backlog_at_once: u64,
    /// `backlog`: rows that several transactions change, before a node starts.
    pub(crate) backlog: u64,
    /// `backlog`: the number of these transactions.
    pub(crate) backlog_transactions: u64,
    /// `backlog`: the time for which the started node is observed, from its first hit on.
    pub(crate) after_start: Duration,
    /// `everywhere`: the number of the user's sessions, one run for each.
    pub(crate) crowds: Vec<u64>,
    /// `everywhere`: the number of those that each node serves from Redis.
    pub(crate) handful: u64,
    /// `open`: rows that the open transaction has changed.
    pub(crate) open_rows: u64,
    /// `open`: the time for which it then stays open.
    pub(crate) open_for: Duration,
    /// The number of sessions that SQL ends per second.
    pub(crate) ended_per_second: u32,
    /// The interval at which a node validates a session that has just ended. It grows after
    /// seconds.
    pub(crate) poll: Duration,
    /// The number of sessions that stay valid, and are validated continuously.
    pub(crate) kept: u64,
}

impl Plan {
    /// Returns the whole plan, or about a fiftieth of it.
    pub(crate) fn new(seed: u64, quick: bool) -> Self {
        let full = Self {
            seed,
            rates: vec![1_000, 5_000],
            span: Duration::from_secs(60),
            checkpoint_every: Duration::from_secs(15),
            writers: 2,
            backlog_at_once: 300_000,
            backlog: 1_000_000,
            backlog_transactions: 10,
            after_start: Duration::from_secs(10),
            crowds: vec![10_000, 200_000, 1_000_000],
            handful: 5,
            open_rows: 1_000_000,
            open_for: Duration::from_secs(20),
            ended_per_second: 10,
            poll: Duration::from_millis(5),
            kept: 20,
        };
        if quick { full.quick() } else { full }
    }

    /// Returns the plan of `--quick`. Rates and durations together result in a fiftieth of the
    /// rows.
    fn quick(self) -> Self {
        let rows = |rows: u64| rows / QUICK_ROWS;
        let rate = |rate: u32| {
            let slower = u64::from(rate) * u64::from(QUICK_SPANS) / QUICK_ROWS;
            u32::try_from(slower).unwrap_or(u32::MAX).max(1)
        };
        Self {
            rates: self.rates.into_iter().map(rate).collect(),
            span: self.span / QUICK_SPANS,
            checkpoint_every: self.checkpoint_every / QUICK_SPANS,
            backlog_at_once: rows(self.backlog_at_once),
            backlog: rows(self.backlog),
            after_start: self.after_start / QUICK_SPANS,
            crowds: self.crowds.into_iter().map(rows).collect(),
            open_rows: rows(self.open_rows),
            open_for: self.open_for / QUICK_SPANS,
            ..self
        }
    }

    /// Returns the outer deadline of a scenario.
    pub(crate) fn deadline(&self) -> Duration {
        let runs = u32::try_from(self.rates.len()).unwrap_or(u32::MAX);
        SLACK + self.span.saturating_mul(runs) * 2 + self.open_for
    }
}

/// Changes that are due at a constant rate, whatever the results of earlier ones (an open loop).
/// One transaction changes several rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    rate: u32,
    rows: u64,
    per_transaction: u64,
}

impl Pace {
    /// Returns the pace of this many changes per second, for this duration.
    pub(crate) fn new(rate: u32, span: Duration) -> Self {
        let rate = rate.max(1);
        let micros = u128::from(rate) * span.as_micros();
        Self {
            rate,
            rows: u64::try_from(micros / 1_000_000).unwrap_or(u64::MAX),
            per_transaction: u64::from(rate.div_ceil(TRANSACTIONS_PER_SECOND)),
        }
    }

    pub(crate) const fn rows(self) -> u64 {
        self.rows
    }

    pub(crate) const fn per_transaction(self) -> u64 {
        self.per_transaction
    }

    /// Returns the rows that the transaction of this number changes, and when it is due after the
    /// beginning. `None` if there are no more.
    pub(crate) fn transaction(self, number: u64) -> Option<(Range<u64>, Duration)> {
        let first = number.checked_mul(self.per_transaction)?;
        let end = first.saturating_add(self.per_transaction).min(self.rows);
        let due = Duration::from_nanos(
            u64::try_from(u128::from(first) * 1_000_000_000 / u128::from(self.rate)).ok()?,
        );
        (first < end).then_some((first..end, due))
    }
}

/// Returns when each session ends: once in every slot of `1 / per_second`, at a moment that the
/// seed selects. At regular moments, the ages would only have a few phases within the journal's
/// interval.
pub(crate) fn ends(seed: u64, per_second: u32) -> impl Iterator<Item = Duration> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let slot = Duration::from_secs(1) / per_second.max(1);
    let mut begins = Duration::ZERO;
    iter::from_fn(move || {
        let due = begins + slot.mul_f64(rng.random::<f64>());
        begins += slot;
        Some(due)
    })
}

/// Returns `parts` consecutive ranges that together are `0..all`.
pub(crate) fn split(all: u64, parts: u64) -> impl Iterator<Item = Range<u64>> {
    let parts = parts.max(1);
    let end = move |part: u64| {
        let end = u128::from(all) * u128::from(part) / u128::from(parts);
        u64::try_from(end).unwrap_or(all)
    };
    (0..parts).map(move |part| end(part)..end(part + 1)).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn quick_run_changes_a_fiftieth_of_the_rows() {
        let (full, quick) = (Plan::new(1, false), Plan::new(1, true));
        assert_eq!(full.backlog, quick.backlog * 50);
        assert_eq!(full.crowds[2], quick.crowds[2] * 50);
        for (full_rate, quick_rate) in full.rates.iter().zip(&quick.rates) {
            let rows = |rate: u32, plan: &Plan| Pace::new(rate, plan.span).rows();
            assert_eq!(rows(*full_rate, &full), rows(*quick_rate, &quick) * 50);
        }
        assert_eq!(full.poll, quick.poll);
    }

    #[test]
    fn every_row_is_changed_once_and_not_before_it_is_due() {
        for (rate, span) in [
            (1, SECOND),
            (19, SECOND),
            (1_000, SECOND * 60),
            (5_000, SECOND * 3),
            (333, SECOND / 2),
        ] {
            let pace = Pace::new(rate, span);
            let mut next = 0;
            let all = (0..).map_while(|number| pace.transaction(number));
            for (rows, due) in all {
                assert_eq!(rows.start, next, "{rate}");
                next = rows.end;
                assert!(due < span, "{rate}: {due:?}");
            }
            assert_eq!(next, pace.rows(), "{rate}");
        }
        assert_eq!(Pace::new(1_000, SECOND * 60).rows(), 60_000);
        let (rows, due) = Pace::new(1_000, SECOND).transaction(2).unwrap();
        assert_eq!((rows, due), (100..150, SECOND / 10));
    }

    #[test]
    fn one_session_ends_per_slot_as_the_seed_selects() {
        let some = |seed| ends(seed, 10).take(100).collect::<Vec<_>>();
        let drawn = some(7);
        for (slot, due) in (0..).zip(&drawn) {
            let begins = SECOND / 10 * slot;
            assert!((begins..begins + SECOND / 10).contains(due), "{due:?}");
        }
        assert_eq!(drawn, some(7));
        assert_ne!(drawn, some(8));
    }

    #[test]
    fn parts_are_consecutive_and_complete() {
        for (all, parts) in [(10, 3), (1_000_000, 10), (2, 5), (0, 3), (7, 0)] {
            let mut next = 0;
            for part in split(all, parts) {
                assert_eq!(part.start, next);
                next = part.end;
            }
            assert_eq!(next, all);
        }
    }
}
