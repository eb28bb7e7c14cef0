//! The numbers of a run.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Settings;

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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
    pub(super) fn add(&mut self, other: &Self) {
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
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// The average.
    pub mean_us: f64,
    /// The median.
    pub p50_us: u64,
    /// 95 %.
    pub p95_us: u64,
    /// 99 %.
    pub p99_us: u64,
    /// 99.9 %.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
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
