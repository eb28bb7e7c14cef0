//! What checks collect, and how it becomes a verdict.

use super::{Invariant, MAX_SHOWN, Verdict, Violation, words};
use crate::history::{Entry, History};

/// Of the requests that were due, so many percent must have been sent, or the run means nothing.
const LEAST_SENT_PERCENT: u64 = 95;

/// What makes the whole run inconclusive.
pub(super) fn doubts(history: &History) -> Vec<String> {
    let mut doubts = Vec::new();
    match history.end {
        Some(end) if end.sent * 100 < end.due * LEAST_SENT_PERCENT => doubts.push(format!(
            "{} of the {} requests that were due were sent, under {LEAST_SENT_PERCENT} %",
            end.sent, end.due
        )),
        Some(_) => {}
        None => doubts.push("the history has no end: the run was cut short".to_owned()),
    }
    for fault in &history.faults {
        if fault.touched.is_some_and(|touched| touched.nothing()) {
            doubts.push(format!("the fault {} touched nothing", fault.name));
        }
    }
    doubts
}

/// What a check collects.
#[derive(Debug)]
pub(super) struct Findings {
    /// How much was examined so far.
    pub(super) examined: u64,
    of: &'static str,
    found: u64,
    violations: Vec<(String, Vec<Entry>)>,
    reasons: Vec<String>,
}

impl Findings {
    /// Of a check that examines these.
    pub(super) fn of(of: &'static str) -> Self {
        Self {
            examined: 0,
            of,
            found: 0,
            violations: Vec::new(),
            reasons: Vec::new(),
        }
    }

    /// A violation. Its words and proof are made only while they are still shown.
    pub(super) fn broken(&mut self, proof: impl FnOnce() -> (String, Vec<Entry>)) {
        self.found += 1;
        if self.violations.len() < MAX_SHOWN {
            self.violations.push(proof());
        }
    }

    /// Something that makes a verdict other than broken mean little.
    pub(super) fn doubt(&mut self, why: impl Into<String>) {
        self.reasons.push(why.into());
    }

    /// Broken goes before inconclusive, that before holds.
    pub(super) fn verdict(mut self, invariant: Invariant) -> Verdict {
        let (examined, of) = (self.examined, self.of);
        if self.found > 0 {
            let violations = self.violations.into_iter().map(|(what, mut proof)| {
                proof.sort_by_key(words::time);
                Violation {
                    invariant,
                    what,
                    proof,
                }
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
        Verdict::Inconclusive {
            examined,
            of,
            reasons: self.reasons,
        }
    }
}
