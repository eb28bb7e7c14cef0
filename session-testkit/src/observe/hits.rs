//! When answers come from the cache again.

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

const EVERY: Duration = Duration::from_millis(10);

/// A look: when, and how many hits each node had counted.
pub type HitCounts = (Nanos, Vec<u64>);

/// How many hits each node has counted, 100 times in each second.
#[derive(Debug, Clone, Default)]
pub struct Hits(Arc<Mutex<Vec<HitCounts>>>);

impl Hits {
    /// Every look.
    #[must_use]
    pub fn looks(&self) -> Vec<HitCounts> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.clone()
    }
}

/// Looks at the nodes' counters until dropped.
pub async fn watch_hits(subject: SessionLayerSubject, clock: Clock, hits: Hits) {
    let mut ticks = interval(EVERY);
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
