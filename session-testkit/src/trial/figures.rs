//! How quick it was: healthy, in the first second of each fault, in its rest, and until hits come again.

use serde::Serialize;

use super::is_in_passing;
use crate::{
    history::{Fault, History, Nanos, Touched},
    observe::HitCounts,
    workload::{Latencies, Latency, Timed},
};

const SECOND: Nanos = 1_000_000_000;
const MICRO: Nanos = 1_000;
/// From the first request on nothing is cached yet, and pools are empty: that is neither healthy nor a fault.
const WARM_UP: Nanos = 2 * SECOND;

/// How quick the validates were. Each counts by when it was due.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// From the third second on while nothing was broken, and had not been for a second; commands lost in passing
    /// do not count.
    pub healthy: Latency,
    /// Each fault of the history.
    pub faults: Vec<FaultFigures>,
}

/// How quick they were under one fault.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultFigures {
    /// Which one.
    pub name: String,
    /// From when on, in milliseconds of the run's clock.
    pub at_ms: u64,
    /// Until it was healed.
    pub healed_ms: u64,
    /// What it touched, where that is counted.
    pub touched: Option<Touched>,
    /// In the first second after it began.
    pub first_second: Latency,
    /// In the rest of it.
    pub rest: Latency,
    /// From being healed until each of the nodes that felt it had a hit again, in microseconds; `None` where that
    /// was not seen.
    pub hits_again_us: Option<u64>,
}

impl Figures {
    /// From the history, the validates' times, and the nodes' counts of hits.
    pub(super) fn of(history: &History, validates: &[Timed], hits: &[HitCounts]) -> Self {
        let mut healthy = Latencies::default();
        let begin = validates.iter().map(|validate| validate.due).min();
        let warm = begin.unwrap_or(0).saturating_add(WARM_UP);
        let calm = |due: Nanos| {
            if due < warm {
                return false;
            }
            let mut faults = history.faults.iter();
            !faults.any(|fault| {
                if is_in_passing(fault) {
                    return false;
                }
                let (at, healed) = fault.longest();
                at <= due && due <= healed.saturating_add(SECOND)
            })
        };
        for validate in validates.iter().filter(|validate| calm(validate.due)) {
            healthy.add(validate.took);
        }
        let figures = |fault: &Fault| under(fault, validates, hits);
        Self {
            healthy: healthy.sum(),
            faults: history.faults.iter().map(figures).collect(),
        }
    }
}

fn under(fault: &Fault, validates: &[Timed], hits: &[HitCounts]) -> FaultFigures {
    let (at, healed) = fault.longest();
    let (mut first, mut rest) = (Latencies::default(), Latencies::default());
    for Timed { due, took } in validates {
        if *due >= at && *due <= healed {
            if due - at < SECOND {
                first.add(*took);
            } else {
                rest.add(*took);
            }
        }
    }
    FaultFigures {
        name: fault.name.clone(),
        at_ms: at / (1_000 * MICRO),
        healed_ms: healed / (1_000 * MICRO),
        touched: fault.touched,
        first_second: first.sum(),
        rest: rest.sum(),
        hits_again_us: hits_again(fault, healed, hits).map(|span| span / MICRO),
    }
}

/// The first look at which each node that felt it has counted more hits than at the first look after healing.
fn hits_again(fault: &Fault, healed: Nanos, hits: &[HitCounts]) -> Option<Nanos> {
    let after = &hits[hits.partition_point(|(at, _)| *at < healed)..];
    let (_, first) = after.first()?;
    let all_hit = |counts: &Vec<u64>| {
        let nodes = first.iter().zip(counts).zip(0_u32..);
        // A node that restarts counts from 0.
        nodes
            .filter(|(_, node)| fault.is_felt_by(*node))
            .all(|((first, now), _)| now > first || (now < first && *now > 0))
    };
    let (at, _) = after.iter().find(|(_, counts)| all_hit(counts))?;
    Some(at - healed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(lines: &str) -> History {
        let header = r#"{"header":{"version":1,"seed":7,"nodes":2,"parameters":{}}}"#;
        History::read(format!("{header}\n{lines}").as_bytes()).unwrap()
    }

    #[test]
    fn each_validate_counts_where_it_was_due() {
        let history = fault(
            r#"{"fault":{"name":"redis-kill","at":2000000000,"until":4000000000,"healed":5000000000}}"#,
        );
        let at = |due: Nanos, took_ms: Nanos| Timed {
            due: due * SECOND / 10,
            took: took_ms * 1_000_000,
        };
        let validates = [
            at(10, 1),
            at(20, 50),
            at(29, 60),
            at(30, 5),
            at(50, 6),
            at(55, 9),
            at(61, 2),
        ];
        let figures = Figures::of(&history, &validates, &[]);
        let fault = &figures.faults[0];
        assert_eq!((fault.at_ms, fault.healed_ms), (2_000, 5_000));
        let counts = [figures.healthy, fault.first_second, fault.rest].map(|it| it.count);
        assert_eq!(
            counts,
            [1, 2, 2],
            "the first seconds are no measure of health"
        );
        assert!((59_000..61_000).contains(&fault.first_second.p99_us));
        assert!((1_900..2_100).contains(&figures.healthy.max_us));
        assert_eq!(fault.hits_again_us, None);
    }

    #[test]
    fn hits_come_again_when_every_node_that_felt_it_has_one() {
        let history = fault(
            r#"{"fault":{"name":"a","at":0,"until":100000}}
{"fault":{"name":"b","at":0,"until":100000,"nodes":[1]}}"#,
        );
        let looks = [
            (50_000, vec![9, 9]),
            (110_000, vec![9, 9]),
            (120_000, vec![9, 10]),
            // Node 0 has restarted.
            (130_000, vec![0, 11]),
            (150_000, vec![1, 12]),
        ];
        let figures = Figures::of(&history, &[], &looks);
        let again: Vec<_> = figures.faults.iter().map(|it| it.hits_again_us).collect();
        assert_eq!(again, [Some(50), Some(20)]);
    }
}
