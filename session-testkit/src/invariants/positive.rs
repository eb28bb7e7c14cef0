//! R7: an outage is never taken for Invalid.

use super::{
    findings::Findings,
    index::{Index, proof},
};
use crate::{
    history::{Change, Op, Operation},
    subject::Seen,
};

/// R7. *Invalid only on a positive answer; every error is Unavailable.*
///
/// Only Postgres can say no, and nothing negative is cached. So it is broken by an Invalid (or by a change
/// answered `Nothing`) whose node could not get a positive answer from Postgres at any time between call
/// and answer: a fault with `no_postgres` was in force for certain all the while. Whether the token was in
/// fact alive does not matter; an Invalid about one that was is R3's business as well.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("answers given while Postgres could not be asked");
    for operation in &index.history.operations {
        let Some(denies) = denies(operation) else {
            continue;
        };
        if !index.surely_cut(operation) {
            continue;
        }
        findings.examined += 1;
        if denies {
            findings.broken(|| {
                let mut entries = proof([operation]);
                let felt = index.history.faults.iter().find(|fault| {
                    let (from, to) = fault.certain();
                    fault.no_postgres
                        && fault.is_felt_by(operation.node)
                        && from <= operation.end()
                        && operation.call <= to
                });
                entries.extend(felt.cloned().map(crate::history::Entry::Fault));
                (
                    "nobody could say, and yet it was denied".to_owned(),
                    entries,
                )
            });
        }
    }
    findings
}

/// Does its answer deny that there is such a session? `None` where there is no answer.
fn denies(operation: &Operation) -> Option<bool> {
    match &operation.op {
        Op::Validate { answer, .. } | Op::ValidateRandom { answer } => {
            answer.as_ref().map(|seen| *seen == Seen::Invalid)
        }
        Op::Update { answer, .. }
        | Op::Revoke { answer, .. }
        | Op::RevokeAll { answer, .. }
        | Op::Rotate { answer, .. } => answer.as_ref().map(|answer| *answer == Change::Nothing),
        Op::Create { .. } => None,
    }
}
