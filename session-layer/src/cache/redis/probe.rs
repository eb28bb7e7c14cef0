//! What the health document shows: PING, SET and GET, really made, and what the server says of itself.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError};
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
    match take::<String>(&connection, redis::cmd("PING")).await {
        Ok((_, took)) => found.ping = Some(took),
        Err(failure) => {
            let is_answer = failure.code().is_some();
            found.errors.push(told("PING", failure, ""));
            // A server that does not answer a PING won't answer the rest either: five more waits would
            // tell nothing. One that refuses it (MISCONF) may have answers.
            if !is_answer {
                return found;
            }
        }
    }
    let key = format!("{}:{}:probe:{}", cache.namespace, codec::FORMAT, unique());
    let mut set = redis::cmd("SET");
    set.arg(&key).arg("probe").arg("PX").arg(KEY_LIFE_MS);
    // It compares with what is not there, and changes nothing. Not loaded yet (NOSCRIPT) is as good.
    let mut script = redis::cmd("EVALSHA");
    script
        .arg(cache.compare_and_set.get_hash())
        .arg(1)
        .arg(&key);
    script.arg("another").arg("").arg(KEY_LIFE_MS);
    let (mut get, mut unlink) = (redis::cmd("GET"), redis::cmd("UNLINK"));
    get.arg(&key);
    unlink.arg(&key);
    // Sent in this order, on one connection, before the first of them is answered: so that of a
    // server that takes 200 ms for each it is told within the probe's deadline that it is slow.
    let mut client = redis::cmd("CLIENT");
    client.arg("ID");
    let (set, got, scripted, unlinked, info, keys, client) = futures_util::join!(
        take::<String>(&connection, set),
        take::<Option<String>>(&connection, get),
        take::<i64>(&connection, script),
        take::<i64>(&connection, unlink),
        take::<String>(&connection, redis::cmd("INFO")),
        take::<u64>(&connection, redis::cmd("DBSIZE")),
        take::<i64>(&connection, client),
    );
    let mut keep = |error: String| found.errors.push(error);
    let lost = matches!((&set, &got), (Ok(_), Ok((value, _))) if value.as_deref() != Some("probe"));
    let set = set.map_err(|error| keep(told("SET", error, ""))).ok();
    let got = got.map_err(|error| keep(told("GET", error, ""))).ok();
    if let Err(error) = scripted
        && error.code() != Some("NOSCRIPT")
    {
        keep(told("EVALSHA", error, "nothing is cached without it"));
    }
    if let Err(error) = unlinked {
        keep(told("UNLINK", error, WITHOUT_UNLINK));
    }
    let info = info
        .map_err(|error| keep(told("INFO", error, WITHOUT_INFO)))
        .ok();
    let keys = keys.map_err(|error| keep(told("DBSIZE", error, ""))).ok();
    // Whatever else keeps it from answering, the others say.
    if let Err(error) = client
        && error.is_denied()
    {
        found.remarks.push(WITHOUT_CLIENT.to_owned());
    }
    if lost {
        keep("GET did not return what SET had stored: Redis evicts at once, or lies".to_owned());
    }
    found.connected = found.ping.is_some() || got.is_some();
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

const WITHOUT_UNLINK: &str = "without it what is revoked stays in Redis until its TTL, and no revocation is promised as propagated";
const WITHOUT_INFO: &str = "without it a server restarted from an old dump is not told from the one before, and no \
                            revocation is promised as propagated";
/// The library names itself at each connect (CLIENT SETINFO), and goes on where it may not.
const WITHOUT_CLIENT: &str =
    "CLIENT is denied: nothing changes but that CLIENT LIST does not name the library (lib-name)";

fn failed(mut found: CacheProbe, error: &CacheError) -> CacheProbe {
    found.errors.push(error.to_string());
    found
}

/// Why a step failed.
enum Failure {
    Refused(RedisError),
    TimedOut,
}

impl Failure {
    fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(error) => error.code(),
            Self::TimedOut => None,
        }
    }

    /// For good: no right to the command, or no such command.
    fn is_denied(&self) -> bool {
        matches!(self.code(), Some("NOPERM" | "ERR"))
    }
}

/// What went wrong with this command and, where the server refused it for good, what is lost by that.
fn told(command: &str, failure: Failure, lost: &str) -> String {
    let denied = failure.is_denied();
    let error = match failure {
        Failure::Refused(error) => classify(error),
        Failure::TimedOut => timed_out(),
    };
    if denied && !lost.is_empty() {
        // The error last: by that requests' own errors are known to be the same.
        format!("{command} ({lost}): {error}")
    } else {
        format!("{command}: {error}")
    }
}

/// One command's reply and how long it took.
async fn take<T: FromRedisValue>(
    connection: &MultiplexedConnection,
    command: redis::Cmd,
) -> Result<(T, Duration), Failure> {
    let mut connection = connection.clone();
    let asked = Instant::now();
    match timeout(PATIENCE, command.query_async(&mut connection)).await {
        Ok(Ok(value)) => Ok((value, asked.elapsed())),
        Ok(Err(error)) => Err(Failure::Refused(error)),
        Err(_elapsed) => Err(Failure::TimedOut),
    }
}

/// Keeps two probes at once off each other's key.
fn unique() -> String {
    new_nonce().map_or_else(
        |_| "0".to_owned(),
        |nonce| nonce.iter().map(|b| format!("{b:02x}")).collect(),
    )
}
