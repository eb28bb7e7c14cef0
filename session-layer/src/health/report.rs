//! The derivation of the health document from a probe.

use std::time::Duration;

use super::document::{
    BreakerHealth, CacheHealth, CacheMetrics, HealthReport, HealthStatus, JournalHealth,
    NearCacheHealth, Performance, PoolHealth, PostgresHealth, RedisHealth, StoreHealth,
};
use crate::cache::{CacheProbe, CacheStatus};
use crate::engine::breaker::BreakerState;
use crate::engine::cache_mode::CacheMode;
use crate::engine::diagnostics::{Cause, MAX_ERRORS, Origin, RecentError, ReportedError};
use crate::engine::metrics::Metrics;
use crate::model::clock::Timestamp;
use crate::sessions::probe::Probed;

/// The duration of PING above which the cache is degraded. Postgres takes one or a few ms, so that
/// a slower cache costs time instead of saving it.
const SLOW_PING: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub(super) struct ReportInput<'a> {
    pub(super) now: Timestamp,
    pub(super) mode: CacheMode,
    pub(super) breaker: BreakerState,
    pub(super) probed: &'a Probed,
    pub(super) pool: CacheStatus,
    pub(super) store_backend: &'static str,
    pub(super) store_remarks: Vec<String>,
    pub(super) metrics: Metrics,
    pub(super) within: Option<Duration>,
    pub(super) ttl: Duration,
    pub(super) errors: Vec<ReportedError>,
}

/// Creates the document, without I/O and without reading a clock.
pub(super) fn report(facts: ReportInput<'_>) -> HealthReport {
    let (cache, pool, metrics) = (&facts.probed.cache, &facts.pool, &facts.metrics);
    let errors = errors(facts.probed, facts.errors);
    let works = cache.connected && [cache.ping, cache.set, cache.get].iter().all(Option::is_some);
    let slow = cache.ping.is_some_and(|ping| ping > SLOW_PING);
    let status = match (cache.connected, facts.mode) {
        (false, CacheMode::On) => HealthStatus::Unhealthy,
        (false, CacheMode::Bypass) => HealthStatus::Degraded,
        (true, _) if !works || slow || !errors.is_empty() => HealthStatus::Degraded,
        (true, CacheMode::On) if facts.breaker != BreakerState::Closed => HealthStatus::Degraded,
        (true, _) => HealthStatus::Healthy,
    };
    let redis = (pool.backend == "redis").then_some(cache);
    HealthReport {
        status,
        timestamp: whole_second(facts.now),
        redis: RedisHealth {
            connected: redis.is_some_and(|redis| redis.connected),
            version: redis.and_then(|redis| redis.version.clone()),
            uptime: redis.and_then(|redis| redis.uptime).map(|up| up.as_secs()),
            used_memory: redis.and_then(|redis| redis.used_memory.clone()),
            total_keys: redis.and_then(|redis| redis.total_keys),
            server: redis.and_then(|redis| redis.server.clone()),
        },
        session_cache: CacheHealth {
            enabled: facts.mode == CacheMode::On,
            healthy: works,
            metrics: CacheMetrics {
                hits: metrics.hits,
                misses: metrics.misses,
                errors: metrics.errors,
                total: metrics.total(),
                hit_rate: metrics.hit_rate(),
                ttl: facts.ttl.as_secs(),
            },
            pool: PoolHealth {
                size: pool.size,
                available: if cache.connected { pool.available } else { 0 },
                pending: pool.pending,
            },
            backend: pool.backend,
            rejected: pool.rejected,
        },
        performance: Performance {
            ping: cache.ping.map(millis),
            set: cache.set.map(millis),
            get: cache.get.map(millis),
        },
        errors,
        postgres: PostgresHealth {
            connected: facts.store_backend == "postgres"
                && facts.probed.store_error.is_none()
                && !facts.probed.is_paused,
        },
        session_store: StoreHealth {
            healthy: facts.probed.store_error.is_none(),
            backend: facts.store_backend,
        },
        mode: facts.mode,
        sealed: pool.sealed,
        breaker: BreakerHealth { state: facts.breaker, opened: metrics.breaker_opened },
        journal: facts.within.map(|within| JournalHealth {
            age_ms: metrics.journal_age.filter(|_| !facts.probed.is_paused).map(whole_millis),
            within_ms: whole_millis(within),
        }),
        remarks: remarks(cache, &facts.store_remarks),
        near_cache: (metrics.near_limit_bytes > 0).then_some(NearCacheHealth {
            hits: metrics.near_hits,
            entries: metrics.near_entries,
            bytes: metrics.near_bytes,
            limit_bytes: metrics.near_limit_bytes,
        }),
        paused: facts.probed.is_paused,
    }
}

