//! The numbers of a run.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{Settings, record::Progress};
use crate::{
    history::{Change, Creation, Nanos, Op, Operation},
    subject::Seen,
};

const MICRO: Nanos = 1_000;
const SECOND: Nanos = 1_000_000_000;

/// The numbers of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was asked for. Its seed replays the plan.
    pub settings: Settings,
    /// How many nodes the subject has.
    pub nodes: u32,
    /// The sum of all seconds, but for the latencies.
    pub total: Counts,
    /// Of validates, from the time they were due.
    pub validates: Latency,
    /// Of validates, from the time they were sent: what the subject took.
    pub validates_sent: Latency,
    /// Of logins and changes, from the time they were due.
    pub changes: Latency,
    /// How late requests were sent. Tokio's timer alone is up to 1 ms late; more is a machine too slow
    /// for this rate.
    pub lateness: Latency,
    /// Each second of the load.
    pub seconds: Vec<Second>,
    /// What went wrong beside the subject: faults that could not be caused, panics.
    pub problems: Vec<String>,
}

/// One second of the load. A request belongs to the second in which it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// Which one, from 0.
    pub second: u64,
    /// How many requests, and what became of them.
    pub counts: Counts,
    /// Of validates, from the time they were due.
    pub validates: Latency,
}

/// How many requests, and what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Due.
    pub due: u64,
    /// Of those due: sent.
    pub sent: u64,
    /// Of those sent: answered, in whatever way.
    pub answered: u64,
    /// Of those answered: validates of which nobody could say anything.
    pub unavailable: u64,
    /// Of those answered: logins and changes that were refused, also for good reasons.
    pub refused: u64,
    /// Of those answered: logins and changes of unknown fate.
    pub unknown: u64,
    /// Of those sent: dropped by their caller.
    pub dropped: u64,
    /// Of those sent: given up for want of patience, or lost in a panic.
    pub hung: u64,
    /// Of those sent: operations that the subject does not have.
    pub unsupported: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.sent += other.sent;
        self.answered += other.answered;
        self.unavailable += other.unavailable;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.dropped += other.dropped;
        self.hung += other.hung;
        self.unsupported += other.unsupported;
    }
}

/// Latencies, in microseconds; 0 where there were none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// The median.
    pub p50_us: u64,
    /// 99 %.
    pub p99_us: u64,
    /// 99.9 %.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// Latencies as they come: an HDR histogram of microseconds, two digits, which are some 10 KB.
#[derive(Debug)]
struct Latencies(Histogram<u32>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new(2);
        Self(histogram.unwrap_or_else(|_| unreachable!("two digits are allowed")))
    }
}

impl Latencies {
    fn add(&mut self, span: Nanos) {
        // It resizes itself, so nothing is out of range. (`saturating_record` does not.)
        let recorded = self.0.record(span / MICRO);
        debug_assert!(recorded.is_ok(), "{span} ns");
    }

    fn sum(&self) -> Latency {
        if self.0.is_empty() {
            return Latency::default();
        }
        Latency {
            count: self.0.len(),
            p50_us: self.0.value_at_quantile(0.5),
            p99_us: self.0.value_at_quantile(0.99),
            p999_us: self.0.value_at_quantile(0.999),
            max_us: self.0.max(),
        }
    }
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
            self.validates_sent.add(ret.saturating_sub(operation.call));
        } else {
            self.changes.add(latency);
        }
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

/// Microseconds as milliseconds.
struct Ms(u64);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:02}", self.0 / 1000, self.0 % 1000 / 10))
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999, max] = [self.p50_us, self.p99_us, self.p999_us, self.max_us].map(Ms);
        write!(
            f,
            "p50 {p50:>7}  p99 {p99:>7}  p99.9 {p999:>7}  max {max:>8} ms"
        )
    }
}

impl fmt::Display for Report {
    /// A line per second, then the sums.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, rate, nodes) = (self.settings.seed, self.settings.rate, self.nodes);
        writeln!(f, "seed {seed}: {rate} requests/s due, {nodes} nodes")?;
        writeln!(
            f,
            "second    due   sent  unavailable  dropped   hung  validates"
        )?;
        for Second {
            second,
            counts,
            validates,
        } in &self.seconds
        {
            let Counts {
                due,
                sent,
                unavailable,
                dropped,
                hung,
                ..
            } = counts;
            writeln!(
                f,
                "{second:>6} {due:>6} {sent:>6} {unavailable:>12} {dropped:>8} {hung:>6}  {validates}"
            )?;
        }
        let Counts {
            due,
            sent,
            answered,
            unavailable,
            refused,
            unknown,
            dropped,
            hung,
            unsupported,
        } = self.total;
        writeln!(
            f,
            "in all: {due} due, {sent} sent, {answered} answered ({unavailable} unavailable, \
             {refused} refused, {unknown} of unknown fate), {dropped} dropped, {hung} hung, \
             {unsupported} unsupported"
        )?;
        writeln!(f, "validates, since due:  {}", self.validates)?;
        writeln!(f, "validates, since sent: {}", self.validates_sent)?;
        writeln!(f, "changes, since due:    {}", self.changes)?;
        writeln!(f, "sent late by:          {}", self.lateness)?;
        self.problems
            .iter()
            .try_for_each(|problem| writeln!(f, "problem: {problem}"))
    }
}
