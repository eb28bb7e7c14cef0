//! The steps for Redis.

mod entry;
mod foreign;
mod speed;

use std::time::Duration;

use redis::{FromRedisValue, RedisError, RedisResult, cmd};
use session_layer::ConfigError;
use session_layer::cache::{
    ConnectCause, ConnectError, RedisCache, RedisCacheBuilder, RedisConnection, server_version,
};
use session_layer::server_url::{ServerKind, ServerUrl};

use super::{
    Finding, Problem, Status, Steps, Target, millis,
    role::{Replicas, found_role, parse_role},
    settings,
};
use crate::chain;

/// The limit of a connect, which the application has as well.
const CONNECT: Duration = Duration::from_secs(1);
/// The expiry of the test key in milliseconds, in case it can't be deleted.
const KEY_TTL_MS: &str = "10000";

/// Returns the URL, if it is usable.
pub(super) fn url(target: &Target) -> Option<&ServerUrl> {
    let url = target.redis.as_ref()?.as_ref().ok()?;
    (url.kind() == ServerKind::Redis).then_some(url)
}

pub(super) async fn check(target: &Target, steps: &mut Steps<'_>) {
    let finding = match (&target.redis, url(target)) {
        (_, Some(url)) => {
            look(steps, target, url).await;
            // If they are not usable, a step has the reason.
            if let Ok(cache) = cache(target, url) {
                steps.record("settings", settings("Settings", &cache));
            }
            return;
        }
        (None, None) if target.on_postgres() => target.unusable(
            "No REDIS_URL, nothing to check",
            "with a postgres:// DATABASE_URL the application does not start without REDIS_URL",
            "set REDIS_URL, or SESSION_CACHE_ENABLED=false to run without a cache",
        ),
        (None, None) => {
            Finding::skipped("No REDIS_URL: the in-process cache is used, nothing to check")
        }
        (Some(Ok(_)), None) => unusable("it names a server of another kind"),
        (Some(Err(reason)), None) => unusable(&reason.to_string()),
    };
    steps.record("connect", finding);
}

fn unusable(reason: &str) -> Finding {
    Finding::failed("Redis connection failed", format!("REDIS_URL is not usable: {reason}"), URLS)
}

async fn look(steps: &mut Steps<'_>, target: &Target, url: &ServerUrl) {
    let help = help(url);
    // In a cluster, the steps are those of the shard that has this key.
    let key = format!("{}:check:{}", target.namespace, uuid::Uuid::new_v4());
    let connecting = async {
        let connection =
            connect(target, url, &key).await?.map_err(|error| no_connection(&error, url))?;
        Ok((connection, Finding::ok("Redis connection successful")))
    };
    let failed = ("Redis connection failed", help.as_str());
    let Some(mut connection) = steps.take("connect", failed, connecting).await else {
        return;
    };
    let connection = &mut connection;

    let mut denied = false;
    let ping = async {
        let answer: RedisResult<String> = send(connection, &["PING"]).await;
        let answer = answer.map_err(|error| {
            denied = error.code() == Some("NOPERM");
            let help = help_with_refusal(&error)
                .unwrap_or_else(|| if denied { help_with_rights("PING") } else { help.clone() });
            Finding::failed("PING failed", chain(&error), help)
        })?;
        Ok(Finding::ok(format!("PING response: {answer}")))
    };
    let pinged = steps.check("ping", ("PING failed", &help), ping).await;
    // With PING denied, the other rights can still be checked.
    if !pinged && !denied {
        return;
    }

    let stored = own_key(steps, &key, connection).await;
    let many = format!(
        "compare Redis' maxclients with the connections of all applications \
         (SESSION_CACHE_POOL_SIZE each). The check opens {} at once",
        target.pool_size
    );
    steps.check("pool", ("Connection pool not healthy", &many), pool(target, url, &key)).await;
    let info = steps.take("version", ("INFO failed", SLOW), version(connection)).await;
    let info = info.as_deref();
    let role = async {
        let found = role(info, connection).await?;
        // The application knows from the URL that Redis fails over.
        let place = match (url.is_sentinel(), url.is_cluster()) {
            (true, _) => Some("behind sentinels"),
            (_, true) => Some("of a shard"),
            (false, false) => None,
        };
        Ok(match place {
            Some(place) if found.status <= Status::Warning => {
                Finding::ok(format!("{} ({place})", found.message))
            }
            _ => found,
        })
    };
    steps.check("role", ("ROLE failed", SLOW), role).await;
    let scripts = async {
        let found = scripts(connection).await?;
        Ok((found.status == Status::Ok, found))
    };
    let scripts = steps.take("scripts", ("Scripts test failed", SLOW), scripts).await;
    steps.check("client", ("CLIENT failed", SLOW), naming(connection)).await;
    let failed = ("Redis is too slow to be used", SLOW);
    steps.check("speed", failed, speed::speed(target, &key, connection)).await;
    if url.is_cluster() {
        let failed = ("The shards are unknown", help.as_str());
        steps.check("cluster", failed, shards(target, url)).await;
    }
    // A denied script has its own line.
    if stored && scripts == Some(true) {
        let failed = ("Nothing will be cached", PROXY);
        steps.check("cache", failed, entry::cached(target, url)).await;
        let failed = ("The application's entries cannot be examined", SLOW);
        steps.check("entries", failed, foreign::entries(target, url, connection)).await;
    }
}