fn remarks(cache: &CacheProbe, of_store: &[String]) -> Vec<String> {
    let of_cache = cache.remarks.iter().map(|remark| format!("{}: {remark}", Origin::Cache));
    let of_store = of_store.iter().map(|remark| format!("{}: {remark}", Origin::Store));
    of_cache.chain(of_store).collect()
}

fn whole_millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Lists the errors of this probe, then earlier ones. An earlier error that the probe also found is
/// not repeated, however often and in whatever words requests reported it.
fn errors(probed: &Probed, reported: Vec<ReportedError>) -> Vec<String> {
    let cache = probed.cache.errors.iter();
    let cache = cache.map(|error| format!("{}: {error}", Origin::Cache));
    let store = probed.store_error.iter();
    let store = store.map(|error| format!("{}: {error}", Origin::Store));
    let mut errors: Vec<String> = cache.chain(store).collect();
    let news = reported.into_iter().filter(|reported| !probe_found(probed, &reported.error));
    errors.extend(news.map(|recorded| recorded.to_string()));
    errors.truncate(MAX_ERRORS);
    errors
}

/// Returns whether the probe found the same error.
fn probe_found(probed: &Probed, error: &RecentError) -> bool {
    let (errors, is_away) = match error.origin {
        Origin::Cache => (probed.cache.errors.as_slice(), !probed.cache.connected),
        Origin::Store => (probed.store_error.as_slice(), true),
    };
    // The cache's errors begin with the name of the command.
    let same = |found: &String| found.ends_with(error.text.as_str());
    match error.cause {
        Cause::Named => errors.iter().any(same),
        Cause::Unreachable | Cause::Unknown => {
            errors.iter().any(same) || is_away && !errors.is_empty()
        }
    }
}

/// Truncates to whole seconds, which is precise enough for the document.
fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros() - at.as_micros().rem_euclid(1_000_000))
}

