//! R11: pools, tasks and memory return to their baseline.

use std::collections::BTreeMap;

use super::{findings::Findings, format::Ms, index::Index, spans::Spans};
use crate::history::{Entry, Fault, Nanos, Resource, Sample};

/// Checks R11: pools, tasks and memory return to their baseline after every fault.
///
/// The baseline of a node's resource is the maximum sampled before the first fault. A violation is
/// a last sample, between a fault's healing and the next fault, that is above the baseline. For
/// memory, it must exceed it by more than the header's slack. Faults that overlap count as one. A
/// fault that never healed, or after which no sample follows, makes the check inconclusive.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("returns to a baseline");
    let faults = Spans::merged(index.history.faults.iter().map(Fault::longest));
    if faults.is_empty() {
        findings.doubt("there was no fault in this run");
        return findings;
    }
    let mut of: BTreeMap<(u32, Resource), Vec<&Sample>> = BTreeMap::new();
    for sample in &index.history.samples {
        of.entry((sample.node, sample.of)).or_default().push(sample);
    }
    if of.is_empty() {
        findings.doubt("there are no samples");
    }
    for ((node, resource), mut samples) in of {
        samples.sort_by_key(|sample| sample.at);
        let slack = match resource {
            Resource::Memory => index.parameters().memory_slack,
            Resource::Pools | Resource::Tasks => 0,
        };
        judge(&mut findings, &faults, node, &samples, slack);
    }
    findings
}

fn judge(findings: &mut Findings, faults: &Spans, node: u32, samples: &[&Sample], slack: u64) {
    let until = |time: Nanos| samples.partition_point(|sample| sample.at < time);
    let first_fault = faults.iter().next().map_or(0, |(at, _)| at);
    let baseline = samples[..until(first_fault)].iter().max_by_key(|sample| sample.value);
    let Some(baseline) = baseline else {
        findings.doubt(format!("node {node} has no sample before the first fault"));
        return;
    };
    let begins = faults.iter().skip(1).map(|(at, _)| at);
    for ((at, healed), next) in faults.iter().zip(begins.chain([Nanos::MAX])) {
        let last = samples[..until(next)].last();
        let Some(last) = last.filter(|sample| sample.at > healed) else {
            findings.doubt(format!("node {node} has no sample after the fault at {}", Ms(at)));
            continue;
        };
        findings.examine(last.value > baseline.value.saturating_add(slack), || {
            let (of, was, is) = (last.of, baseline.value, last.value);
            (
                format!("{of:?} of node {node}: {was} before the faults, {is} after one"),
                vec![Entry::Sample(**baseline), Entry::Sample(**last)],
            )
        });
    }
}
