//! Observations of ended sessions, and the verdict on the promises.

use std::time::Duration;

use crate::{
    Error,
    node::Figures,
    table::{grouped, mib, millis, percent, unknown},
};

#[derive(Clone, Debug)]
pub(crate) struct Observed {
    /// The node's name in the tables.
    pub(crate) node: String,
    pub(crate) ended: u64,
    /// The number of those that Redis had for this node just before.
    pub(crate) cached: u64,
    /// The time from each session's end until the node found it invalid, in ascending order.
    /// Sessions that it never found invalid are missing.
    pub(crate) ages: Vec<Duration>,
    /// The number of sessions that were invalid, and valid again at the end.
    pub(crate) back: u64,
    pub(crate) figures: Figures,
    pub(crate) before: Memory,
    pub(crate) after: Memory,
}

/// The memory of this process, which holds all nodes, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    resident: u64,
    /// The maximum so far.
    peak: u64,
}

impl Memory {
    pub(crate) fn now() -> Result<Self, Error> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        let memory = field("VmRSS:").zip(field("VmHWM:"));
        let (resident, peak) = memory.ok_or("/proc/self/status has no VmRSS and VmHWM")?;
        Ok(Self { resident, peak })
    }
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
    /// Returns a description of each broken promise. `within` is the bound.
    pub(crate) fn broken(&self, promise: Promise, within: Duration) -> Vec<String> {
        let Figures { let_in, let_in_in_touch, refused, .. } = self.figures;
        let too_late = match promise {
            Promise::EveryNode => let_in,
            Promise::NodesInTouch => let_in_in_touch,
        };
        let (node, bound, back) = (&self.node, millis(within), self.back);
        let never = self.ended.saturating_sub(self.ages.len() as u64);
        let all = [
            (
                too_late,
                format!(
                    "{node} accepted ended sessions {let_in} times later than {bound} ms after \
                     the end, of which {let_in_in_touch} times while it was connected to Postgres"
                ),
            ),
            (never, format!("{node} never rejected {never} ended sessions")),
            (back, format!("{node} accepted {back} sessions again that it had rejected")),
            (refused, format!("{node} rejected valid sessions {refused} times")),
        ];
        all.into_iter().filter(|(times, _)| *times > 0).map(|(_, what)| what).collect()
    }

    /// The header of [`cells`](Self::cells).
    pub(crate) const HEAD: [&str; 10] = [
        "node",
        "sessions ended (cached)",
        "age p50, ms",
        "p99",
        "max",
        "invalid within D",
        "let in too late (in touch)",
        "hits, %",
        "503",
        "RSS of all nodes, MiB (peak)",
    ];

    /// Returns the cells of a table's row. `within` is D.
    pub(crate) fn cells(&self, within: Duration) -> [String; 10] {
        let age = |percent| percentile(&self.ages, percent).map_or_else(unknown, millis);
        let in_time = self.ages.iter().filter(|age| **age <= within).count() as u64;
        let figures = self.figures;
        let (before, Memory { resident, peak }) = (self.before.resident, self.after);
        [
            self.node.clone(),
            format!("{} ({})", grouped(self.ended), grouped(self.cached)),
            age(50),
            age(99),
            age(100),
            match in_time == self.ended {
                true => "all".to_owned(),
                false => format!("{} of {}", grouped(in_time), grouped(self.ended)),
            },
            format!("{} ({})", grouped(figures.let_in), grouped(figures.let_in_in_touch)),
            percent(figures.hits, figures.validations),
            grouped(figures.unavailable),
            format!("{} → {} ({})", mib(before), mib(resident), mib(peak)),
        ]
    }
}

/// Returns the least value that this percentage of all values does not exceed (the nearest rank).
/// The values are in ascending order. Without values it returns `None`.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: Duration = Duration::from_secs(2);

    /// Returns the observations of sessions with these ages in ms, which were accepted too late
    /// this many times.
    fn observed(ended: u64, ages: &[u64], (let_in, let_in_in_touch): (u64, u64)) -> Observed {
        let memory = Memory::now().unwrap();
        Observed {
            node: "node 1".to_owned(),
            ended,
            cached: ended,
            ages: ages.iter().map(|age| Duration::from_millis(*age)).collect(),
            back: 0,
            figures: Figures { let_in, let_in_in_touch, ..Figures::default() },
            before: memory,
            after: memory,
        }
    }

    #[test]
    fn percentile_is_one_of_the_values() {
        let hundred: Vec<_> = (1..=100).map(Duration::from_secs).collect();
        for (percent, seconds) in [(50, 50), (99, 99), (100, 100), (0, 1)] {
            assert_eq!(percentile(&hundred, percent), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(percentile(&hundred[..2], 99), Some(Duration::from_secs(2)));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn sessions_that_were_not_accepted_too_late_break_nothing() {
        let in_time = observed(2, &[250, 500], (0, 0));
        assert!(in_time.broken(Promise::EveryNode, D).is_empty());
        assert_eq!(in_time.cells(D)[2..7], ["250", "500", "500", "all", "0 (0)"]);
        // A late rejection after 503s alone is no acceptance.
        assert!(observed(1, &[2_500], (0, 0)).broken(Promise::EveryNode, D).is_empty());
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

    #[test]
    fn other_wrong_results_break_promises_too() {
        let never = observed(2, &[1], (0, 0));
        let (mut back, mut refused) = (observed(1, &[1], (0, 0)), observed(1, &[1], (0, 0)));
        back.back = 1;
        refused.figures.refused = 3;
        for observed in [never, back, refused] {
            assert_eq!(observed.broken(Promise::NodesInTouch, D).len(), 1);
        }
    }
}
