//! The growing numbers of a run.

use super::{Counts, Latencies, Report, Second, Settings};
use crate::{
    history::{Change, Creation, Nanos, Op, Operation},
    subject::Seen,
};

const SECOND: Nanos = 1_000_000_000;

/// The latency of a response from its due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// The time when it was due, by the run's clock.
    pub due: Nanos,
    /// The time from then to the response.
    pub took: Nanos,
}

/// The data about an operation that its record lacks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// The time when it was due, after the load began.
    pub(super) due: Nanos,
    /// The time when the load began.
    pub(super) began: Nanos,
    /// Whether it has no result although its caller did not drop it.
    pub(super) hung: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    seconds: Vec<(Counts, Latencies)>,
    timed: Vec<Timed>,
    validates: Latencies,
    validates_sent: Latencies,
    changes: Latencies,
    lateness: Latencies,
    unsupported: u64,
    problems: Vec<String>,
}

impl Tally {
    fn second(&mut self, due: Nanos) -> &mut (Counts, Latencies) {
        // No run lasts 4 billion seconds.
        let second = usize::try_from(due / SECOND).unwrap_or(0);
        if self.seconds.len() <= second {
            self.seconds.resize_with(second + 1, Default::default);
        }
        &mut self.seconds[second]
    }

    pub(super) fn due(&mut self, due: Nanos, sent: bool) {
        let (counts, _) = self.second(due);
        counts.due += 1;
        counts.sent += u64::from(sent);
    }

    pub(super) fn answered(&mut self, operation: &Operation, of: Answered) {
        let due = of.began.saturating_add(of.due);
        self.lateness.add(operation.call.saturating_sub(due));
        let (counts, latencies) = self.second(of.due);
        let Some(ret) = operation.ret else {
            *(if of.hung { &mut counts.hung } else { &mut counts.dropped }) += 1;
            return;
        };
        counts.answered += 1;
        let creation = match &operation.op {
            Op::Create { answer, .. } => answer.as_ref(),
            _ => None,
        };
        match (operation.op.seen(), creation, operation.op.change()) {
            (Some(Seen::Unavailable), ..) => counts.unavailable += 1,
            (_, Some(Creation::Refused(_)), _) | (.., Some(Change::Refused(_))) => {
                counts.refused += 1;
            }
            (_, Some(Creation::Unknown(_)), _) | (.., Some(Change::Unknown(_))) => {
                counts.unknown += 1;
            }
            _ => {}
        }
        let latency = ret.saturating_sub(due);
        if operation.op.is_validation() {
            latencies.add(latency);
            self.validates.add(latency);
            self.timed.push(Timed { due, took: latency });
            self.validates_sent.add(ret.saturating_sub(operation.call));
        } else {
            self.changes.add(latency);
        }
    }

    pub(super) fn take_validates(&mut self) -> Vec<Timed> {
        std::mem::take(&mut self.timed)
    }

    pub(super) fn unsupported(&mut self) {
        self.unsupported += 1;
    }

    pub(super) fn problem(&mut self, what: String) {
        self.problems.push(what);
    }

    pub(super) fn total(&self) -> Counts {
        let mut total = Counts::default();
        for (counts, _) in &self.seconds {
            total.add(counts);
        }
        total.unsupported = self.unsupported;
        total
    }

    pub(super) fn report(self, settings: Settings, nodes: u32) -> Report {
        let seconds = self.seconds.iter().zip(0..);
        Report {
            settings,
            nodes,
            total: self.total(),
            validates: self.validates.sum(),
            validates_sent: self.validates_sent.sum(),
            changes: self.changes.sum(),
            lateness: self.lateness.sum(),
            seconds: seconds
                .map(|((counts, latencies), second)| Second {
                    second,
                    counts: *counts,
                    validates: latencies.sum(),
                })
                .collect(),
            problems: self.problems,
        }
    }
}
