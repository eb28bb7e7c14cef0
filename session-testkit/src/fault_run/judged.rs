//! The result of a fault run, as text and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::{Availability, Figures};
use crate::{
    bench::Machine,
    history::History,
    invariants::{Invariant, Outcome, Verdict, Verdicts},
    schedule::Schedule,
    workload::{Latency, Report},
};

/// The result of a fault run.
#[derive(Debug)]
#[non_exhaustive]
pub struct Judged {
    /// The machine and the servers when the run began.
    pub machine: Machine,
    /// The recorded history.
    pub history: History,
    /// The report on the load.
    pub report: Report,
    /// The verdict on every promise.
    pub verdicts: Verdicts,
    /// The promises that the run must have examined.
    pub required: Vec<Invariant>,
    /// The schedule of faults.
    pub schedule: Schedule,
    /// The latencies.
    pub figures: Figures,
    /// The counts of Unavailable.
    pub availability: Availability,
    /// The number of validations that began within D after their session's revoke.
    pub revoked_tried: u64,
    /// The minimum of such validations for a meaningful verdict.
    pub revoked_wanted: u64,
}

impl Judged {
    /// Returns the verdict on the run.
    pub fn outcome(&self) -> Outcome {
        match self.verdicts.overall(&self.required) {
            Outcome::Holds | Outcome::Inconclusive if self.availability.is_lost() => {
                Outcome::Broken
            }
            Outcome::Holds if !self.doubts().is_empty() => Outcome::Inconclusive,
            outcome => outcome,
        }
    }

    /// Returns the promises that the run did not exercise, such as R7 without an outage.
    pub fn unexercised(&self) -> Vec<&'static str> {
        let each = self.verdicts.iter();
        each.filter(|(_, verdict)| verdict.examined() == 0)
            .map(|(invariant, _)| invariant.name())
            .collect()
    }

    /// Returns the reasons why the run proves too little.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = self.verdicts.doubts().to_vec();
        if self.revoked_tried < self.revoked_wanted {
            doubts.push(format!(
                "{} validations of revoked tokens began within D of their revoke, and {} are \
                 required",
                self.revoked_tried, self.revoked_wanted
            ));
        }
        // The reasons why a fault was not injected.
        doubts.extend(self.report.problems.iter().cloned());
        for (invariant, verdict) in self.verdicts.iter() {
            if let Verdict::Inconclusive { reasons, .. } = verdict
                && self.required.contains(&invariant)
            {
                doubts.push(format!("{invariant}: {}", reasons.join(", ")));
            }
        }
        doubts
    }

    /// Returns everything except the history as JSON.
    pub fn json(&self) -> Value {
        json!({
            "outcome": self.outcome().to_string(),
            "doubts": self.doubts(),
            "machine": self.machine,
            "schedule": self.schedule,
            "promises": promises(&self.verdicts, &self.required),
            "revokedTried": self.revoked_tried,
            "revokedWanted": self.revoked_wanted,
            "availability": self.availability,
            "figures": self.figures,
            "load": self.report,
        })
    }
}

/// Returns the verdict on every promise as JSON, with a mark at the required ones.
pub(crate) fn promises(verdicts: &Verdicts, required: &[Invariant]) -> Value {
    let promises = verdicts.iter().map(|(invariant, verdict)| {
        let mut of = json!({
            "promise": invariant.name(),
            "outcome": verdict.outcome().to_string(),
            "examined": verdict.examined(),
            "required": required.contains(&invariant),
        });
        match verdict {
            Verdict::Broken { found, violations, .. } => {
                of["found"] = json!(found);
                let violations = violations
                    .iter()
                    .map(|violation| json!({ "what": violation.what, "proof": violation.proof }));
                of["violations"] = violations.collect();
            }
            Verdict::Inconclusive { reasons, .. } => of["reasons"] = json!(reasons),
            Verdict::Holds { .. } => {}
        }
        of
    });
    promises.collect()
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "{}", self.report)?;
        writeln!(f, "{}", self.figures)?;
        writeln!(f, "{}", self.availability)?;
        writeln!(
            f,
            "validations of revoked tokens within D of their revoke: {} ({} required)\n",
            self.revoked_tried, self.revoked_wanted
        )?;
        write!(f, "{}", self.verdicts)?;
        for doubt in self.doubts() {
            writeln!(f, "doubt: {doubt}")?;
        }
        writeln!(f, "verdict: {}", self.outcome())
    }
}

/// Formats microseconds as milliseconds, or milliseconds as seconds.
fn thousandths(number: u64) -> String {
    format!("{}.{:02}", number / 1000, number % 1000 / 10)
}

fn p99(latency: &Latency) -> String {
    if latency.count == 0 {
        return "-".to_owned();
    }
    thousandths(latency.p99_us)
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "p99 in ms: healthy {}", p99(&self.healthy))?;
        write!(
            f,
            "{:<28} {:>7} {:>7} {:>8} {:>12} {:>8} {:>11}",
            "fault", "from s", "to s", "affected", "first second", "rest", "hits again"
        )?;
        for fault in &self.faults {
            let affected = fault
                .touched
                .map_or_else(|| "?".to_owned(), |touched| touched.connections.to_string());
            write!(
                f,
                "\n{:<28} {:>7} {:>7} {affected:>8} {:>12} {:>8} {:>11}",
                fault.name,
                thousandths(fault.at_ms),
                thousandths(fault.healed_ms),
                p99(&fault.first_second),
                p99(&fault.rest),
                fault.hits_again_us.map_or_else(|| "-".to_owned(), thousandths),
            )?;
        }
        writeln!(f)
    }
}

/// The name of the count that has a budget.
pub(crate) const UNAVAILABLE: &str = "unavailable while Postgres was reachable";

impl Availability {
    /// Returns whether over 1 % of the responses were Unavailable, because then the fallback does
    /// not work. A busy machine's deadlines or shed load may cause less than that.
    pub fn is_lost(&self) -> bool {
        self.unavailable_with_postgres.saturating_mul(100) > self.answered_with_postgres
    }

    /// Returns the count while Postgres was reachable, and whether it met the budget.
    pub(crate) fn budget(&self) -> String {
        let met = match self.unavailable_with_postgres {
            0 => "met",
            _ if self.is_lost() => "BROKEN, over 1 %",
            _ => "missed",
        };
        let (of, all) = (self.unavailable_with_postgres, self.answered_with_postgres);
        format!("{of} of {all} (budget 0: {met})")
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{UNAVAILABLE}: {}", self.budget())?;
        writeln!(
            f,
            "  with Redis alone (only sessions with an entry can be validated): {} of {}",
            self.unavailable_with_redis_alone, self.answered_with_redis_alone
        )?;
        write!(
            f,
            "  with neither: {} of {}",
            self.unavailable_with_neither, self.answered_with_neither
        )
    }
}
