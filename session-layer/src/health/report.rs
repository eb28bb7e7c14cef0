//! How the health document follows from the facts.

use std::time::Duration;

use super::document::{
    BreakerHealth, CacheHealth, CacheMetrics, HealthReport, HealthStatus, JournalHealth,
    Performance, PoolHealth, PostgresHealth, RedisHealth, StoreHealth,
};
use crate::breaker::BreakerState;
use crate::cache::{CacheProbe, CacheStatus};
use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::probe::Probed;
use crate::sessions::Mode;
use crate::troubles::{Cause, Of, Told, Trouble};

/// A PING that takes longer than this makes the cache degraded. Beside Postgres (a millisecond or a
/// few) such a cache costs time instead of saving it.
const SLOW_PING: Duration = Duration::from_millis(100);
/// How many errors are told.
const MOST_ERRORS: usize = 10;

/// What the document is made of.
#[derive(Debug, Clone)]
pub(super) struct Facts<'a> {
    pub(super) now: Timestamp,
    pub(super) mode: Mode,
    pub(super) breaker: BreakerState,
    pub(super) probed: &'a Probed,
    pub(super) pool: CacheStatus,
    pub(super) store_backend: &'static str,
    pub(super) metrics: Metrics,
    /// D, where a journal is read.
    pub(super) within: Option<Duration>,
    pub(super) ttl: Duration,
    pub(super) troubles: Vec<Told>,
}

/// Decides. No I/O, no clock.
pub(super) fn report(facts: Facts<'_>) -> HealthReport {
    let (cache, pool, metrics) = (&facts.probed.cache, &facts.pool, &facts.metrics);
    let errors = errors(facts.probed, facts.troubles);
    let works = cache.connected
        && [cache.ping, cache.set, cache.get]
            .iter()
            .all(Option::is_some);
    let slow = cache.ping.is_some_and(|ping| ping > SLOW_PING);
    let status = match (cache.connected, facts.mode) {
        (false, Mode::On) => HealthStatus::Unhealthy,
        (false, Mode::Bypass) => HealthStatus::Degraded,
        (true, _) if !works || slow || !errors.is_empty() => HealthStatus::Degraded,
        (true, Mode::On) if facts.breaker != BreakerState::Closed => HealthStatus::Degraded,
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
        },
        session_cache: CacheHealth {
            enabled: facts.mode == Mode::On,
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
            connected: facts.store_backend == "postgres" && facts.probed.store_error.is_none(),
        },
        session_store: StoreHealth {
            healthy: facts.probed.store_error.is_none(),
            backend: facts.store_backend,
        },
        mode: facts.mode,
        sealed: pool.sealed,
        breaker: BreakerHealth {
            state: facts.breaker,
            opened: metrics.breaker_opened,
        },
        journal: facts.within.map(|within| JournalHealth {
            age_ms: metrics.journal_age.map(whole_millis),
            within_ms: whole_millis(within),
        }),
        remarks: remarks(cache),
    }
}

fn remarks(cache: &CacheProbe) -> Vec<String> {
    let remarks = cache.remarks.iter();
    remarks
        .map(|remark| format!("session cache: {remark}"))
        .collect()
}

fn whole_millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// This probe's, then what happened before it. What the probe met as well is not told twice, however
/// often requests met it and in whatever words.
fn errors(probed: &Probed, troubles: Vec<Told>) -> Vec<String> {
    let cache = probed.cache.errors.iter();
    let cache = cache.map(|error| format!("{}: {error}", Of::Cache));
    let store = probed.store_error.iter();
    let store = store.map(|error| format!("{}: {error}", Of::Store));
    let mut errors: Vec<String> = cache.chain(store).collect();
    let news = troubles
        .into_iter()
        .filter(|told| !met(probed, &told.trouble));
    errors.extend(news.map(|told| told.to_string()));
    errors.truncate(MOST_ERRORS);
    errors
}

