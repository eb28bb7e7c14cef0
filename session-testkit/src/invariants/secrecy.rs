//! R12: no raw token is stored or logged.

use super::{findings::Findings, index::Index};
use crate::history::{Entry, Place};

/// Checks R12: raw tokens are in no log, metric, Postgres row, Redis value or Redis dump.
///
/// A violation is a search that found one. A place that was not searched makes the check
/// inconclusive.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("searches for raw tokens");
    for search in &index.history.searches {
        findings.examined += 1;
        for session in &search.found {
            findings.broken(|| {
                let place = search.place;
                (
                    format!("the raw token of session {session} is in {place:?}"),
                    vec![Entry::Search(search.clone())],
                )
            });
        }
    }
    for place in Place::ALL {
        let mut searches = index.history.searches.iter();
        if !searches.any(|search| search.place == place && search.bytes > 0) {
            findings.doubt(format!("{place:?} was not searched"));
        }
    }
    findings
}