/// Checks SET and GET of a unique key.
///
/// Returns whether both work.
async fn own_key(steps: &mut Steps<'_>, key: &str, connection: &mut RedisConnection) -> bool {
    let value = uuid::Uuid::new_v4().to_string();
    let set = async {
        let words = ["SET", key, &value, "PX", KEY_TTL_MS];
        let set: RedisResult<()> = send(connection, &words).await;
        set.map_err(|error| {
            let help = help_with_refusal(&error).unwrap_or_else(|| help_with_rights("SET"));
            Finding::failed("SET test failed", chain(&error), help)
        })?;
        Ok(Finding::ok("SET test successful"))
    };
    if !steps.check("set", ("SET test failed", SLOW), set).await {
        return false;
    }
    let get = async {
        let read: RedisResult<Option<String>> = send(connection, &["GET", key]).await;
        // If UNLINK is denied, the key expires by itself.
        let removed: RedisResult<()> = send(connection, &["UNLINK", key]).await;
        let failed = |why: &str, help: &str| Finding::failed("GET test failed", why, help);
        let read = read.map_err(|error| failed(&chain(&error), &help_with_rights("GET")))?;
        if read.as_ref() != Some(&value) {
            let why = match read {
                Some(_) => "GET returned another value",
                None => "the key disappeared at once",
            };
            let help = "Redis may be evicting (check maxmemory and maxmemory-policy), or a proxy \
                        may spread commands over several servers";
            return Err(failed(why, help).into());
        }
        Ok(match removed {
            Ok(()) => Finding::ok("GET test successful"),
            Err(error) => Finding::warning(
                "GET test successful, UNLINK denied",
                chain(&error),
                "revoked sessions stay in Redis until their TTL, and revocations return \
                 `committed`, never `propagated`. To change that: ACL SETUSER <user> +unlink",
            ),
        })
    };
    steps.check("get", ("GET test failed", SLOW), get).await
}

/// Opens as many connections as the application, all at once, and sends a PING on each.
async fn pool(target: &Target, url: &ServerUrl, key: &str) -> Result<Finding, Problem> {
    let connections = (0..target.pool_size).map(|_| async {
        let mut connection = connect(target, url, key).await??;
        send::<()>(&mut connection, &["PING"]).await?;
        // The connection stays open until all are open.
        Ok::<_, Problem>(connection)
    });
    let _open = futures_util::future::try_join_all(connections).await?;
    Ok(Finding::ok("Connection pool healthy"))
}

/// Checks the version. Returns the whole INFO.
async fn version(connection: &mut RedisConnection) -> Result<(String, Finding), Problem> {
    let info: RedisResult<String> = send(connection, &["INFO"]).await;
    let info = info.map_err(|error| {
        Finding::warning(
            "INFO is denied: version unknown",
            chain(&error),
            "revocations return `committed`, never `propagated`, because a node can't detect a \
             replaced server. To change that: ACL SETUSER <user> +info",
        )
    })?;
    let finding = found_version(&info);
    Ok((info, finding))
}