/// Has the probe met this as well?
fn met(probed: &Probed, trouble: &Trouble) -> bool {
    let (errors, is_away) = match trouble.of {
        Of::Cache => (probed.cache.errors.as_slice(), !probed.cache.connected),
        Of::Store => (probed.store_error.as_slice(), true),
    };
    // The cache's say which command it was, in front.
    let same = |error: &String| error.ends_with(trouble.text.as_str());
    match trouble.cause {
        Cause::Own => errors.iter().any(same),
        Cause::Away | Cause::Unsaid => errors.iter().any(same) || is_away && !errors.is_empty(),
    }
}

/// Finer is more than a reader wants.
fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros() - at.as_micros().rem_euclid(1_000_000))
}

/// In ms, to the microsecond.
fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Rejected;
    use crate::troubles::Troubles;
    use tokio::time::Instant;

    fn healthy_probe() -> Probed {
        Probed {
            cache: CacheProbe {
                connected: true,
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
        }
    }

    fn facts(probed: &Probed) -> Facts<'_> {
        let mut pool = CacheStatus::new("redis");
        (pool.connected, pool.size, pool.available) = (true, 10, 8);
        pool.sealed = Some(true);
        pool.rejected = Rejected {
            undecodable: 1,
            unsealed: 2,
            unknown_key: 3,
            forged: 4,
            outlived: 5,
            foreign: 6,
        };
        Facts {
            now: "2026-11-22T12:00:00.9Z".parse().unwrap(),
            mode: Mode::On,
            breaker: BreakerState::Closed,
            probed,
            pool,
            store_backend: "postgres",
            metrics: Metrics {
                hits: 850,
                misses: 150,
                journal_age: Some(Duration::from_micros(312_400)),
                ..Metrics::default()
            },
            within: Some(Duration::from_secs(2)),
            ttl: Duration::from_secs(300),
            troubles: Vec::new(),
        }
    }

    /// To the letter: dashboards read it. New fields go behind the old ones.
    #[test]
    fn the_document() {
        let expected = concat!(
            r#"{"status":"healthy","timestamp":"2026-11-22T12:00:00Z","#,
            r#""redis":{"connected":true,"version":"7.0.15","uptime":123456,"usedMemory":"1.2M","totalKeys":42},"#,
            r#""sessionCache":{"enabled":true,"healthy":true,"#,
            r#""metrics":{"hits":850,"misses":150,"errors":0,"total":1000,"hitRate":85.0,"ttl":300},"#,
            r#""pool":{"size":10,"available":8,"pending":0},"backend":"redis","#,
            r#""rejected":{"undecodable":1,"unsealed":2,"unknownKey":3,"forged":4,"outlived":5,"foreign":6}},"#,
            r#""performance":{"ping":0.2,"set":0.3,"get":0.2},"errors":[],"#,
            r#""postgres":{"connected":true},"sessionStore":{"healthy":true,"backend":"postgres"},"mode":"on","sealed":true,"#,
            r#""breaker":{"state":"closed","opened":0},"journal":{"ageMs":312,"withinMs":2000},"remarks":[]}"#,
        );
        let probed = healthy_probe();
        let document = serde_json::to_string(&report(facts(&probed))).unwrap();
        assert_eq!(document, expected);
    }

    #[test]
    fn status() {
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
            (fine, Mode::On, None, Healthy, 200),
            (fine, Mode::On, Some("a minute ago"), Degraded, 200),
            (down, Mode::On, None, Unhealthy, 503),
            (slow, Mode::On, None, Degraded, 200),
            (not_yet_slow, Mode::On, None, Healthy, 200),
            (no_set, Mode::On, None, Degraded, 200),
            (complains, Mode::On, None, Degraded, 200),
            (store_down, Mode::On, None, Degraded, 200),
            (remarked, Mode::On, None, Healthy, 200),
            (fine, Mode::Bypass, None, Healthy, 200),
            (down, Mode::Bypass, None, Degraded, 200),
        ] {
            let mut probed = healthy_probe();
            change(&mut probed);
            let report = report(Facts {
                mode,
                troubles: recent.map_or(Vec::new(), |text| told(&[(Of::Cache, Cause::Own, text)])),
                ..facts(&probed)
            });
            let what = format!("{mode:?} {recent:?} {probed:?}");
            assert_eq!(
                (report.status(), report.http_status().as_u16()),
                (status, http),
                "{what}"
            );
            assert_eq!(report.session_cache.enabled, mode == Mode::On, "{what}");
        }
    }

    #[test]
    fn a_cache_that_answers_and_is_not_asked_is_degraded() {
        let probed = healthy_probe();
        for (breaker, mode, status) in [
            (BreakerState::Open, Mode::On, HealthStatus::Degraded),
            (BreakerState::HalfOpen, Mode::On, HealthStatus::Degraded),
            (BreakerState::Open, Mode::Bypass, HealthStatus::Healthy),
        ] {
            let facts = Facts {
                mode,
                breaker,
                ..facts(&probed)
            };
            assert_eq!(report(facts).status(), status, "{breaker:?} {mode:?}");
        }
        let open = BreakerState::HalfOpen;
        assert_eq!(serde_json::to_value(open).unwrap(), "half-open");
    }

    #[test]
    fn what_is_unknown_is_null() {
        let probed = Probed::default();
        let document = serde_json::to_value(report(facts(&probed))).unwrap();
        let null = serde_json::Value::Null;
        for unknown in [
            "/redis/version",
            "/redis/uptime",
            "/redis/usedMemory",
            "/redis/totalKeys",
            "/performance/ping",
            "/performance/set",
            "/performance/get",
        ] {
            assert_eq!(document.pointer(unknown), Some(&null), "{unknown}");
        }
        assert_eq!(
            document["sessionCache"]["pool"]["available"], 0,
            "nothing is available"
        );
        assert_eq!(document["sessionCache"]["pool"]["size"], 10);
    }

    #[test]
    fn of_the_embedded_pair_neither_server_is_connected_and_all_is_well() {
        let probed = healthy_probe();
        let report = report(Facts {
            pool: CacheStatus::new("memory"),
            store_backend: "sqlite",
            ..facts(&probed)
        });
        assert_eq!(report.status(), HealthStatus::Healthy);
        assert!(!report.redis.connected && report.redis.version.is_none());
        assert!(!report.postgres.connected && report.session_store.healthy);
        assert_eq!(report.session_cache.backend, "memory");
        assert_eq!(report.sealed, None, "there is nothing to seal");
    }

    /// The first is the newest.
    fn told(troubles: &[(Of, Cause, &str)]) -> Vec<Told> {
        let (kept, now) = (Troubles::default(), Instant::now());
        for (of, cause, text) in troubles.iter().rev() {
            kept.note(now, *of, *cause, (*text).to_owned());
        }
        kept.recent(now)
    }

    #[test]
    fn this_probes_errors_come_first_and_each_once() {
        let mut probed = healthy_probe();
        probed.cache.errors = vec!["SET: now".to_owned()];
        probed.store_error = Some("refused".to_owned());
        let report = report(Facts {
            troubles: told(&[
                (Of::Cache, Cause::Own, "now"),
                (Of::Store, Cause::Away, "lost"),
                (Of::Cache, Cause::Away, "late"),
                (Of::Store, Cause::Own, "locked"),
            ]),
            ..facts(&probed)
        });
        let expected = [
            "session cache: SET: now",
            "session store: refused",
            // It is connected: that was something else.
            "session cache: late (0 s ago)",
            "session store: locked (0 s ago)",
        ];
        assert_eq!(report.errors, expected);
    }

    #[test]
    fn a_cache_that_is_away_is_told_once_in_the_probes_words() {
        let mut probed = Probed::default();
        probed.cache.errors = vec!["refused".to_owned()];
        let report = report(Facts {
            troubles: told(&[(Of::Cache, Cause::Away, "late")]),
            ..facts(&probed)
        });
        assert_eq!(report.errors, ["session cache: refused"]);
    }

    #[test]
    fn ten_errors_are_told_at_most() {
        let mut probed = healthy_probe();
        probed.cache.errors = vec!["now".to_owned()];
        let texts: Vec<String> = (0..20).map(|n| format!("before {n}")).collect();
        let before: Vec<_> = texts
            .iter()
            .map(|text| (Of::Store, Cause::Own, text.as_str()))
            .collect();
        let report = report(Facts {
            troubles: told(&before),
            ..facts(&probed)
        });
        assert_eq!(report.errors.len(), 10);
        assert_eq!(report.errors[1], "session store: before 0 (0 s ago)");
    }
}
