//! A trial that is over: what was said, in words and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::{Availability, Figures};
use crate::{
    history::History,
    invariants::{Invariant, Outcome, Verdict, Verdicts},
    schedule::Schedule,
    workload::{Latency, Report},
};

/// A trial that is over.
#[derive(Debug)]
#[non_exhaustive]
pub struct Judged {
    /// What happened.
    pub history: History,
    /// The load's numbers.
    pub report: Report,
    /// What is said of every promise.
    pub verdicts: Verdicts,
    /// The promises that must have been examined.
    pub required: Vec<Invariant>,
    /// What was to happen.
    pub schedule: Schedule,
    /// How quick it was.
    pub figures: Figures,
    /// Whether there was an answer.
    pub availability: Availability,
    /// Validates that began within D of their session's revoke.
    pub revoked_tried: u64,
    /// How many of those there must be for the run to mean something.
    pub revoked_wanted: u64,
}

impl Judged {
    /// The verdict on the run.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.verdicts.overall(&self.required) {
            Outcome::Holds | Outcome::Inconclusive if self.availability.is_lost() => {
                Outcome::Broken
            }
            Outcome::Holds if !self.doubts().is_empty() => Outcome::Inconclusive,
            outcome => outcome,
        }
    }

    /// The promises of which nothing was examined: of an outage that never was, say.
    #[must_use]
    pub fn unexamined(&self) -> Vec<&'static str> {
        let each = self.verdicts.iter();
        each.filter(|(_, verdict)| verdict.examined() == 0)
            .map(|(invariant, _)| invariant.name())
            .collect()
    }

    /// Why the run means little, where nothing was broken.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = self.verdicts.doubts().to_vec();
        if self.revoked_tried < self.revoked_wanted {
            doubts.push(format!(
                "{} validates of revoked tokens began within D of their revoke; {} are wanted",
                self.revoked_tried, self.revoked_wanted
            ));
        }
        // A fault that was not caused touched nothing; here is why.
        doubts.extend(self.report.problems.iter().cloned());
        for (invariant, verdict) in self.verdicts.iter() {
            if let Verdict::Inconclusive { reasons, .. } = verdict
                && self.required.contains(&invariant)
            {
                doubts.push(format!("{invariant}: {}", reasons.join("; ")));
            }
        }
        doubts
    }

    /// All but the history.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "outcome": self.outcome().to_string(),
            "doubts": self.doubts(),
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

/// What is said of every promise, as JSON; of these something must have been examined.
pub(crate) fn promises(verdicts: &Verdicts, required: &[Invariant]) -> Value {
    let promises = verdicts.iter().map(|(invariant, verdict)| {
        let mut of = json!({
            "promise": invariant.name(),
            "outcome": verdict.outcome().to_string(),
            "examined": verdict.examined(),
            "required": required.contains(&invariant),
        });
        match verdict {
            Verdict::Broken {
                found, violations, ..
            } => {
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
        writeln!(f, "{}", self.report)?;
        writeln!(f, "{}", self.figures)?;
        writeln!(f, "{}", self.availability)?;
        writeln!(
            f,
            "validates of revoked tokens within D of their revoke: {} ({} wanted)\n",
            self.revoked_tried, self.revoked_wanted
        )?;
        write!(f, "{}", self.verdicts)?;
        for doubt in self.doubts() {
            writeln!(f, "doubt: {doubt}")?;
        }
        writeln!(f, "verdict: {}", self.outcome())
    }
}

/// Microseconds as milliseconds.
fn ms(micros: u64) -> String {
    format!("{}.{:02}", micros / 1000, micros % 1000 / 10)
}

fn p99(latency: &Latency) -> String {
    if latency.count == 0 {
        return "-".to_owned();
    }
    ms(latency.p99_us)
}

impl fmt::Display for Figures {
    /// A line per fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "p99 in ms: healthy {}", p99(&self.healthy))?;
        write!(
            f,
            "{:<28} {:>7} {:>7} {:>8} {:>12} {:>8} {:>11}",
            "fault", "from s", "to s", "touched", "first second", "rest", "hits again"
        )?;
        for fault in &self.faults {
            let seconds = |ms: u64| format!("{}.{:02}", ms / 1000, ms % 1000 / 10);
            let touched = fault
                .touched
                .map_or_else(|| "?".to_owned(), |touched| touched.connections.to_string());
            write!(
                f,
                "\n{:<28} {:>7} {:>7} {touched:>8} {:>12} {:>8} {:>11}",
                fault.name,
                seconds(fault.at_ms),
                seconds(fault.healed_ms),
                p99(&fault.first_second),
                p99(&fault.rest),
                fault.hits_again_us.map_or_else(|| "-".to_owned(), ms),
            )?;
        }
        writeln!(f)
    }
}

impl Availability {
    /// Over 1 %: there is no fallback. Less than that is what a busy machine's deadlines, or shed load, make
    /// of a budget of 0.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.unavailable_with_postgres.saturating_mul(100) > self.answered_with_postgres
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = match self.unavailable_with_postgres {
            0 => "met",
            _ if self.is_lost() => "BROKEN, over 1 %",
            _ => "missed",
        };
        writeln!(
            f,
            "unavailable while Postgres could answer: {} of {} (budget 0: {met})",
            self.unavailable_with_postgres, self.answered_with_postgres
        )?;
        writeln!(
            f,
            "  with Redis alone (what it has no copy of can't be answered): {} of {}",
            self.unavailable_with_redis_alone, self.answered_with_redis_alone
        )?;
        write!(
            f,
            "  with neither: {} of {}",
            self.unavailable_with_neither, self.answered_with_neither
        )
    }
}
