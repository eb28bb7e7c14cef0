//! The numbers of a run.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Settings;

/// The numbers of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The settings. Their seed replays the plan.
    pub settings: Settings,
    /// The number of the subject's nodes.
    pub nodes: u32,
    /// The sum of the counts of all seconds.
    pub total: Counts,
    /// The latency of validates since they were due.
    pub validates: Latency,
    /// The latency of validates since they were sent, which is the subject's own.
    pub validates_sent: Latency,
    /// The latency of logins and changes since they were due.
    pub changes: Latency,
    /// The delay with which requests were sent. Tokio's timer alone is up to 1 ms late. A longer
    /// delay means that the machine is too slow for this rate.
    pub lateness: Latency,
    /// The seconds of the load.
    pub seconds: Vec<Second>,
    /// Problems outside the subject: faults that could not be caused, panics.
    pub problems: Vec<String>,
}

/// One second of the load. A request belongs to the second in which it was due.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// The number of the second, from 0.
    pub second: u64,
    /// The requests and their results.
    pub counts: Counts,
    /// The latency of validates since they were due.
    pub validates: Latency,
}

/// The numbers of requests and of their results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that were due.
    pub due: u64,
    /// Due requests that were sent.
    pub sent: u64,
    /// Sent requests with a response of any kind.
    pub answered: u64,
    /// Answered validates that were Unavailable.
    pub unavailable: u64,
    /// Answered logins and changes that were refused, for whatever reason.
    pub refused: u64,
    /// Answered logins and changes with an unknown result.
    pub unknown: u64,
    /// Sent requests that their caller dropped.
    pub dropped: u64,
    /// Sent requests that timed out, or were lost in a panic.
    pub hung: u64,
    /// Sent requests for operations that the subject does not support.
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

/// Latencies in microseconds, 0 if there are none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// The number of samples.
    pub count: u64,
    /// The average.
    pub mean_us: f64,
    /// The median.
    pub p50_us: u64,
    /// The 95th percentile.
    pub p95_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The 99.9th percentile.
    pub p999_us: u64,
    /// The maximum.
    pub max_us: u64,
}

/// A time in microseconds, printed in milliseconds.
struct Ms(u64);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:02}", self.0 / 1000, self.0 % 1000 / 10))
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999, max] = [self.p50_us, self.p99_us, self.p999_us, self.max_us].map(Ms);
        write!(f, "p50 {p50:>7}  p99 {p99:>7}  p99.9 {p999:>7}  max {max:>8} ms")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, rate, nodes) = (self.settings.seed, self.settings.rate, self.nodes);
        writeln!(f, "seed {seed}: {rate} requests/s due, {nodes} nodes")?;
        writeln!(f, "second    due   sent  unavailable  dropped   hung  validates")?;
        for Second { second, counts, validates } in &self.seconds {
            let Counts { due, sent, unavailable, dropped, hung, .. } = counts;
            writeln!(
                f,
                "{second:>6} {due:>6} {sent:>6} {unavailable:>12} {dropped:>8} {hung:>6}  \
                 {validates}"
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
            "total: {due} due, {sent} sent, {answered} answered ({unavailable} unavailable, \
             {refused} refused, {unknown} unknown), {dropped} dropped, {hung} hung, {unsupported} \
             unsupported"
        )?;
        writeln!(f, "validates, since due:  {}", self.validates)?;
        writeln!(f, "validates, since sent: {}", self.validates_sent)?;
        writeln!(f, "changes, since due:    {}", self.changes)?;
        writeln!(f, "delay of sending:      {}", self.lateness)?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "problem: {problem}"))
    }
}
