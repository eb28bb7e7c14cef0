//! Health: a document for operators and dashboards, liveness and readiness for orchestrators.
//!
//! `sessions/probe.rs` probes the cache and the store. `report.rs` and `ready.rs` are pure
//! functions of the results. `document.rs` has the document's types. `service.rs` serves it.

mod document;
mod ready;
mod report;
mod service;

pub use self::document::{
    BreakerHealth, CacheHealth, CacheMetrics, HealthReport, HealthStatus, JournalHealth,
    NearCacheHealth, Performance, PoolHealth, PostgresHealth, RedisHealth, StoreHealth,
};
pub use self::service::{HealthFuture, HealthService};

use crate::model::clock::Timestamp;
use crate::sessions::Sessions;

impl Sessions {
    /// Probes the cache and the store and creates the health document.
    ///
    /// It returns within a second, even if a server hangs. Concurrent callers share one probe.
    pub async fn health(&self) -> HealthReport {
        let probed = self.probe().await;
        report::report(report::ReportInput {
            now: Timestamp::now(),
            mode: self.mode(),
            breaker: self.breaker(),
            probed: &probed,
            pool: self.cache_status(),
            store_backend: self.engine.store_backend(),
            store_remarks: self.engine.store_remarks(),
            metrics: self.metrics(),
            within: self.engine.staleness_bound(),
            ttl: self.ttl(),
            errors: self.engine.recent_errors(),
        })
    }
}