/// Converts to ms, rounded to the microsecond.
fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Rejected;
    use crate::engine::diagnostics::RecentErrors;
    use tokio::time::Instant;

    fn healthy_probe() -> Probed {
        Probed {
            cache: CacheProbe {
                connected: true,
                server: Some("redis".to_owned()),
                version: Some("7.0.15".to_owned()),
                uptime: Some(Duration::from_millis(123_456_789)),
                used_memory: Some("1.2M".to_owned()),
                total_keys: Some(42),
                ping: Some(Duration::from_micros(200)),
                set: Some(Duration::from_micros(300)),
                get: Some(Duration::from_nanos(200_400)),
                errors: Vec::new(),
                remarks: Vec::new(),
            },
            store_error: None,
            store_is_known: true,
            is_paused: false,
        }
    }

    fn facts(probed: &Probed) -> ReportInput<'_> {
        let mut pool = CacheStatus::new("redis");
        (pool.connected, pool.size, pool.available) = (true, 10, 8);
        pool.sealed = Some(true);
        pool.rejected = Rejected {
            undecodable: 1,
            unsealed: 2,
            unknown_key: 3,
            forged: 4,
            stale_incarnation: 5,
            foreign: 6,
        };
        ReportInput {
            now: "2026-11-22T12:00:00.9Z".parse().unwrap(),
            mode: CacheMode::On,
            breaker: BreakerState::Closed,
            probed,
            pool,
            store_backend: "postgres",
            store_remarks: Vec::new(),
            metrics: Metrics {
                hits: 850,
                near_hits: 600,
                near_entries: 70,
                near_bytes: 35_000,
                near_limit_bytes: 1 << 20,
                misses: 150,
                journal_age: Some(Duration::from_micros(312_400)),
                ..Metrics::default()
            },
            within: Some(Duration::from_secs(2)),
            ttl: Duration::from_secs(300),
            errors: Vec::new(),
        }
    }

    // Dashboards parse this exact document. New fields follow the old ones.
    #[test]
    fn document_has_its_documented_fields_in_order() {
        let expected = concat!(
            r#"{"status":"healthy","timestamp":"2026-11-22T12:00:00Z","#,
            r#""redis":{"connected":true,"version":"7.0.15","uptime":123456,"#,
            r#""usedMemory":"1.2M","totalKeys":42,"server":"redis"},"#,
            r#""sessionCache":{"enabled":true,"healthy":true,"#,
            r#""metrics":{"hits":850,"misses":150,"errors":0,"total":1000,"#,
            r#""hitRate":85.0,"ttl":300},"#,
            r#""pool":{"size":10,"available":8,"pending":0},"backend":"redis","#,
            r#""rejected":{"undecodable":1,"unsealed":2,"unknownKey":3,"forged":4,"#,
            r#""staleIncarnation":5,"foreign":6}},"#,
            r#""performance":{"ping":0.2,"set":0.3,"get":0.2},"errors":[],"#,
            r#""postgres":{"connected":true},"sessionStore":{"healthy":true,"#,
            r#""backend":"postgres"},"mode":"on","sealed":true,"#,
            r#""breaker":{"state":"closed","opened":0},"#,
            r#""journal":{"ageMs":312,"withinMs":2000},"remarks":[],"#,
            r#""nearCache":{"hits":600,"entries":70,"bytes":35000,"limitBytes":1048576},"paused":false}"#,
        );
        let probed = healthy_probe();
        let document = serde_json::to_string(&report(facts(&probed))).unwrap();
        assert_eq!(document, expected);
    }

    #[test]
    fn status_follows_from_the_probe() {
        type Change = fn(&mut Probed);
        let fine: Change = |_| {};
        let down: Change = |p| p.cache = CacheProbe::default();
        let slow: Change = |p| p.cache.ping = Some(Duration::from_micros(100_001));
        let not_yet_slow: Change = |p| p.cache.ping = Some(Duration::from_millis(100));
        let no_set: Change = |p| p.cache.set = None;
        let complains: Change = |p| p.cache.errors.push("OOM".to_owned());
        let remarked: Change = |p| p.cache.remarks.push("CLIENT is denied".to_owned());
        let store_down: Change = |p| p.store_error = Some("gone".to_owned());
        use HealthStatus::{Degraded, Healthy, Unhealthy};
        for (change, mode, recent, status, http) in [
            (fine, CacheMode::On, None, Healthy, 200),
            (fine, CacheMode::On, Some("a minute ago"), Degraded, 200),
            (down, CacheMode::On, None, Unhealthy, 503),
            (slow, CacheMode::On, None, Degraded, 200),
            (not_yet_slow, CacheMode::On, None, Healthy, 200),
            (no_set, CacheMode::On, None, Degraded, 200),
            (complains, CacheMode::On, None, Degraded, 200),
            (store_down, CacheMode::On, None, Degraded, 200),
            (remarked, CacheMode::On, None, Healthy, 200),
            (fine, CacheMode::Bypass, None, Healthy, 200),
            (down, CacheMode::Bypass, None, Degraded, 200),
        ] {
            let mut probed = healthy_probe();
            change(&mut probed);
            let report = report(ReportInput {
                mode,
                errors: recent
                    .map_or(Vec::new(), |text| recorded(&[(Origin::Cache, Cause::Named, text)])),
                ..facts(&probed)
            });
            let what = format!("{mode:?} {recent:?} {probed:?}");
            assert_eq!((report.status, report.http_status().as_u16()), (status, http), "{what}");
            assert_eq!(report.session_cache.enabled, mode == CacheMode::On, "{what}");
        }
    }

    #[test]
    fn connected_cache_behind_an_open_breaker_is_degraded() {
        let probed = healthy_probe();
        for (breaker, mode, status) in [
            (BreakerState::Open, CacheMode::On, HealthStatus::Degraded),
            (BreakerState::HalfOpen, CacheMode::On, HealthStatus::Degraded),
            (BreakerState::Open, CacheMode::Bypass, HealthStatus::Healthy),
        ] {
            let facts = ReportInput { mode, breaker, ..facts(&probed) };
            assert_eq!(report(facts).status, status, "{breaker:?} {mode:?}");
        }
        let open = BreakerState::HalfOpen;
        assert_eq!(serde_json::to_value(open).unwrap(), "half-open");
    }

    #[test]
    fn unknown_values_are_null() {
        let probed = Probed::default();
        let document = serde_json::to_value(report(facts(&probed))).unwrap();
        let null = serde_json::Value::Null;
        for unknown in [
            "/redis/version",
            "/redis/uptime",
            "/redis/usedMemory",
            "/redis/totalKeys",
            "/redis/server",
            "/performance/ping",
            "/performance/set",
            "/performance/get",
        ] {
            assert_eq!(document.pointer(unknown), Some(&null), "{unknown}");
        }
        assert_eq!(
            document["sessionCache"]["pool"]["available"], 0,
            "an unreachable cache has no available connections"
        );
        assert_eq!(document["sessionCache"]["pool"]["size"], 10);
    }

    #[test]
    fn embedded_pair_is_healthy_without_connected_servers() {
        let probed = healthy_probe();
        let report = report(ReportInput {
            pool: CacheStatus::new("memory"),
            store_backend: "sqlite",
            ..facts(&probed)
        });
        assert_eq!(report.status, HealthStatus::Healthy);
        assert!(!report.redis.connected && report.redis.version.is_none());
        assert!(!report.postgres.connected && report.session_store.healthy);
        assert_eq!(report.session_cache.backend, "memory");
        assert_eq!(report.sealed, None, "a cache in this process is not sealed");
    }

    /// Records these errors. The first is the newest.
    fn recorded(errors: &[(Origin, Cause, &str)]) -> Vec<ReportedError> {
        let (kept, now) = (RecentErrors::default(), Instant::now());
        for (origin, cause, text) in errors.iter().rev() {
            kept.record(None, now, *origin, *cause, (*text).to_owned());
        }
        kept.report(now)
    }

    #[test]
    fn errors_of_this_probe_come_first_without_repetition() {
        let mut probed = healthy_probe();
        probed.cache.errors = vec!["SET: now".to_owned()];
        probed.store_error = Some("refused".to_owned());
        let report = report(ReportInput {
            errors: recorded(&[
                (Origin::Cache, Cause::Named, "now"),
                (Origin::Store, Cause::Unreachable, "lost"),
                (Origin::Cache, Cause::Unreachable, "late"),
                (Origin::Store, Cause::Named, "locked"),
            ]),
            ..facts(&probed)
        });
        let expected = [
            "session cache: SET: now",
            "session store: refused",
            // The cache is connected. This was another error.
            "session cache: late (0 s ago)",
            "session store: locked (0 s ago)",
        ];
        assert_eq!(report.errors, expected);
    }

    #[test]
    fn unreachable_cache_is_reported_once_by_the_probe() {
        let mut probed = Probed::default();
        probed.cache.errors = vec!["refused".to_owned()];
        let report = report(ReportInput {
            errors: recorded(&[(Origin::Cache, Cause::Unreachable, "late")]),
            ..facts(&probed)
        });
        assert_eq!(report.errors, ["session cache: refused"]);
    }

    #[test]
    fn report_has_at_most_ten_errors() {
        let mut probed = healthy_probe();
        probed.cache.errors = vec!["now".to_owned()];
        let texts: Vec<String> = (0..20).map(|n| format!("before {n}")).collect();
        let before: Vec<_> =
            texts.iter().map(|text| (Origin::Store, Cause::Named, text.as_str())).collect();
        let report = report(ReportInput { errors: recorded(&before), ..facts(&probed) });
        assert_eq!(report.errors.len(), 10);
        assert_eq!(report.errors[1], "session store: before 0 (0 s ago)");
    }
}
