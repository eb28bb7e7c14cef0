//! R9: every validate ends within its budget.

use super::{
    findings::Findings,
    index::{Index, proof},
    words::Ms,
};
use crate::history::nanos;

/// R9. *Every validate ends within its budget.*
///
/// Broken by a validate whose answer came later (beyond what the header allows for measuring), and by one
/// that had none yet when its caller dropped it, or when the run ended, later than that.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("validates");
    let parameters = index.parameters();
    let budget = nanos(parameters.budget.saturating_add(parameters.budget_slack));
    let run_end = index.history.end.map(|end| end.at);
    for operation in &index.history.operations {
        if !operation.op.is_validation() {
            continue;
        }
        // Until then it was seen to take; of one without any of these times nothing is known.
        let Some(until) = operation.ret.or(operation.dropped).or(run_end) else {
            continue;
        };
        findings.examined += 1;
        let took = until.saturating_sub(operation.call);
        if took > budget {
            findings.broken(|| {
                let over = if operation.ret.is_some() {
                    "took"
                } else {
                    "had no answer after"
                };
                (
                    format!(
                        "a validate {over} {}; its budget is {}",
                        Ms(took),
                        Ms(budget)
                    ),
                    proof([operation]),
                )
            });
        }
    }
    findings
}
