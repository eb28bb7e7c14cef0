//! What the health document shows: PING, SET and GET, really made, and what the server says of itself.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisResult};
use tokio::time::{Instant, timeout};

use super::errors::{classify, timed_out};
use super::identity::field;
use super::{RedisCache, codec, new_nonce};
use crate::cache::CacheProbe;
use crate::error::CacheError;

/// How long each step may take: far more than a request would wait, so as to tell slow from dead.
const PATIENCE: Duration = Duration::from_millis(500);
/// The probe's own key goes by itself, should its UNLINK be lost.
const KEY_LIFE_MS: u64 = 5_000;

pub(super) async fn probe(cache: &RedisCache) -> CacheProbe {
    let mut found = CacheProbe::default();
    let link = match timeout(PATIENCE, cache.links.any()).await {
        Ok(Ok(link)) => link,
        Ok(Err(error)) => return failed(found, &error),
        Err(_elapsed) => return failed(found, &timed_out()),
    };
    let mut step = Steps {
        connection: link.0.connection(),
        errors: Vec::new(),
    };
    found.ping = step
        .take::<String>("PING", redis::cmd("PING"))
        .await
        .map(|(_, took)| took);
    found.connected = found.ping.is_some();
    // A server that let PING pass will let the rest pass too: three more waits would tell nothing.
    if found.connected {
        let key = format!("{}:{}:probe:{}", cache.namespace, codec::FORMAT, unique());
        let mut set = redis::cmd("SET");
        set.arg(&key).arg("probe").arg("PX").arg(KEY_LIFE_MS);
        found.set = step.take::<String>("SET", set).await.map(|(_, took)| took);
        let mut get = redis::cmd("GET");
        get.arg(&key);
        let got = step.take::<Option<String>>("GET", get).await;
        found.get = got.as_ref().map(|(_, took)| *took);
        if found.set.is_some() && got.is_some_and(|(value, _)| value.as_deref() != Some("probe")) {
            step.errors.push(
                "GET did not return what SET had stored: Redis evicts at once, or lies".to_owned(),
            );
        }
        let mut unlink = redis::cmd("UNLINK");
        unlink.arg(&key);
        let _ = step.take::<i64>("UNLINK", unlink).await;
        if let Some((info, _)) = step.take::<String>("INFO", redis::cmd("INFO")).await {
            found.version = field(&info, "redis_version").map(str::to_owned);
            found.uptime = field(&info, "uptime_in_seconds")
                .and_then(|secs| secs.parse().ok())
                .map(Duration::from_secs);
            found.used_memory = field(&info, "used_memory_human").map(str::to_owned);
        }
        found.total_keys = step
            .take::<u64>("DBSIZE", redis::cmd("DBSIZE"))
            .await
            .map(|(n, _)| n);
    }
    found.errors.append(&mut step.errors);
    found
}

fn failed(mut found: CacheProbe, error: &CacheError) -> CacheProbe {
    found.errors.push(error.to_string());
    found
}

/// One command after the other on one connection.
struct Steps {
    connection: MultiplexedConnection,
    errors: Vec<String>,
}

impl Steps {
    /// The reply and how long it took.
    async fn take<T: FromRedisValue>(
        &mut self,
        name: &str,
        command: redis::Cmd,
    ) -> Option<(T, Duration)> {
        let asked = Instant::now();
        let answer: Result<RedisResult<T>, _> =
            timeout(PATIENCE, command.query_async(&mut self.connection)).await;
        let error = match answer {
            Ok(Ok(value)) => return Some((value, asked.elapsed())),
            Ok(Err(error)) => classify(error),
            Err(_elapsed) => timed_out(),
        };
        self.errors.push(format!("{name}: {error}"));
        None
    }
}

/// Keeps two probes at once off each other's key.
fn unique() -> String {
    new_nonce().map_or_else(
        |_| "0".to_owned(),
        |nonce| nonce.iter().map(|b| format!("{b:02x}")).collect(),
    )
}
