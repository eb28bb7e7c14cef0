//! The findings of a check, and their verdict.

use super::{Invariant, MAX_SHOWN, Verdict, Violation, format};
use crate::history::{Entry, History};

/// The percentage of due requests that must have been sent for the run to be conclusive.
const MIN_SENT_PERCENT: u64 = 95;

/// Returns the reasons why the whole run is inconclusive.
pub(super) fn doubts(history: &History) -> Vec<String> {
    let mut doubts = Vec::new();
    match history.end {
        Some(end) if end.sent * 100 < end.due * MIN_SENT_PERCENT => doubts.push(format!(
            "only {} of the {} due requests were sent, under {MIN_SENT_PERCENT} %",
            end.sent, end.due
        )),
        Some(_) => {}
        None => doubts.push("the history has no end, because the run was interrupted".to_owned()),
    }
    for fault in &history.faults {
        if fault.touched.is_some_and(|touched| touched.nothing()) {
            doubts.push(format!("the fault {} had no effect", fault.name));
        }
    }
    doubts
}

/// The findings of one check.
#[derive(Debug)]
pub(super) struct Findings {
    /// The number of cases examined so far.
    pub(super) examined: u64,
    of: &'static str,
    found: u64,
    violations: Vec<(String, Vec<Entry>)>,
    reasons: Vec<String>,
}

impl Findings {
    /// Creates the findings of a check that examines this kind of case.
    pub(super) fn of(of: &'static str) -> Self {
        Self { examined: 0, of, found: 0, violations: Vec::new(), reasons: Vec::new() }
    }

    /// Counts an examined case, and adds a violation if it is one.
    pub(super) fn examine(
        &mut self,
        is_violation: bool,
        proof: impl FnOnce() -> (String, Vec<Entry>),
    ) {
        self.examined += 1;
        if is_violation {
            self.broken(proof);
        }
    }

    /// Adds a violation. Its text and proof are only built while they are still shown.
    pub(super) fn broken(&mut self, proof: impl FnOnce() -> (String, Vec<Entry>)) {
        self.found += 1;
        if self.violations.len() < MAX_SHOWN {
            self.violations.push(proof());
        }
    }

    pub(super) fn doubt(&mut self, why: impl Into<String>) {
        self.reasons.push(why.into());
    }

    /// Returns the verdict. Broken takes precedence over inconclusive, and that over holds.
    pub(super) fn verdict(mut self, invariant: Invariant) -> Verdict {
        let (examined, of) = (self.examined, self.of);
        if self.found > 0 {
            let violations = self.violations.into_iter().map(|(what, mut proof)| {
                proof.sort_by_key(format::time);
                Violation { invariant, what, proof }
            });
            return Verdict::Broken {
                examined,
                of,
                found: self.found,
                violations: violations.collect(),
            };
        }
        if examined == 0 && self.reasons.is_empty() {
            self.reasons.push("nothing to examine".to_owned());
        }
        if self.reasons.is_empty() {
            return Verdict::Holds { examined, of };
        }
        Verdict::Inconclusive { examined, of, reasons: self.reasons }
    }
}
