//! R5: Valid gives that token's user and data, and no old data after an update.

use std::collections::HashMap;

use super::{
    bounds::{Bound, Bounds},
    findings::Findings,
    index::{Index, Kind, Session, Validation, proof},
    words::Named,
};
use crate::{
    history::{Nanos, Operation},
    subject::Seen,
};

/// R5. *Valid gives exactly that token's user and data (the same); after `update`, as R1 and R1Δ for the
/// new data.*
///
/// Broken by a Valid with another user; with data that nobody had begun to write by its answer (what a
/// refused update would have written is such data); or with data that an update had replaced which began
/// after that data's own write was answered, and whose own bound had passed when the validate began.
/// Writes that overlap may have come in either order.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("Valid answers");
    for session in &index.sessions {
        let writes = Writes::of(session);
        for validation in &session.validations {
            let Some(Seen::Valid { user, data }) = validation.seen else {
                continue;
            };
            findings.examined += 1;
            let broken = if user == session.user {
                writes.wrong(index, validation, data)
            } else {
                Some((
                    format!("gave user {user} instead of {}", session.user),
                    None,
                ))
            };
            if let Some((what, by)) = broken {
                findings.broken(|| {
                    let name = Named(session.number, validation.token);
                    let operations = [Some(session.create), by, Some(validation.op)];
                    (
                        format!("a validate of {name} {what}"),
                        proof(operations.into_iter().flatten()),
                    )
                });
            }
        }
    }
    findings
}

/// Who wrote what into one session.
struct Writes<'a> {
    /// By data; hardly ever more than one each.
    by: HashMap<&'a str, Vec<&'a Operation>>,
    updates: Bounds<'a>,
}

impl<'a> Writes<'a> {
    fn of(session: &Session<'a>) -> Self {
        let mut by: HashMap<&str, Vec<&Operation>> = HashMap::new();
        by.entry(session.data).or_default().push(session.create);
        let mut updates = Vec::new();
        for each in &session.changes {
            let Kind::Update { data } = each.kind else {
                continue;
            };
            if each.may_have_effect() {
                by.entry(data).or_default().push(each.op);
            }
            updates.extend(Bound::of(each.op, each.answer, std::time::Duration::ZERO));
        }
        Self {
            by,
            updates: Bounds::new(updates),
        }
    }

    /// What is wrong with this data in this answer, and the update that proves it.
    fn wrong(
        &self,
        index: &Index<'_>,
        validation: &Validation<'_>,
        data: &str,
    ) -> Option<(String, Option<&'a Operation>)> {
        let written = self.by.get(data).map_or(&[][..], Vec::as_slice);
        let mut replaced = None;
        for write in written {
            if write.call > validation.op.end() {
                continue;
            }
            // One that has no answer may have come after any other.
            let after = write.end();
            if after == Nanos::MAX {
                return None;
            }
            match self.updates.binding(index, Some(after), validation.op) {
                Some(bound) => replaced = Some(bound.by),
                None => return None,
            }
        }
        Some(match replaced {
            Some(by) => (
                format!("gave the data `{data}`, which had been replaced"),
                Some(by),
            ),
            None => (format!("gave the data `{data}`, which nobody wrote"), None),
        })
    }
}
