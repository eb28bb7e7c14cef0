//! The probe of the health document: PING, SET and GET, and the server's own figures.

use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError};
use tokio::time::{Instant, timeout};

use super::builder::INSECURE;
use super::errors::{classify, timed_out};
use super::identity::{field, server_version};
use super::shard::Shard;
use super::{RedisCache, codec, new_nonce};
use crate::cache::CacheProbe;
use crate::model::error::CacheError;

/// The timeout of each step. It far exceeds a request's wait, to distinguish slow from unreachable.
const STEP_TIMEOUT: Duration = Duration::from_millis(500);
/// The TTL of the probe's key, in case its UNLINK is lost.
const KEY_LIFE_MS: u64 = 5_000;

/// Probes every server at once, and puts their figures together.
pub(super) async fn probe(cache: &RedisCache) -> CacheProbe {
    let mut found = CacheProbe::default();
    if cache.is_insecure {
        found.remarks.push(INSECURE.to_owned());
    }
    let unique = unique();
    let key = |n| format!("{}:{}:probe:{unique}:{n}", cache.namespace, codec::FORMAT);
    let servers = match cache.servers.with_keys(key) {
        Ok(servers) => servers,
        Err(error) => return failed(found, &error),
    };
    let probing = servers.iter().map(|(shard, key)| async move {
        let probed = probe_server(cache, shard, key).await;
        (shard.address().map(ToString::to_string), probed)
    });
    sum(found, &join_all(probing).await)
}

/// The figures of one server.
struct ServerProbe {
    found: CacheProbe,
    used_bytes: Option<u64>,
}

/// Puts the figures of servers together, each with its name if it is a shard. Times and uptime are
/// those of the worst. A sum is unknown if a part of it is.
fn sum(mut found: CacheProbe, servers: &[(Option<String>, ServerProbe)]) -> CacheProbe {
    for (name, ServerProbe { found: one, .. }) in servers {
        found.errors.extend(one.errors.iter().map(|error| match name {
            Some(name) => format!("the shard {name} of the cluster: {error}"),
            None => error.clone(),
        }));
        for remark in &one.remarks {
            if !found.remarks.contains(remark) {
                found.remarks.push(remark.clone());
            }
        }
    }
    let all = || servers.iter().map(|(_, server)| &server.found);
    found.connected = all().any(|one| one.connected);
    found.server = all().find_map(|one| one.server.clone());
    found.version = all().find_map(|one| one.version.clone());
    found.uptime = all().filter_map(|one| one.uptime).min();
    found.total_keys = all().map(|one| one.total_keys).sum();
    found.ping = all().filter_map(|one| one.ping).max();
    found.set = all().filter_map(|one| one.set).max();
    found.get = all().filter_map(|one| one.get).max();
    found.used_memory = match servers {
        [(_, only)] => only.found.used_memory.clone(),
        several => several.iter().map(|(_, one)| one.used_bytes).sum::<Option<u64>>().map(human),
    };
    found
}

/// Formats a number of bytes as Redis does.
fn human(bytes: u64) -> String {
    const KIB: u64 = 1024;
    let (unit, letter) = match bytes {
        0..KIB => return format!("{bytes}B"),
        KIB..0x10_0000 => (KIB, 'K'),
        0x10_0000..0x4000_0000 => (KIB * KIB, 'M'),
        _ => (KIB * KIB * KIB, 'G'),
    };
    let hundredths = bytes.saturating_mul(100) / unit;
    format!("{}.{:02}{letter}", hundredths / 100, hundredths % 100)
}

async fn probe_server(cache: &RedisCache, shard: &Shard, key: &str) -> ServerProbe {
    let (mut found, mut used_bytes) = (CacheProbe::default(), None);
    if let Some(problem) = shard.links.credentials_problem() {
        found.errors.push(problem.to_string());
    }
    let failed =
        |found, error: &CacheError| ServerProbe { found: failed(found, error), used_bytes: None };
    let link = match timeout(STEP_TIMEOUT, shard.links.any()).await {
        Ok(Ok(link)) => link,
        Ok(Err(error)) => return failed(found, &error),
        Err(_elapsed) => return failed(found, &timed_out()),
    };
    let connection = link.0.connection();
    match take::<String>(&connection, redis::cmd("PING")).await {
        Ok((_, took)) => found.ping = Some(took),
        Err(failure) => {
            let is_answer = failure.code().is_some();
            found.errors.push(describe("PING", failure, ""));
            // A server that does not respond to PING will not respond to the other commands. Five
            // more waits would show nothing. A server that rejects PING (MISCONF) may respond.
            if !is_answer {
                return ServerProbe { found, used_bytes };
            }
        }
    }
    let mut set = redis::cmd("SET");
    set.arg(key).arg("probe").arg("PX").arg(KEY_LIFE_MS);
    // The script compares with a missing key and changes nothing. NOSCRIPT counts as success,
    // because it only means that the script is not loaded yet.
    let mut script = redis::cmd("EVALSHA");
    script.arg(cache.compare_and_set.get_hash()).arg(1).arg(key);
    script.arg("another").arg("").arg(KEY_LIFE_MS);
    let (mut get, mut unlink) = (redis::cmd("GET"), redis::cmd("UNLINK"));
    get.arg(key);
    unlink.arg(key);
    // All commands are sent in this order on one connection, before the first reply. A server that
    // takes 200 ms for each is therefore reported as slow within the probe's deadline.
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
    let set = set.map_err(|error| keep(describe("SET", error, ""))).ok();
    let got = got.map_err(|error| keep(describe("GET", error, ""))).ok();
    if let Err(error) = scripted
        && error.code() != Some("NOSCRIPT")
    {
        keep(describe("EVALSHA", error, "without it, nothing is cached"));
    }
    if let Err(error) = unlinked {
        keep(describe("UNLINK", error, WITHOUT_UNLINK));
    }
    let info = info.map_err(|error| keep(describe("INFO", error, WITHOUT_INFO))).ok();
    let keys = keys.map_err(|error| keep(describe("DBSIZE", error, ""))).ok();
    // Other failures of CLIENT show in the other commands.
    if let Err(error) = client
        && error.is_denied()
    {
        found.remarks.push(WITHOUT_CLIENT.to_owned());
    }
    if lost {
        keep(
            "GET did not return the value of SET: check whether Redis evicts keys at once"
                .to_owned(),
        );
    }
    found.connected = found.ping.is_some() || got.is_some();
    found.set = set.map(|(_, took)| took);
    found.get = got.map(|(_, took)| took);
    found.total_keys = keys.map(|(n, _)| n);
    if let Some((info, _)) = info {
        if let Some((server, version)) = server_version(&info) {
            found.server = Some(server.to_owned());
            found.version = Some(version.to_owned());
        }
        found.uptime = field(&info, "uptime_in_seconds")
            .and_then(|secs| secs.parse().ok())
            .map(Duration::from_secs);
        found.used_memory = field(&info, "used_memory_human").map(str::to_owned);
        used_bytes = field(&info, "used_memory").and_then(|bytes| bytes.parse().ok());
    }
    ServerProbe { found, used_bytes }
}

