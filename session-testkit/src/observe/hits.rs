//! The hit counters over time, which show when validations are served from the cache again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    history::Nanos,
    subject::{SessionLayerSubject, Subject as _},
    workload::Clock,
};

const INTERVAL: Duration = Duration::from_millis(10);

/// A sample: the time, and the number of hits that each node has counted.
pub type HitCounts = (Nanos, Vec<u64>);

/// The samples of the nodes' hit counters, 100 per second.
#[derive(Debug, Clone, Default)]
pub struct Hits(Arc<Mutex<Vec<HitCounts>>>);

impl Hits {
    /// Returns all samples.
    #[must_use]
    pub fn looks(&self) -> Vec<HitCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Samples the nodes' counters until dropped.
pub async fn watch_hits(subject: SessionLayerSubject, clock: Clock, hits: Hits) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let counts = (0..subject.nodes())
            .map(|node| subject.node(node).map_or(0, |node| node.metrics().hits))
            .collect();
        let mut looks = hits.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.push((clock.now(), counts));
    }
}