async fn role(info: Option<&str>, connection: &mut RedisConnection) -> Result<Finding, Problem> {
    let Some(info) = info else {
        let role: RedisResult<redis::Value> = send(connection, &["ROLE"]).await;
        let (role, replicas) = match role {
            Ok(redis::Value::Array(parts)) => parse_role(parts),
            Ok(_) | Err(_) => (String::new(), Replicas::Connected(0)),
        };
        return Ok(found_role(&role, replicas));
    };
    let role = field(info, "role");
    let replicas = match (field(info, "connected_slaves"), field(info, "repl_backlog_active")) {
        ("0", "1") => Replicas::Left,
        (number, _) => Replicas::Connected(number.parse().unwrap_or_default()),
    };
    Ok(found_role(role, replicas))
}

/// Connects to the master of each shard, and sends a PING.
async fn shards(target: &Target, url: &ServerUrl) -> Result<Finding, Problem> {
    let shards = cache(target, url)?.connect_to_shards(CONNECT).await?;
    let count = shards.len();
    let mut failed = Vec::new();
    for (address, connected) in shards {
        match connected {
            Ok(mut connection) => {
                if let Err(error) = send::<()>(&mut connection, &["PING"]).await {
                    failed.push(format!("{address}: {}", chain(&error)));
                }
            }
            Err(error) => failed.push(error.to_string()),
        }
    }
    Ok(if failed.is_empty() {
        Finding::ok(format!("Cluster: {count} shards, each with a master"))
    } else {
        Finding::failed(
            &format!("Cluster: {} of {count} shards cannot be used", failed.len()),
            failed.join("\n"),
            "the sessions of the others are cached. Restore the shard, or check that each node is \
             reachable from here under the address that the cluster announces",
        )
    })
}

/// Checks EVALSHA, and SCRIPT LOAD for an unknown script, as the application uses them.
async fn scripts(connection: &mut RedisConnection) -> Result<Finding, Problem> {
    match redis::Script::new("return 1").invoke_async::<_, i64>(connection).await {
        Ok(_) => Ok(Finding::ok("Scripts allowed")),
        Err(error) => Ok(Finding::warning(
            "Scripts are denied: nothing will be cached",
            chain(&error),
            "every request reads Postgres. To change that: ACL SETUSER <user> +@scripting",
        )),
    }
}

/// Checks CLIENT, with which the application's client library names itself. Without the right it
/// continues, therefore both results are ok.
async fn naming(connection: &mut RedisConnection) -> Result<Finding, Problem> {
    let allowed: RedisResult<i64> = send(connection, &["CLIENT", "ID"]).await;
    Ok(match allowed {
        Ok(_) => Finding::ok("CLIENT allowed"),
        Err(error) => Finding::new(
            Status::Ok,
            "CLIENT is denied: CLIENT LIST does not name the library (lib-name)",
            chain(&error),
            "this has no other effect. To change it: ACL SETUSER <user> +client",
        ),
    })
}

fn found_version(info: &str) -> Finding {
    let Some((server, version)) = server_version(info) else {
        return Finding::warning(
            "Redis version unknown",
            "INFO contains no version",
            "Redis 6.2 or later, or Valkey, is required",
        );
    };
    let mut letters = server.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    let name: String = first.into_iter().chain(letters).collect();
    let line = format!("{name} version {version}");
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if server == "redis" && version < (6, 2) {
        return Finding::warning(
            &line,
            "session-layer is not tested with versions before 6.2",
            "upgrade to Redis 6.2 or later, or to Valkey",
        );
    }
    Finding::ok(line)
}

/// Returns the application's cache with this target's settings.
fn cache(target: &Target, url: &ServerUrl) -> Result<RedisCacheBuilder, Finding> {
    let mut cache = RedisCache::builder(url.expose_all());
    if target.from_env {
        cache = cache.from_env().map_err(|error| unusable_settings(&error))?;
    }
    Ok(cache.namespace(&*target.namespace).pool_size(target.pool_size.into()))
}

