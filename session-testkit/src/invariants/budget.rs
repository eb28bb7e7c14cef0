//! R9: every validate ends within its budget.

use super::{
    findings::Findings,
    format::Ms,
    index::{Index, proof},
};
use crate::history::nanos;

/// Checks R9: every validate ends within its budget.
///
/// A violation is a validate whose result came later, beyond the header's slack for measurement. So
/// is one without a result that its caller dropped, or that the end of the run cut off, later than
/// that.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("validates");
    let parameters = index.parameters();
    let budget = nanos(parameters.budget.saturating_add(parameters.budget_slack));
    let run_end = index.history.end.map(|end| end.at);
    for operation in &index.history.operations {
        if !operation.op.is_validation() {
            continue;
        }
        // Without any of these times, nothing is known about its duration.
        let Some(until) = operation.ret.or(operation.dropped).or(run_end) else {
            continue;
        };
        let took = until.saturating_sub(operation.call);
        findings.examine(took > budget, || {
            let over = if operation.ret.is_some() { "took" } else { "had no result after" };
            (
                format!("a validate {over} {}, above its budget of {}", Ms(took), Ms(budget)),
                proof([operation]),
            )
        });
    }
    findings
}
