//! R10: reads of Postgres in flight stay within the bulkhead.

use super::{findings::Findings, index::Index};
use crate::history::Entry;

/// Checks R10: Postgres reads in flight never exceed the bulkhead.
///
/// A violation is a sample with more reads on one node. Samples without any read prove nothing and
/// do not count.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("samples of reads in flight");
    let Some(bulkhead) = index.parameters().bulkhead else {
        findings.doubt("the header states no bulkhead");
        return findings;
    };
    for sample in index.history.in_flight.iter().filter(|each| each.reads > 0) {
        findings.examine(sample.reads > bulkhead, || {
            let (node, reads) = (sample.node, sample.reads);
            (
                format!(
                    "node {node} had {reads} reads in flight, above its bulkhead of {bulkhead}"
                ),
                vec![Entry::InFlight(*sample)],
            )
        });
    }
    findings
}
