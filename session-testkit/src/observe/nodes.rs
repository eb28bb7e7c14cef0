//! The nodes' own counters over time: R10, the reads of Postgres in flight, and the hits, which
//! show when validations are served from the cache again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    history::{Entry, InFlight, Nanos},
    subject::{SessionLayerSubject, Subject as _},
    workload::Recorder,
};

const INTERVAL: Duration = Duration::from_millis(10);
/// The number of samples of hits for one sample of the reads in flight.
const HITS_PER_READS: u32 = 10;

/// A sample: the time, and the number of hits that each node has counted.
pub type HitCounts = (Nanos, Vec<u64>);

/// The samples of the nodes' hit counters, 100 per second.
#[derive(Debug, Clone, Default)]
pub struct Hits(Arc<Mutex<Vec<HitCounts>>>);

impl Hits {
    /// Returns all samples.
    pub fn samples(&self) -> Vec<HitCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
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
            counts.push(metrics.as_ref().map_or(0, |metrics| metrics.hits - metrics.near_hits));
            if let (0, Some(metrics)) = (tick, metrics) {
                let reads = metrics.peak_reads_in_flight;
                recorder.record(Entry::InFlight(InFlight { at, node, reads }));
            }
        }
        hits.0.lock().unwrap_or_else(PoisonError::into_inner).push((at, counts));
    }
}
