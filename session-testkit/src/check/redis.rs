//! The steps for Redis.

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, RedisResult,
    aio::MultiplexedConnection, cmd,
};

use super::{
    DEADLINE, Finding, Progress, ServerReport, Status, Steps, Target,
    role::{Replicas, found_role, told_by_role},
};
use crate::{backends::chain, url::address};

const HEADING: &str = "[RedisConnection] Testing Redis connectivity...";

/// How long our key lives if we cannot delete it.
const KEY_LIFE_MS: u64 = 10_000;

pub(super) async fn check(target: &Target, tell: &mut dyn FnMut(Progress<'_>)) -> ServerReport {
    let url = target.redis_url.as_deref();
    let mut steps = Steps::begin(HEADING, url, tell);
    match url {
        None if target.on_postgres() => {
            let finding = target.refused(
                "No REDIS_URL, nothing to check",
                "with a postgres:// DATABASE_URL the application refuses to start without REDIS_URL",
                "set REDIS_URL, or SESSION_CACHE_ENABLED=false to go without a cache",
            );
            steps.note("connect", finding).await;
        }
        None => {
            let message = "No REDIS_URL: the in-process cache is used, nothing to check";
            steps.note("connect", Finding::skipped(message)).await;
        }
        Some(url) => look(&mut steps, target, url).await,
    }
    steps.end("redis")
}

async fn look(steps: &mut Steps<'_>, target: &Target, url: &str) {
    let refused = |why: String| Finding::failed("Redis connection failed", why, help(url));
    let work = async {
        let connection = connect(url)
            .await
            .map_err(|error| refused_connection(&error, url))?;
        Ok((connection, Finding::ok("Redis connection successful")))
    };
    let Some(mut connection) = steps.take("connect", refused, work).await else {
        return;
    };

    let failed = |why: String| Finding::failed("PING failed", why, help(url));
    let mut denied = false;
    let pinged = steps
        .take("ping", failed, async {
            let answer: RedisResult<String> = ask(&mut connection, &["PING"]).await;
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
    // What else is denied is looked at all the same.
    if pinged.is_none() && !denied {
        return;
    }

    own_key(steps, target, &mut connection).await;
    pool(steps, target, url).await;
    server(steps, &mut connection).await;
}

/// SET and GET of a key that nobody else has.
async fn own_key(steps: &mut Steps<'_>, target: &Target, connection: &mut MultiplexedConnection) {
    let key = format!("{}:check:{}", target.namespace, uuid::Uuid::new_v4());
    let value = uuid::Uuid::new_v4().to_string();
    let life = KEY_LIFE_MS.to_string();
    let late = |why: String| Finding::failed("SET test failed", why, SLOW);
    let set = steps
        .take("set", late, async {
            let words = ["SET", &key, &value, "PX", &life];
            let answer: RedisResult<()> = ask(connection, &words).await;
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
            let answer: RedisResult<Option<String>> = ask(connection, &["GET", &key]).await;
            // Where it is denied, the key ends by itself.
            let gone: RedisResult<()> = ask(connection, &["UNLINK", &key]).await;
            match answer {
                Ok(Some(read)) if read == value => Ok(((), match gone {
                    Ok(()) => Finding::ok("GET test successful"),
                    Err(error) => Finding::warning(
                        "GET test successful, UNLINK denied",
                        chain(&error),
                        "what is revoked stays in Redis until its TTL, and revocations are promised as `committed`, \
                         never as `propagated`; to change that: ACL SETUSER <user> +unlink",
                    ),
                })),
                Ok(read) => Err(Finding::failed(
                    "GET test failed",
                    match read {
                        Some(_) => "another value came back than was set",
                        None => "the key was gone at once",
                    },
                    "Redis may be evicting (look at maxmemory and maxmemory-policy), or a proxy may spread commands over several servers",
                )),
                Err(error) => Err(Finding::failed("GET test failed", chain(&error), help_with_rights("GET"))),
            }
        })
        .await;
}

/// As many connections as the application opens, all at once, each answering.
async fn pool(steps: &mut Steps<'_>, target: &Target, url: &str) {
    let failed = |why: String| {
        Finding::failed(
            "Connection pool not healthy",
            format!("{} connections at once: {why}", target.pool_size),
            "compare Redis' maxclients with what all applications open (SESSION_CACHE_POOL_SIZE each)",
        )
    };
    let _healthy = steps
        .take("pool", failed, async {
            let connections = (0..target.pool_size).map(|_| async {
                let mut connection = connect(url).await?;
                ask::<()>(&mut connection, &["PING"]).await?;
                // Kept until all are open.
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

/// Its version, its role, and the commands that the cache cannot do without.
async fn server(steps: &mut Steps<'_>, connection: &mut MultiplexedConnection) {
    let late = |why: String| Finding::failed("INFO failed", why, SLOW);
    let info = steps
        .take("version", late, async {
            match ask::<String>(connection, &["INFO"]).await {
                Ok(info) => {
                    let finding = version(&info);
                    Ok((info, finding))
                }
                Err(error) => Err(Finding::warning(
                    "INFO is denied: version unknown",
                    chain(&error),
                    "revocations are promised as `committed`, never as `propagated`, for nobody can tell \
                     whether the server was replaced; to change that: ACL SETUSER <user> +info",
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
                    match (
                        field(info, "connected_slaves"),
                        field(info, "repl_backlog_active"),
                    ) {
                        ("0", "1") => Replicas::Left,
                        (number, _) => Replicas::Connected(number.parse().unwrap_or_default()),
                    },
                ),
                None => match ask::<redis::Value>(connection, &["ROLE"]).await {
                    Ok(redis::Value::Array(parts)) => told_by_role(parts),
                    Ok(_) | Err(_) => (String::new(), Replicas::Connected(0)),
                },
            };
            let cluster = info
                .as_deref()
                .is_some_and(|info| field(info, "redis_mode") == "cluster");
            if cluster && role == "master" {
                return Ok(((), of_a_cluster()));
            }
            Ok(((), found_role(&role, replicas)))
        })
        .await;

    let late = |why: String| Finding::failed("Scripts test failed", why, SLOW);
    let _scripts = steps
        .take("scripts", late, async {
            // As the application does it: EVALSHA, and SCRIPT LOAD where Redis does not know it yet.
            let script = redis::Script::new("return 1");
            match script.invoke_async::<_, i64>(connection).await {
                Ok(_) => Ok(((), Finding::ok("Scripts allowed"))),
                Err(error) => Err(Finding::warning(
                    "Scripts are denied: nothing will be cached",
                    chain(&error),
                    "every request goes to Postgres; to change that: ACL SETUSER <user> +@scripting",
                )),
            }
        })
        .await;
    naming(steps, connection).await;
}

/// The application's client library names itself by CLIENT, and goes on where it may not: well either way.
async fn naming(steps: &mut Steps<'_>, connection: &mut MultiplexedConnection) {
    let late = |why: String| Finding::failed("CLIENT failed", why, SLOW);
    let _named = steps
        .take("client", late, async {
            let asked: RedisResult<i64> = ask(connection, &["CLIENT", "ID"]).await;
            Ok((
                (),
                match asked {
                    Ok(_) => Finding::ok("CLIENT allowed"),
                    Err(error) => Finding::new(
                        Status::Ok,
                        "CLIENT is denied: nothing changes but that CLIENT LIST does not name the library (lib-name)",
                        chain(&error),
                        "nothing has to be done; to change it: ACL SETUSER <user> +client",
                    ),
                },
            ))
        })
        .await;
}

fn version(info: &str) -> Finding {
    let version = field(info, "redis_version");
    let major: Option<u32> = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    match major {
        Some(major) if major < 7 => Finding::failed(
            &format!("Redis version {version}"),
            "session-layer is made for 7.0 and later, and tested with nothing older",
            "upgrade to Redis 7.0 or later, or to Valkey",
        ),
        Some(_) => Finding::ok(format!("Redis version {version}")),
        None => Finding::warning(
            "Redis version unknown",
            "INFO names none",
            "7.0 or later is needed",
        ),
    }
}

/// It may have the key that was tried, and not others.
fn of_a_cluster() -> Finding {
    Finding::warning(
        "Role: node of a cluster",
        "sessions whose keys other nodes have are not cached: Postgres answers for them",
        "clusters are not supported: point REDIS_URL at one Redis that has all keys",
    )
}

async fn connect(url: &str) -> RedisResult<MultiplexedConnection> {
    // A little over the step's own deadline, so that there is one who speaks.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DEADLINE * 2))
        .set_response_timeout(Some(DEADLINE * 2));
    Client::open(url)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

async fn ask<T: FromRedisValue>(
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

const SLOW: &str = "Redis accepts connections and does not answer: is it paused, loading, or blocked by a slow command (SLOWLOG GET)?";

fn help(url: &str) -> String {
    let place = address(url).unwrap_or_else(|| "that address".to_owned());
    format!(
        "is Redis running? (redis-cli -u \"$REDIS_URL\" ping)\n\
         is REDIS_URL right? (it says {place})\n\
         is {place} reachable from here? (firewall, container network, host name)"
    )
}

fn help_with_rights(command: &str) -> String {
    format!(
        "may this user do it? ACL SETUSER <user> +{} ~<namespace>:*",
        command.to_lowercase()
    )
}

fn refused_connection(error: &RedisError, url: &str) -> Finding {
    let help = match error.kind() {
        ErrorKind::AuthenticationFailed => {
            "are user and password in REDIS_URL right? (redis://user:password@host:6379/0)"
                .to_owned()
        }
        ErrorKind::InvalidClientConfig => {
            "REDIS_URL must look like redis://user:password@host:6379/0, or rediss:// for TLS"
                .to_owned()
        }
        _ => help(url),
    };
    Finding::new(
        Status::Failed,
        "Redis connection failed",
        chain(error),
        help,
    )
}

/// Redis says by a code why it took no write.
fn help_with_set(error: &RedisError) -> String {
    help_with_refusal(error).unwrap_or_else(|| help_with_rights("SET"))
}

/// What a code says is wrong, other than a right.
fn help_with_refusal(error: &RedisError) -> Option<String> {
    let help = match error.code()? {
        "READONLY" => "this server is a replica: point REDIS_URL at the master",
        "OOM" => "Redis is full: raise maxmemory, or set maxmemory-policy to allkeys-lru",
        "MISCONF" => {
            "Redis cannot write its dump: look at its log and its disk, or set stop-writes-on-bgsave-error no"
        }
        "LOADING" => "Redis is still loading its data: try again in a moment",
        "BUSY" => "a script has been running for long: redis-cli SCRIPT KILL ends it",
        "NOREPLICAS" => {
            "Redis has too few replicas to take writes: look at them, and at min-replicas-to-write"
        }
        "MOVED" | "ASK" | "CLUSTERDOWN" | "TRYAGAIN" => {
            "this is a node of a cluster, which is not supported: point REDIS_URL at one Redis that has all keys"
        }
        "NOAUTH" => "a password is needed: redis://:password@host:6379/0",
        _ => return None,
    };
    Some(help.to_owned())
}
