//! R5: Valid returns the token's user and data, and no old data after an update.

use std::{collections::HashMap, time::Duration};

use super::{
    bounds::{Bound, Bounds},
    findings::Findings,
    format::Named,
    index::{Index, Session, Validation, may_have_effect, proof},
};
use crate::{
    history::{Nanos, Op, Operation},
    subject::Seen,
};

/// Checks R5: Valid returns exactly that token's user and data. After `update`, R1 and R1Δ hold for
/// the new data.
///
/// A violation is a Valid with one of these:
///
/// - another user,
/// - data whose write had not begun by the result, such as the data of a refused update,
/// - data that an update had replaced, if the update began after the write returned and its
///   bound had passed when the validate began.
///
/// Writes that overlap may have committed in either order.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("Valid results");
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
                Some((format!("returned user {user} instead of {}", session.user), None))
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

struct Writes<'a> {
    /// The writes of each data, rarely more than one.
    by: HashMap<&'a str, Vec<&'a Operation>>,
    updates: Bounds<'a>,
}

impl<'a> Writes<'a> {
    fn of(session: &Session<'a>) -> Self {
        let mut by: HashMap<&str, Vec<&Operation>> = HashMap::new();
        by.entry(session.data).or_default().push(session.create);
        let mut updates = Vec::new();
        for &each in &session.changes {
            let Op::Update { data, .. } = &each.op else {
                continue;
            };
            if may_have_effect(each) {
                by.entry(data).or_default().push(each);
            }
            updates.extend(Bound::of(each, Duration::ZERO));
        }
        Self { by, updates: Bounds::new(updates) }
    }

    /// Returns the violation in this data, if there is any, and the update that proves it.
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
            // A write without a result may have committed after any other.
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
            Some(by) => (format!("returned the data `{data}`, which had been replaced"), Some(by)),
            None => (format!("returned the data `{data}`, which was never written"), None),
        })
    }
}