fn unusable_settings(error: &ConfigError) -> Finding {
    let remedy = "correct the variable: the application does not start with it";
    Finding::failed("Redis settings are not usable", error.to_string(), remedy)
}

/// Connects as the application does, in a cluster to the master that has this key.
async fn connect(
    target: &Target,
    url: &ServerUrl,
    key: &str,
) -> Result<Result<RedisConnection, ConnectError>, Finding> {
    // The step's own deadline is longer, so that the error names what took too long.
    Ok(cache(target, url)?.connect_for_key(key.as_bytes(), CONNECT).await)
}

async fn send<T: FromRedisValue>(
    connection: &mut RedisConnection,
    words: &[&str],
) -> RedisResult<T> {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(connection).await
}

fn field<'a>(info: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(value).unwrap_or_default().trim()
}

const URLS: &str =
    "REDIS_URL must look like redis://user:password@host:6379/0, or rediss:// for TLS";
const PROXY: &str = "check whether a proxy between here and Redis changes commands (SET … NX PX, \
                     EVALSHA, MGET), and connect to Redis itself. Until then every request reads \
                     Postgres";
const FULL: &str = "Redis is full: raise maxmemory, or set maxmemory-policy to allkeys-lru";
const SLOW: &str = "Redis accepts connections and does not respond. Check whether it is paused, \
                    loading, or blocked by a slow command (SLOWLOG GET)";

fn help(url: &ServerUrl) -> String {
    let place = url.address().unwrap_or_else(|| "that address".to_owned());
    format!(
        "check that Redis is running (redis-cli -u \"$REDIS_URL\" ping)\n\
         check REDIS_URL, which names {place}\n\
         check that {place} is reachable from here (firewall, container network, host name)"
    )
}

fn help_with_rights(command: &str) -> String {
    format!("grant the command: ACL SETUSER <user> +{} ~<namespace>:*", command.to_lowercase())
}

fn no_connection(error: &ConnectError, url: &ServerUrl) -> Finding {
    let help = match error.cause() {
        ConnectCause::Refused | ConnectCause::Network | ConnectCause::TimedOut => {
            format!("{}\n{}", error.remedy(), help(url))
        }
        _ => error.remedy().to_owned(),
    };
    if url.is_cluster() {
        // It names the node.
        return Finding::failed("Redis connection failed", error.to_string(), help);
    }
    Finding::failed("Redis connection failed", error.why(), help)
}

/// Returns the remedy for an error code other than a missing right.
fn help_with_refusal(error: &RedisError) -> Option<String> {
    let help = match error.code()? {
        "READONLY" => "this server is a replica: point REDIS_URL at the master",
        "OOM" => FULL,
        "MISCONF" => {
            "Redis cannot write its dump: look at its log and its disk, or set \
             stop-writes-on-bgsave-error no"
        }
        "LOADING" => "Redis is still loading its data: try again in a moment",
        "BUSY" => "a script has been running for a long time: redis-cli SCRIPT KILL ends it",
        "NOREPLICAS" => {
            "Redis has too few replicas to accept writes: check them and min-replicas-to-write"
        }
        "MOVED" | "ASK" | "CLUSTERDOWN" | "TRYAGAIN" => {
            "a shard of the cluster has no master, or its slots are being moved: CLUSTER SHARDS \
             lists them"
        }
        "NOAUTH" => "a password is required: redis://:password@host:6379/0",
        _ => return None,
    };
    Some(help.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_that_of_the_product() {
        for (info, line, status) in [
            ("redis_version:7.0.15\n", "Redis version 7.0.15", Status::Ok),
            ("redis_version:6.2.5\n", "Redis version 6.2.5", Status::Ok),
            ("redis_version:6.0.16\n", "Redis version 6.0.16", Status::Warning),
            (
                "redis_version:7.2.4\nserver_name:valkey\nvalkey_version:9.1.2\n",
                "Valkey version 9.1.2",
                Status::Ok,
            ),
            ("role:master\n", "Redis version unknown", Status::Warning),
        ] {
            let found = found_version(info);
            assert_eq!((found.message.as_str(), found.status), (line, status));
        }
    }
}