const WITHOUT_UNLINK: &str = "without it, a revoked entry stays in Redis until its TTL, and no \
                              revocation is propagated at once";
const WITHOUT_INFO: &str = "without it, a restart from an old dump is not detected, and no \
                            revocation is propagated at once";
/// The remark if CLIENT is denied. The library sends its name at each connect (CLIENT SETINFO), and
/// continues if that is denied.
const WITHOUT_CLIENT: &str =
    "CLIENT is denied: nothing changes but that CLIENT LIST does not name the library (lib-name)";

fn failed(mut found: CacheProbe, error: &CacheError) -> CacheProbe {
    found.errors.push(error.to_string());
    found
}

enum ProbeFailure {
    Refused(RedisError),
    TimedOut,
}

impl ProbeFailure {
    fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(error) => error.code(),
            Self::TimedOut => None,
        }
    }

    /// Returns whether the server denies or does not know the command.
    fn is_denied(&self) -> bool {
        matches!(self.code(), Some("NOPERM" | "ERR"))
    }
}

/// Formats the failure of this command. `lost` is the consequence if it is denied.
fn describe(command: &str, failure: ProbeFailure, lost: &str) -> String {
    let denied = failure.is_denied();
    let error = match failure {
        ProbeFailure::Refused(error) => classify(error),
        ProbeFailure::TimedOut => timed_out(),
    };
    if denied && !lost.is_empty() {
        // The error comes last, so that it matches the errors of requests.
        format!("{command} ({lost}): {error}")
    } else {
        format!("{command}: {error}")
    }
}

/// Runs one command and returns its reply and duration.
async fn take<T: FromRedisValue>(
    connection: &MultiplexedConnection,
    command: redis::Cmd,
) -> Result<(T, Duration), ProbeFailure> {
    let mut connection = connection.clone();
    let asked = Instant::now();
    match timeout(STEP_TIMEOUT, command.query_async(&mut connection)).await {
        Ok(Ok(value)) => Ok((value, asked.elapsed())),
        Ok(Err(error)) => Err(ProbeFailure::Refused(error)),
        Err(_elapsed) => Err(ProbeFailure::TimedOut),
    }
}

/// Returns a random suffix, so that concurrent probes use different keys.
fn unique() -> String {
    new_nonce()
        .map_or_else(|_| "0".to_owned(), |nonce| nonce.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_formatted_as_redis_does() {
        for (bytes, text) in [
            (0, "0B"),
            (1_023, "1023B"),
            (1_024, "1.00K"),
            (1_258_291, "1.19M"),
            (3 << 30, "3.00G"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    fn shard(keys: Option<u64>, bytes: Option<u64>, ping: Option<u64>) -> ServerProbe {
        let found = CacheProbe {
            connected: ping.is_some(),
            total_keys: keys,
            ping: ping.map(Duration::from_millis),
            errors: ping.is_none().then(|| "refused".to_owned()).into_iter().collect(),
            remarks: vec!["the same".to_owned()],
            ..CacheProbe::default()
        };
        ServerProbe { found, used_bytes: bytes }
    }

    #[test]
    fn figures_of_shards_are_summed_and_errors_name_the_shard() {
        let named = |name: &str, probe| (Some(name.to_owned()), probe);
        let well = || named("a:1", shard(Some(2), Some(1_024), Some(3)));
        let probed = sum(
            CacheProbe::default(),
            &[well(), named("b:2", shard(Some(3), Some(1_024), Some(5)))],
        );
        assert_eq!(probed.total_keys, Some(5));
        assert_eq!(probed.used_memory.as_deref(), Some("2.00K"));
        assert_eq!(probed.ping, Some(Duration::from_millis(5)));
        assert!(probed.errors.is_empty() && probed.connected);
        assert_eq!(probed.remarks, ["the same"]);

        let probed = sum(CacheProbe::default(), &[well(), named("b:2", shard(None, None, None))]);
        assert!(probed.connected);
        assert_eq!((probed.total_keys, probed.used_memory), (None, None));
        assert_eq!(probed.ping, Some(Duration::from_millis(3)));
        assert_eq!(probed.errors, ["the shard b:2 of the cluster: refused"]);
    }
}
