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
    let connection = link.0.connection();
    match take::<String>(&connection, "PING", redis::cmd("PING")).await {
        Ok((_, took)) => found.ping = Some(took),
        // A server that let PING pass will let the rest pass too: five more waits would tell nothing.
        Err(error) => {
            found.errors.push(error);
            return found;
        }
    }
    found.connected = true;
    let key = format!("{}:{}:probe:{}", cache.namespace, codec::FORMAT, unique());
    let mut set = redis::cmd("SET");
    set.arg(&key).arg("probe").arg("PX").arg(KEY_LIFE_MS);
    let (mut get, mut unlink) = (redis::cmd("GET"), redis::cmd("UNLINK"));
    get.arg(&key);
    unlink.arg(&key);
    // Sent in this order, on one connection, before the first of them is answered: so that of a
    // server that takes 200 ms for each it is told within the probe's deadline that it is slow.
    let (set, got, unlinked, info, keys) = futures_util::join!(
        take::<String>(&connection, "SET", set),
        take::<Option<String>>(&connection, "GET", get),
        take::<i64>(&connection, "UNLINK", unlink),
        take::<String>(&connection, "INFO", redis::cmd("INFO")),
        take::<u64>(&connection, "DBSIZE", redis::cmd("DBSIZE")),
    );
    let mut keep = |error: String| found.errors.push(error);
    let lost = matches!((&set, &got), (Ok(_), Ok((value, _))) if value.as_deref() != Some("probe"));
    let set = set.map_err(&mut keep).ok();
    let got = got.map_err(&mut keep).ok();
    let _ = unlinked.map_err(&mut keep);
    let info = info.map_err(&mut keep).ok();
    let keys = keys.map_err(&mut keep).ok();
    if lost {
        keep("GET did not return what SET had stored: Redis evicts at once, or lies".to_owned());
    }
    found.set = set.map(|(_, took)| took);
    found.get = got.map(|(_, took)| took);
    found.total_keys = keys.map(|(n, _)| n);
    if let Some((info, _)) = info {
        found.version = field(&info, "redis_version").map(str::to_owned);
        found.uptime = field(&info, "uptime_in_seconds")
            .and_then(|secs| secs.parse().ok())
            .map(Duration::from_secs);
        found.used_memory = field(&info, "used_memory_human").map(str::to_owned);
    }
    found
}

fn failed(mut found: CacheProbe, error: &CacheError) -> CacheProbe {
    found.errors.push(error.to_string());
    found
}

/// One command's reply and how long it took, or what went wrong.
async fn take<T: FromRedisValue>(
    connection: &MultiplexedConnection,
    name: &str,
    command: redis::Cmd,
) -> Result<(T, Duration), String> {
    let mut connection = connection.clone();
    let asked = Instant::now();
    let answer: Result<RedisResult<T>, _> =
        timeout(PATIENCE, command.query_async(&mut connection)).await;
    let error = match answer {
        Ok(Ok(value)) => return Ok((value, asked.elapsed())),
        Ok(Err(error)) => classify(error),
        Err(_elapsed) => timed_out(),
    };
    Err(format!("{name}: {error}"))
}

/// Keeps two probes at once off each other's key.
fn unique() -> String {
    new_nonce().map_or_else(
        |_| "0".to_owned(),
        |nonce| nonce.iter().map(|b| format!("{b:02x}")).collect(),
    )
}
