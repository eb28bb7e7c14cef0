//! The amount of the measurement, and when sessions end.

use std::{iter, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha8Rng};

/// The divisor of `--quick` for numbers of rows.
const QUICK_ROWS: u64 = 50;
/// The divisor of `--quick` for durations. A duration must still contain some journal reads.
const QUICK_DURATIONS: u32 = 20;

/// The number of sessions that SQL ends per second.
pub(crate) const ENDED_PER_SECOND: u32 = 10;
/// The number of sessions that stay valid, and are validated continuously.
pub(crate) const KEPT: u64 = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The seed of the sessions' tokens, and of the moments at which they end.
    pub(crate) seed: u64,
    /// `rate`: changes due per second, one run for each.
    pub(crate) rates: Vec<u32>,
    /// `rate`: the duration of the changes.
    pub(crate) duration: Duration,
    /// `rate`: the interval of CHECKPOINTs.
    pub(crate) checkpoint_every: Duration,
    /// `backlog`: rows that one transaction changes.
    pub(crate) backlog_at_once: u64,
    /// `backlog`: rows that several transactions change, before a node starts.
    pub(crate) backlog: u64,
    /// `backlog`: the time for which the started node is observed, from its first hit on.
    pub(crate) after_start: Duration,
    /// `everywhere`: the number of the user's sessions, one run for each.
    pub(crate) crowds: Vec<u64>,
    /// `open`: rows that the open transaction has changed.
    pub(crate) open_rows: u64,
    /// `open`: the time for which it then stays open.
    pub(crate) open_for: Duration,
}

impl Plan {
    /// Returns the whole plan, or about a fiftieth of it. Rates and durations together result in a
    /// fiftieth of the rows.
    pub(crate) fn new(seed: u64, quick: bool) -> Self {
        let rows = |rows: u64| if quick { rows / QUICK_ROWS } else { rows };
        let rate = |rate| if quick { rate * 2 / 5 } else { rate };
        let seconds =
            |seconds| Duration::from_secs(seconds) / if quick { QUICK_DURATIONS } else { 1 };
        Self {
            seed,
            rates: [1_000, 5_000].map(rate).to_vec(),
            duration: seconds(60),
            checkpoint_every: seconds(15),
            backlog_at_once: rows(300_000),
            backlog: rows(1_000_000),
            after_start: seconds(10),
            crowds: [10_000, 200_000, 1_000_000].map(rows).to_vec(),
            open_rows: rows(1_000_000),
            open_for: seconds(20),
        }
    }

    /// Returns the number of rows that a rate changes.
    pub(crate) fn rows(&self, rate: u32) -> u64 {
        u64::try_from(u128::from(rate) * self.duration.as_millis() / 1_000).unwrap_or(u64::MAX)
    }

    /// Returns when each session ends: once in every slot of `1 / ENDED_PER_SECOND`, at a moment
    /// that the seed selects. At regular moments, the ages would only have a few phases within the
    /// journal's interval. Each `phase` of a scenario has its own moments.
    pub(crate) fn ends(&self, phase: u64) -> impl Iterator<Item = Duration> + use<> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed.wrapping_add(phase));
        let slot = Duration::from_secs(1) / ENDED_PER_SECOND;
        let mut begins = Duration::ZERO;
        iter::from_fn(move || {
            let due = begins + slot.mul_f64(rng.random::<f64>());
            begins += slot;
            Some(due)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_run_changes_a_fiftieth_of_the_rows() {
        let (full, quick) = (Plan::new(1, false), Plan::new(1, true));
        assert_eq!(full.backlog, quick.backlog * 50);
        for (full_rate, quick_rate) in full.rates.iter().zip(&quick.rates) {
            assert_eq!(full.rows(*full_rate), quick.rows(*quick_rate) * 50);
        }
    }

    #[test]
    fn one_session_ends_per_slot_as_the_seed_selects() {
        let some = |seed| Plan::new(seed, true).ends(0).take(100).collect::<Vec<_>>();
        let drawn = some(7);
        let slot = Duration::from_secs(1) / ENDED_PER_SECOND;
        for (number, due) in (0..).zip(&drawn) {
            assert!((slot * number..slot * (number + 1)).contains(due), "{due:?}");
        }
        assert_eq!(drawn, some(7));
        assert_ne!(drawn, some(8));
    }
}
