//! A schedule that breaks a promise, without what it does not need for that.

use session_testkit::invariants::{Invariant, Outcome};

use crate::mutants::Mistake;
use crate::plan::Plan;
use crate::schedule::run;

/// Leaves out operations and faults for as long as this promise stays broken.
pub(crate) fn shrink(plan: &Plan, mistake: Option<Mistake>, broken: Invariant) -> Plan {
    let still =
        |plan: &Plan| run(plan, mistake, false).verdicts.of(broken).outcome() == Outcome::Broken;
    let mut least = plan.clone();
    loop {
        let before = least.operations.len() + least.faults.len();
        for at in (0..least.operations.len()).rev() {
            let mut less = least.clone();
            less.operations.remove(at);
            if still(&less) {
                least = less;
            }
        }
        for at in (0..least.faults.len()).rev() {
            let mut less = least.clone();
            less.faults.remove(at);
            if still(&less) {
                least = less;
            }
        }
        if least.operations.len() + least.faults.len() == before {
            return least;
        }
    }
}
