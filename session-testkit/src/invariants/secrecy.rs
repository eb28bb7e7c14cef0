//! R12: raw tokens are nowhere.

use super::{findings::Findings, index::Index};
use crate::history::{Entry, Place};

/// R12. *Raw tokens are nowhere: logs, metrics, Postgres, Redis, its dump files.*
///
/// Broken by a search that found one. A place where nothing was looked through makes it inconclusive.
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
        let looked = |place| {
            let mut searches = index.history.searches.iter();
            searches.any(|search| search.place == place && search.bytes > 0)
        };
        if !looked(place) {
            findings.doubt(format!("{place:?} was not searched"));
        }
    }
    findings
}
