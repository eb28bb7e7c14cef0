//! Latencies without a fault and under each fault, and the time until hits returned.

use serde::Serialize;

use super::loses_single_commands;
use crate::{
    history::{Fault, History, Nanos, Touched},
    observe::HitCounts,
    workload::{Latencies, Latency, Timed},
};

const SECOND: Nanos = 1_000_000_000;
const MICRO: Nanos = 1_000;
/// The warm-up, in which the cache and the pools are empty. It counts as neither state.
const WARM_UP: Nanos = 2 * SECOND;

/// The latencies of validations. Each counts at the time when it was due.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// The latencies from the third second on while no fault was active, nor in the second before.
    /// The loss of single commands does not count as a fault.
    pub healthy: Latency,
    /// The figures of each fault in the history.
    pub faults: Vec<FaultFigures>,
}

/// The latencies under one fault.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultFigures {
    /// The name of the fault.
    pub name: String,
    /// The start, in milliseconds of the run's clock.
    pub at_ms: u64,
    /// The end of healing, in milliseconds of the run's clock.
    pub healed_ms: u64,
    /// The affected connections and bytes, if they are counted.
    pub touched: Option<Touched>,
    /// The latencies in the fault's first second.
    pub first_second: Latency,
    /// The latencies in the rest of the fault.
    pub rest: Latency,
    /// The time from healing until each affected node had a hit, in microseconds, if observed.
    pub hits_again_us: Option<u64>,
}

impl Figures {
    /// Computes the figures from the history, the validations and the nodes' counts of hits.
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
                if loses_single_commands(fault) {
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
        Self { healthy: healthy.sum(), faults: history.faults.iter().map(figures).collect() }
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

/// Returns the time until each affected node has counted more hits than right after healing.
fn hits_again(fault: &Fault, healed: Nanos, hits: &[HitCounts]) -> Option<Nanos> {
    let after = &hits[hits.partition_point(|(at, _)| *at < healed)..];
    let (_, first) = after.first()?;
    let all_hit = |counts: &Vec<u64>| {
        let nodes = first.iter().zip(counts).zip(0_u32..);
        // A restarted node counts from 0.
        nodes
            .filter(|(_, node)| fault.affects(*node))
            .all(|((first, now), _)| now > first || (now < first && *now > 0))
    };
    let (at, _) = after.iter().find(|(_, counts)| all_hit(counts))?;
    Some(at - healed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(lines: &str) -> History {
        let header = r#"{"header":{"version":1,"seed":7,"nodes":2,"parameters":{}}}"#;
        History::read(format!("{header}\n{lines}").as_bytes()).unwrap()
    }

    #[test]
    fn validation_counts_at_the_time_it_was_due() {
        let history = history(
            r#"{"fault":{"name":"a","at":2000000000,"until":4000000000,"healed":5000000000}}"#,
        );
        let at = |due: Nanos, took_ms: Nanos| Timed {
            due: due * SECOND / 10,
            took: took_ms * 1_000_000,
        };
        let validates =
            [at(10, 1), at(20, 50), at(29, 60), at(30, 5), at(50, 6), at(55, 9), at(61, 2)];
        let figures = Figures::of(&history, &validates, &[]);
        let fault = &figures.faults[0];
        assert_eq!((fault.at_ms, fault.healed_ms), (2_000, 5_000));
        let counts = [figures.healthy, fault.first_second, fault.rest].map(|it| it.count);
        assert_eq!(counts, [1, 2, 2], "the first two seconds do not count as healthy");
        assert!((59_000..61_000).contains(&fault.first_second.p99_us));
        assert!((1_900..2_100).contains(&figures.healthy.max_us));
        assert_eq!(fault.hits_again_us, None);
    }

    #[test]
    fn hits_return_when_every_affected_node_has_one() {
        let history = history(
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
