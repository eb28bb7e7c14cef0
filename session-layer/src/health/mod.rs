//! Health: a document for people and dashboards, liveness and readiness for orchestrators.
//!
//! `probe.rs`, below, asks; [`report`] and [`ready`] decide from what was found, and do nothing else;
//! [`document`] is what is told, and [`service`] tells it.

mod document;
mod ready;
mod report;
mod service;

pub use self::document::{
    BreakerHealth, CacheHealth, CacheMetrics, HealthReport, HealthStatus, JournalHealth,
    Performance, PoolHealth, PostgresHealth, RedisHealth, StoreHealth,
};
pub use self::service::{HealthFuture, HealthService};

use crate::clock::Timestamp;
use crate::sessions::Sessions;

impl Sessions {
    /// Really asks cache and store how they are, and puts the health document together.
    ///
    /// The answer is there within a second, also where one of them hangs. Callers at the same time share
    /// one probe.
    pub async fn health(&self) -> HealthReport {
        let probed = self.probe().await;
        report::report(report::Facts {
            now: Timestamp::now(),
            mode: self.mode(),
            breaker: self.breaker(),
            probed: &probed,
            pool: self.cache_status(),
            store_backend: self.store_backend(),
            metrics: self.metrics(),
            within: self.within(),
            ttl: self.ttl(),
            troubles: self.troubles(),
        })
    }
}
