//! The steps for Redis.

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, RedisResult,
    aio::MultiplexedConnection, cmd,
};

use session_layer::server_url::{ServerKind, ServerUrl};

use super::{
    DEADLINE, Finding, Progress, ServerReport, Status, Steps, Target,
    role::{Replicas, found_role, parse_role},
};
use crate::backends::chain;

const HEADING: &str = "[RedisConnection] Testing Redis connectivity...";

/// The expiry of the test key, in case it can't be deleted.
const KEY_TTL_MS: u64 = 10_000;

pub(super) async fn check(target: &Target, notify: &mut dyn FnMut(Progress<'_>)) -> ServerReport {
    let url = match &target.redis {
        Some(Ok(url)) if url.kind() == ServerKind::Redis => Some(url),
        _ => None,
    };
    let mut steps = Steps::begin(HEADING, url, notify);
    match &target.redis {
        None if target.on_postgres() => {
            let finding = target.unusable(
                "No REDIS_URL, nothing to check",
                "with a postgres:// DATABASE_URL the application does not start without \
                 REDIS_URL",
                "set REDIS_URL, or SESSION_CACHE_ENABLED=false to run without a cache",
            );
            steps.record("connect", finding).await;
        }
        None => {
            let message = "No REDIS_URL: the in-process cache is used, nothing to check";
            steps.record("connect", Finding::skipped(message)).await;
        }
        Some(Ok(_)) if url.is_none() => {
            let reason = "it names a server of another kind";
            steps.record("connect", unusable(reason)).await;
        }
        Some(Err(reason)) => steps.record("connect", unusable(&reason.to_string())).await,
        Some(Ok(url)) => look(&mut steps, target, url).await,
    }
    steps.end("redis")
}

fn unusable(reason: &str) -> Finding {
    Finding::failed("Redis connection failed", format!("REDIS_URL is not usable: {reason}"), URLS)
}

async fn look(steps: &mut Steps<'_>, target: &Target, url: &ServerUrl) {
    let refused = |why: String| Finding::failed("Redis connection failed", why, help(url));
    let work = async {
        let connection = connect(url).await.map_err(|error| rejected_connection(&error, url))?;
        Ok((connection, Finding::ok("Redis connection successful")))
    };
    let Some(mut connection) = steps.take("connect", refused, work).await else {
        return;
    };

    let failed = |why: String| Finding::failed("PING failed", why, help(url));
    let mut denied = false;
    let pinged = steps
        .take("ping", failed, async {
            let answer: RedisResult<String> = send(&mut connection, &["PING"]).await;
            let answer = answer.map_err(|error| {
                denied = error.code() == Some("NOPERM");
                let help = help_with_refusal(&error).unwrap_or_else(|| match error.code() {
                    Some("NOPERM") => help_with_rights("PING"),
                    _ => help(url),
                });
                Finding::failed("PING failed", chain(&error), help)
            })?;
            Ok(((), Finding::ok(format!("PING response: {answer}"))))
        })
        .await;
    // With PING denied, the other rights can still be checked.
    if pinged.is_none() && !denied {
        return;
    }

    own_key(steps, target, &mut connection).await;
    pool(steps, target, url).await;
    server(steps, &mut connection).await;
}

/// Checks SET and GET of a unique key.
async fn own_key(steps: &mut Steps<'_>, target: &Target, connection: &mut MultiplexedConnection) {
    let key = format!("{}:check:{}", target.namespace, uuid::Uuid::new_v4());
    let value = uuid::Uuid::new_v4().to_string();
    let ttl = KEY_TTL_MS.to_string();
    let late = |why: String| Finding::failed("SET test failed", why, SLOW);
    let set = steps
        .take("set", late, async {
            let words = ["SET", &key, &value, "PX", &ttl];
            let answer: RedisResult<()> = send(connection, &words).await;
            answer.map_err(|error| {
                Finding::failed("SET test failed", chain(&error), help_with_set(&error))
            })?;
            Ok(((), Finding::ok("SET test successful")))
        })
        .await;
    if set.is_none() {
        return;
    }
    let late = |why: String| Finding::failed("GET test failed", why, SLOW);
    let _read = steps
        .take("get", late, async {
            let answer: RedisResult<Option<String>> = send(connection, &["GET", &key]).await;
            // If UNLINK is denied, the key expires by itself.
            let removed: RedisResult<()> = send(connection, &["UNLINK", &key]).await;
            match answer {
                Ok(Some(read)) if read == value => Ok((
                    (),
                    match removed {
                        Ok(()) => Finding::ok("GET test successful"),
                        Err(error) => Finding::warning(
                            "GET test successful, UNLINK denied",
                            chain(&error),
                            "revoked sessions stay in Redis until their TTL, and revocations \
                         return `committed`, never `propagated`. To change that: ACL \
                         SETUSER <user> +unlink",
                        ),
                    },
                )),
                Ok(read) => Err(Finding::failed(
                    "GET test failed",
                    match read {
                        Some(_) => "GET returned another value",
                        None => "the key disappeared at once",
                    },
                    "Redis may be evicting (check maxmemory and maxmemory-policy), or a proxy \
                     may spread commands over several servers",
                )),
                Err(error) => {
                    Err(Finding::failed("GET test failed", chain(&error), help_with_rights("GET")))
                }
            }
        })
        .await;
}

/// Opens as many connections as the application, all at once, and sends a PING on each.
async fn pool(steps: &mut Steps<'_>, target: &Target, url: &ServerUrl) {
    let failed = |why: String| {
        Finding::failed(
            "Connection pool not healthy",
            format!("{} connections at once: {why}", target.pool_size),
            "compare Redis' maxclients with the connections of all applications \
             (SESSION_CACHE_POOL_SIZE each)",
        )
    };
    let _healthy = steps
        .take("pool", failed, async {
            let connections = (0..target.pool_size).map(|_| async {
                let mut connection = connect(url).await?;
                send::<()>(&mut connection, &["PING"]).await?;
                // The connection stays open until all are open.
                Ok(connection)
            });
            let open: Result<Vec<MultiplexedConnection>, RedisError> =
                futures_util::future::try_join_all(connections).await;
            match open {
                Ok(_) => Ok(((), Finding::ok("Connection pool healthy"))),
                Err(error) => Err(failed(chain(&error))),
            }
        })
        .await;
}

/// Checks the version, the role, and the commands that the cache needs.
async fn server(steps: &mut Steps<'_>, connection: &mut MultiplexedConnection) {
    let late = |why: String| Finding::failed("INFO failed", why, SLOW);
    let info = steps
        .take("version", late, async {
            match send::<String>(connection, &["INFO"]).await {
                Ok(info) => {
                    let finding = version(&info);
                    Ok((info, finding))
                }
                Err(error) => Err(Finding::warning(
                    "INFO is denied: version unknown",
                    chain(&error),
                    "revocations return `committed`, never `propagated`, because a node \
                     can't detect a replaced server. To change that: ACL SETUSER <user> \
                     +info",
                )),
            }
        })
        .await;

    let late = |why: String| Finding::failed("ROLE failed", why, SLOW);
    let _role = steps
        .take("role", late, async {
            let (role, replicas) = match &info {
                Some(info) => (
                    field(info, "role").to_owned(),
                    match (field(info, "connected_slaves"), field(info, "repl_backlog_active")) {
                        ("0", "1") => Replicas::Left,
                        (number, _) => Replicas::Connected(number.parse().unwrap_or_default()),
                    },
                ),
                None => match send::<redis::Value>(connection, &["ROLE"]).await {
                    Ok(redis::Value::Array(parts)) => parse_role(parts),
                    Ok(_) | Err(_) => (String::new(), Replicas::Connected(0)),
                },
            };
            let cluster =
                info.as_deref().is_some_and(|info| field(info, "redis_mode") == "cluster");
            if cluster && role == "master" {
                return Ok(((), of_a_cluster()));
            }
            Ok(((), found_role(&role, replicas)))
        })
        .await;

    let late = |why: String| Finding::failed("Scripts test failed", why, SLOW);
    let _scripts = steps
        .take("scripts", late, async {
            // As the application: EVALSHA, and SCRIPT LOAD for an unknown script.
            let script = redis::Script::new("return 1");
            match script.invoke_async::<_, i64>(connection).await {
                Ok(_) => Ok(((), Finding::ok("Scripts allowed"))),
                Err(error) => Err(Finding::warning(
                    "Scripts are denied: nothing will be cached",
                    chain(&error),
                    "every request reads Postgres. To change that: ACL SETUSER <user> \
                     +@scripting",
                )),
            }
        })
        .await;
    naming(steps, connection).await;
}

/// Checks CLIENT, with which the application's client library names itself. Without the right it
/// continues, therefore both results are ok.
async fn naming(steps: &mut Steps<'_>, connection: &mut MultiplexedConnection) {
    let late = |why: String| Finding::failed("CLIENT failed", why, SLOW);
    let _named = steps
        .take("client", late, async {
            let allowed: RedisResult<i64> = send(connection, &["CLIENT", "ID"]).await;
            Ok((
                (),
                match allowed {
                    Ok(_) => Finding::ok("CLIENT allowed"),
                    Err(error) => Finding::new(
                        Status::Ok,
                        "CLIENT is denied: CLIENT LIST does not name the \
                         library (lib-name)",
                        chain(&error),
                        "this has no other effect. To change it: ACL SETUSER <user> +client",
                    ),
                },
            ))
        })
        .await;
}

fn version(info: &str) -> Finding {
    let version = field(info, "redis_version");
    let major: Option<u32> = version.split('.').next().and_then(|major| major.parse().ok());
    match major {
        Some(major) if major < 7 => Finding::failed(
            &format!("Redis version {version}"),
            "session-layer needs 7.0 or later, and is not tested with older versions",
            "upgrade to Redis 7.0 or later, or to Valkey",
        ),
        Some(_) => Finding::ok(format!("Redis version {version}")),
        None => Finding::warning(
            "Redis version unknown",
            "INFO contains no version",
            "7.0 or later is required",
        ),
    }
}

/// Returns a warning, because this node may have the test key but not the other keys.
fn of_a_cluster() -> Finding {
    Finding::warning(
        "Role: node of a cluster",
        "sessions with keys on other nodes are not cached, and Postgres validates them",
        "clusters are not supported: point REDIS_URL at one Redis that has all keys",
    )
}

async fn connect(url: &ServerUrl) -> RedisResult<MultiplexedConnection> {
    // The timeouts exceed the step's own deadline, so that only the step reports it.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DEADLINE * 2))
        .set_response_timeout(Some(DEADLINE * 2));
    Client::open(url.expose().clone())?.get_multiplexed_async_connection_with_config(&config).await
}

async fn send<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
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

fn rejected_connection(error: &RedisError, url: &ServerUrl) -> Finding {
    let help = match error.kind() {
        ErrorKind::AuthenticationFailed => {
            "check user and password in REDIS_URL (redis://user:password@host:6379/0)".to_owned()
        }
        ErrorKind::InvalidClientConfig => URLS.to_owned(),
        _ => help(url),
    };
    Finding::new(Status::Failed, "Redis connection failed", chain(error), help)
}

/// Returns the remedy for a rejected SET.
fn help_with_set(error: &RedisError) -> String {
    help_with_refusal(error).unwrap_or_else(|| help_with_rights("SET"))
}

/// Returns the remedy for an error code other than a missing right.
fn help_with_refusal(error: &RedisError) -> Option<String> {
    let help = match error.code()? {
        "READONLY" => "this server is a replica: point REDIS_URL at the master",
        "OOM" => "Redis is full: raise maxmemory, or set maxmemory-policy to allkeys-lru",
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
            "this is a node of a cluster, which is not supported: point REDIS_URL at one Redis \
             that has all keys"
        }
        "NOAUTH" => "a password is required: redis://:password@host:6379/0",
        _ => return None,
    };
    Some(help.to_owned())
}
