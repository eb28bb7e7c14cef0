//! R10: reads of Postgres in flight stay within the bulkhead.

use super::{findings::Findings, index::Index};
use crate::history::Entry;

/// R10. *Postgres reads in flight never exceed the bulkhead.*
///
/// Broken by a sample with more of them on one node. Samples of no read at all prove nothing and do not
/// count.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("samples of reads in flight");
    let Some(bulkhead) = index.parameters().bulkhead else {
        findings.doubt("the header names no bulkhead");
        return findings;
    };
    for sample in index.history.in_flight.iter().filter(|each| each.reads > 0) {
        findings.examined += 1;
        if sample.reads > bulkhead {
            findings.broken(|| {
                let (node, reads) = (sample.node, sample.reads);
                (
                    format!("node {node} had {reads} reads in flight; its bulkhead is {bulkhead}"),
                    vec![Entry::InFlight(*sample)],
                )
            });
        }
    }
    findings
}
