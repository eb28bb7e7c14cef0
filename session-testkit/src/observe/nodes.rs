//! The nodes' own counters over time: R10, the reads of Postgres in flight, the hits, which show
//! when validations are served from the cache again, and the work around each fault.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    history::{Around, Entry, Fault, InFlight, Nanos},
    subject::{SessionLayerSubject, Subject as _},
    workload::Recorder,
};

const INTERVAL: Duration = Duration::from_millis(10);
/// The number of samples of hits for one sample of the reads in flight.
const HITS_PER_READS: u32 = 10;

/// A sample: the time, and the number of hits that each node has counted.
pub type HitCounts = (Nanos, Vec<u64>);

/// A sample: the time, and what each node has counted since its start.
type Counts = (Nanos, Vec<Around>);

/// The samples of the nodes' counters, 100 per second.
#[derive(Debug, Clone, Default)]
pub struct Hits(Arc<Mutex<Vec<Counts>>>);

impl Hits {
    /// Returns all samples of the hits.
    pub fn samples(&self) -> Vec<HitCounts> {
        let of = |nodes: &Vec<Around>| nodes.iter().map(|node| node.hits).collect();
        self.lock().iter().map(|(at, nodes)| (*at, of(nodes))).collect()
    }

    /// Returns what the affected nodes have counted around the beginning of this fault.
    pub fn around(&self, fault: &Fault) -> Around {
        around(&self.lock(), fault)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Counts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn around(samples: &[Counts], fault: &Fault) -> Around {
    let from = fault.at.saturating_sub(Around::BEFORE);
    let to = fault.at.saturating_add(Around::AFTER);
    let before = samples.iter().rfind(|(at, _)| *at <= from).or(samples.first());
    let after = samples.iter().find(|(at, _)| *at >= to).or(samples.last());
    let mut sum = Around::default();
    let (Some((_, before)), Some((_, after))) = (before, after) else { return sum };
    let nodes = before.iter().zip(after).zip(0_u32..);
    for ((before, after), _) in nodes.filter(|(_, node)| fault.affects(*node)) {
        // A node that restarts counts from 0.
        let more = |of: fn(&Around) -> u64| of(after).saturating_sub(of(before));
        sum.hits += more(|it| it.hits);
        sum.near_hits += more(|it| it.near_hits);
        sum.misses += more(|it| it.misses);
        sum.fills += more(|it| it.fills);
        sum.touches += more(|it| it.touches);
        sum.journal_reads += more(|it| it.journal_reads);
    }
    sum
}

/// Samples the nodes' hits, and records their gauge of reads 10 times per second, until dropped.
/// The gauge is each node's peak of concurrent reads so far, and therefore misses nothing between
/// two samples.
pub async fn watch_nodes(subject: SessionLayerSubject, recorder: Recorder, hits: Hits) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for tick in (0..HITS_PER_READS).cycle() {
        ticks.tick().await;
        let at = recorder.clock().now();
        let mut counts = Vec::new();
        for node in 0..subject.nodes() {
            let metrics = subject.node(node).map(|sessions| sessions.metrics());
            counts.push(metrics.as_ref().map_or_else(Around::default, |metrics| Around {
                hits: metrics.hits - metrics.near_hits,
                near_hits: metrics.near_hits,
                misses: metrics.misses,
                fills: metrics.fills + metrics.fills_refused,
                touches: metrics.touches,
                journal_reads: metrics.journal_reads,
            }));
            if let (0, Some(metrics)) = (tick, metrics) {
                let reads = metrics.peak_reads_in_flight;
                recorder.record(Entry::InFlight(InFlight { at, node, reads }));
            }
        }
        hits.lock().push((at, counts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_from_shortly_before_a_fault_on_the_nodes_that_it_affects() {
        let count = |hits| Around { hits, ..Around::default() };
        let samples: Vec<_> = [(0, 0), (490, 5), (510, 6), (1_490, 30), (1_510, 31), (2_000, 99)]
            .map(|(ms, hits)| (ms * 1_000_000, vec![count(hits), count(2 * hits)]))
            .into();
        let mut fault = Fault::new("a", 1_000_000_000);
        assert_eq!(around(&samples, &fault).hits, 26 + 52);
        fault.nodes = Some(vec![1]);
        assert_eq!(around(&samples, &fault).hits, 52);
        assert_eq!(around(&[], &fault), Around::default());
    }
}
