//! The search for the highest rate that passes. It is a pure state machine.

/// The search ends when the lowest rate that failed is at most this part above the highest that
/// passed: 1/20, which is 5 %.
const PRECISION: u32 = 20;

/// The search for the highest rate that passes.
///
/// The rate doubles until it fails. Then each rate is the geometric mean of the highest that passed
/// and the lowest that failed. A rate that fails is tried once more, because other work on the
/// machine can fail one trial.
#[derive(Clone, Debug)]
pub(super) struct Search {
    next: Option<u32>,
    passed: Option<u32>,
    failed: Option<u32>,
    failed_once: bool,
    highest: u32,
}

impl Search {
    /// Creates a search that begins at `first` and never exceeds `highest`.
    pub(super) fn new(first: u32, highest: u32) -> Self {
        let next = Some(first.clamp(1, highest.max(1)));
        Self { next, passed: None, failed: None, failed_once: false, highest }
    }

    /// Returns the rate to try, or `None` when the search has ended.
    pub(super) fn rate(&self) -> Option<u32> {
        self.next
    }

    /// Returns the highest rate that passed.
    pub(super) fn limit(&self) -> Option<u32> {
        self.passed
    }

    /// Records the result of the rate to try.
    pub(super) fn record(&mut self, passed: bool) {
        let Some(rate) = self.next else { return };
        if !passed && !self.failed_once {
            self.failed_once = true;
            return;
        }
        self.failed_once = false;
        *(if passed { &mut self.passed } else { &mut self.failed }) = Some(rate);
        self.next = match (self.passed, self.failed) {
            (Some(passed), None) => {
                (passed < self.highest).then(|| passed.saturating_mul(2).min(self.highest))
            }
            (None, Some(failed)) => Some(failed / 2).filter(|rate| *rate > 0),
            (Some(passed), Some(failed)) => {
                let mean = (u64::from(passed) * u64::from(failed)).isqrt();
                let between = u32::try_from(mean).unwrap_or(failed).max(passed + 1);
                (failed - passed > passed / PRECISION && between < failed).then_some(between)
            }
            (None, None) => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Searches for `limit` in a system that passes every rate up to it. Returns the rates.
    fn rates(mut search: Search, limit: u32) -> (Option<u32>, Vec<u32>) {
        let mut rates = Vec::new();
        while let Some(rate) = search.rate() {
            rates.push(rate);
            search.record(rate <= limit);
        }
        (search.limit(), rates)
    }

    proptest! {
        #[test]
        fn found_rate_is_at_most_5_percent_too_low(limit in 1_u32..2_000_000) {
            let (found, rates) = rates(Search::new(1_000, 1_000_000), limit);
            let (found, limit) = (found.unwrap(), limit.min(1_000_000));
            prop_assert!(found <= limit && limit - found <= found / 20, "{found}: {rates:?}");
            prop_assert!(rates.len() <= 40, "{rates:?}");
        }
    }

    #[test]
    fn rate_doubles_then_halves_the_interval() {
        let (found, rates) = rates(Search::new(1_000, 1_000_000), 3_000);
        assert_eq!(rates, [1_000, 2_000, 4_000, 4_000, 2_828, 3_363, 3_363, 3_083, 3_083, 2_952]);
        assert_eq!(found, Some(2_952));
    }

    #[test]
    fn single_failure_of_a_rate_is_tried_again() {
        let mut search = Search::new(100, 100);
        search.record(false);
        assert_eq!(search.rate(), Some(100));
        search.record(true);
        assert_eq!((search.rate(), search.limit()), (None, Some(100)));
    }

    #[test]
    fn nothing_is_found_if_every_rate_fails() {
        let (found, rates) = rates(Search::new(4, 100), 0);
        assert_eq!((found, rates), (None, vec![4, 4, 2, 2, 1, 1]));
    }
}
