//! The numbers of a run while they grow.

use super::{Counts, Latencies, Progress, Report, Second, Settings};
use crate::{
    history::{Change, Creation, Nanos, Op, Operation},
    subject::Seen,
};

const SECOND: Nanos = 1_000_000_000;

/// How long an answer took from the time it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// When it was due, by the run's clock.
    pub due: Nanos,
    /// How long it took from then on.
    pub took: Nanos,
}

/// Where an operation belongs, beside what its record says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// When it was due, after the load began.
    pub(super) due: Nanos,
    /// When the load began.
    pub(super) began: Nanos,
    /// It has no answer, and its caller did not want to drop it.
    pub(super) hung: bool,
}

/// The numbers while they grow.
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
        // A run of 4 billion seconds is not planned.
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
            if of.hung {
                counts.hung += 1;
            } else {
                counts.dropped += 1;
            }
            return;
        };
        counts.answered += 1;
        match outcome(&operation.op) {
            Outcome::Fine => {}
            Outcome::Unavailable => counts.unavailable += 1,
            Outcome::Refused => counts.refused += 1,
            Outcome::Unknown => counts.unknown += 1,
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

    pub(super) fn progress(&self) -> Progress {
        let total = self.total();
        Progress {
            due: total.due,
            sent: total.sent,
            answered: total.answered,
            unavailable: total.unavailable,
        }
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

enum Outcome {
    Fine,
    Unavailable,
    Refused,
    Unknown,
}

fn outcome(op: &Op) -> Outcome {
    match op {
        Op::Validate { answer, .. } | Op::ValidateRandom { answer } => match answer {
            Some(Seen::Unavailable) => Outcome::Unavailable,
            _ => Outcome::Fine,
        },
        Op::Create { answer, .. } => match answer {
            Some(Creation::Refused(_)) => Outcome::Refused,
            Some(Creation::Unknown(_)) => Outcome::Unknown,
            _ => Outcome::Fine,
        },
        Op::Update { answer, .. }
        | Op::Revoke { answer, .. }
        | Op::RevokeAll { answer, .. }
        | Op::Rotate { answer, .. } => match answer {
            Some(Change::Refused(_)) => Outcome::Refused,
            Some(Change::Unknown(_)) => Outcome::Unknown,
            _ => Outcome::Fine,
        },
    }
}
