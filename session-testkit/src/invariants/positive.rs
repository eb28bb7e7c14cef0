//! R7: an outage never returns Invalid.

use super::{
    findings::Findings,
    index::{Index, proof},
};
use crate::{
    history::{Change, Entry, Operation},
    subject::Seen,
};

/// Checks R7: Invalid rests on a reply that proves it. Every error is Unavailable.
///
/// Only Postgres can prove that a token is invalid, and negative results are not cached. A
/// violation is an Invalid, or a change that returned `Nothing`, whose node was certainly cut off
/// from Postgres from the call to the result. It was cut off by a fault with `no_postgres`. The
/// session's real state does not matter. An Invalid for an active session also violates R3.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("results during an outage of Postgres");
    for operation in &index.history.operations {
        let Some(denies) = denies(operation) else {
            continue;
        };
        if !index.surely_cut(operation) {
            continue;
        }
        findings.examine(denies, || {
            let mut entries = proof([operation]);
            let outage = index.history.faults.iter().find(|fault| {
                let (from, to) = fault.certain();
                fault.no_postgres
                    && fault.affects(operation.node)
                    && from <= operation.end()
                    && operation.call <= to
            });
            entries.extend(outage.cloned().map(Entry::Fault));
            ("it was Invalid although Postgres was unreachable".to_owned(), entries)
        });
    }
    findings
}

/// Returns whether the result denies that there is such a session. `None` if there is no result.
fn denies(operation: &Operation) -> Option<bool> {
    let seen = operation.op.seen().map(|seen| *seen == Seen::Invalid);
    seen.or_else(|| operation.op.change().map(|change| *change == Change::Nothing))
}
