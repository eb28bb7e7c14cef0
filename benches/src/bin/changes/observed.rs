//! Observations of ended sessions, and the verdict on the promises: pure functions of figures.

use std::time::Duration;

use crate::{
    memory::Memory,
    protocol::Report,
    table::{grouped, mib, millis, percent, unknown},
};

#[derive(Clone, Debug)]
pub(crate) struct Observed {
    /// The node's name in the tables.
    pub(crate) node: String,
    pub(crate) ended: u64,
    /// The number of those that Redis had for this node just before.
    pub(crate) copies: u64,
    /// The time from each session's end until the node found it invalid, in ascending order.
    /// Sessions that it never found invalid are missing.
    /// missing.
    pub(crate) ages: Vec<Duration>,
    /// The number of sessions that were invalid, and valid again at the end.
    pub(crate) back: u64,
    /// The node's own figures.
    pub(crate) report: Report,
    pub(crate) before: Memory,
    pub(crate) after: Memory,
}

/// The nodes for which a bound holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Every node, because the scenario does not excuse one that is cut off from Postgres.
    EveryNode,
    /// Nodes that are connected to Postgres. The scenario may cut them off, which is documented.
    NodesInTouch,
}

impl Observed {
    fn never(&self) -> u64 {
        self.ended.saturating_sub(self.ages.len() as u64)
    }

    /// Returns a description of each broken promise. `within` is the bound.
    pub(crate) fn broken(&self, promise: Promise, within: Duration) -> Vec<String> {
        let node = &self.node;
        let bound = format!("{} ms after the end", millis(within));
        let mut broken = Vec::new();
        let Report { let_in, let_in_in_touch, .. } = self.report;
        let too_late = match promise {
            Promise::EveryNode => let_in,
            Promise::NodesInTouch => let_in_in_touch,
        };
        if too_late > 0 {
            broken.push(format!(
                "{node} accepted ended sessions {let_in} times later than {bound}, of which \
                 {let_in_in_touch} times while it was connected to Postgres"
            ));
        }
        if self.never() > 0 {
            broken.push(format!("{node} never rejected {} ended sessions", self.never()));
        }
        if self.back > 0 {
            broken
                .push(format!("{node} accepted {} sessions again that it had rejected", self.back));
        }
        if self.report.refused > 0 {
            broken.push(format!("{node} rejected valid sessions {} times", self.report.refused));
        }
        broken
    }

    /// The header of [`cells`](Self::cells).
    pub(crate) const HEAD: [&str; 13] = [
        "node",
        "sessions ended (cached)",
        "age p50, ms",
        "p99",
        "max",
        "invalid within D",
        "let in too late (in touch)",
        "hits, %",
        "longest without a hit, ms",
        "503",
        "journal age max, ms",
        "RSS, MiB (peak)",
        "health",
    ];

    /// Returns the cells of a table's row. `within` is D.
    pub(crate) fn cells(&self, within: Duration) -> [String; 13] {
        let age = |percent| percentile(&self.ages, percent).map_or_else(unknown, millis);
        let in_time = self.ages.iter().filter(|age| **age <= within).count() as u64;
        let report = &self.report;
        [
            self.node.clone(),
            format!("{} ({})", grouped(self.ended), grouped(self.copies)),
            age(50),
            age(99),
            age(100),
            match in_time == self.ended {
                true => "all".to_owned(),
                false => format!("{} of {}", grouped(in_time), grouped(self.ended)),
            },
            format!("{} ({})", grouped(report.let_in), grouped(report.let_in_in_touch)),
            percent(report.hits, report.validations),
            millis(report.without_hits),
            grouped(report.unavailable),
            report.journal_age.map_or_else(unknown, millis),
            format!(
                "{} → {} ({})",
                mib(self.before.resident),
                mib(self.after.resident),
                mib(self.after.peak)
            ),
            self.health(),
        ]
    }

    /// Returns how often the health document had each status, as in `degraded 1, healthy 19`.
    fn health(&self) -> String {
        let statuses = self.report.health.iter();
        let statuses: Vec<_> =
            statuses.map(|(status, times)| format!("{status} {times}")).collect();
        statuses.join(", ")
    }

    pub(crate) fn errors(&self) -> impl Iterator<Item = String> {
        let errors = self.report.errors.iter();
        errors.map(|error| format!("{}: {error}", self.node))
    }
}

/// Returns the least value that this percentage of all values does not exceed (the nearest rank).
/// The values are in ascending order. Without values it returns `None`.
pub(crate) fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent.min(100)).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: Duration = Duration::from_secs(2);

    /// Returns the observations of sessions with these ages in ms, which were accepted too late
    /// this many times.
    fn observed(ended: u64, ages: &[u64], (let_in, let_in_in_touch): (u64, u64)) -> Observed {
        let memory = Memory { resident: 1024, peak: 2048 };
        let ages = ages.iter().map(|age| Duration::from_millis(*age));
        Observed {
            node: "node 1".to_owned(),
            ended,
            copies: ended,
            ages: ages.collect(),
            back: 0,
            report: Report { let_in, let_in_in_touch, ..Report::default() },
            before: memory,
            after: memory,
        }
    }

    #[test]
    fn percentile_is_one_of_the_values() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50), Some(50));
        assert_eq!(percentile(&hundred, 99), Some(99));
        assert_eq!(percentile(&hundred, 100), Some(100));
        assert_eq!(percentile(&hundred, 0), Some(1));
        assert_eq!(percentile(&[7, 9], 99), Some(9));
        assert_eq!(percentile(&[7, 9], 50), Some(7));
        assert_eq!(percentile::<u32>(&[], 50), None);
    }

    #[test]
    fn all_sessions_ended_in_time_break_nothing() {
        let observed = observed(2, &[250, 500], (0, 0));
        assert!(observed.broken(Promise::EveryNode, D).is_empty());
        assert_eq!(observed.cells(D)[2..7], ["250", "500", "500", "all", "0 (0)"]);
    }

    #[test]
    fn session_accepted_too_late_breaks_the_promise() {
        let cut_off = observed(1, &[2_500], (9, 0));
        assert_eq!(cut_off.broken(Promise::EveryNode, D).len(), 1);
        assert!(cut_off.broken(Promise::NodesInTouch, D).is_empty());
        assert_eq!(cut_off.cells(D)[5..7], ["0 of 1", "9 (0)"]);
        let in_touch = observed(1, &[2_500], (9, 1));
        assert_eq!(in_touch.broken(Promise::NodesInTouch, D).len(), 1);
    }

    /// Checks that a 503 counts as no acceptance.
    #[test]
    fn late_rejection_alone_breaks_nothing() {
        let observed = observed(1, &[2_500], (0, 0));
        assert!(observed.broken(Promise::EveryNode, D).is_empty());
        assert_eq!(observed.cells(D)[5], "0 of 1");
    }

    #[test]
    fn other_wrong_results_break_promises_too() {
        let never = observed(2, &[1], (0, 0));
        let (mut back, mut refused) = (observed(1, &[1], (0, 0)), observed(1, &[1], (0, 0)));
        back.back = 1;
        refused.report.refused = 3;
        for observed in [never, back, refused] {
            assert_eq!(observed.broken(Promise::NodesInTouch, D).len(), 1);
        }
    }
}
