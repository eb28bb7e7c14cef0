//! The identity of the server behind a connection: its incarnation and its role.
//!
//! The identity belongs to the connection. It is read at every connect and again each second,
//! because connections survive a demotion and a demoted server still replies to GET.

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};
use sha2::{Digest as _, Sha256};

use crate::cache::codec::Incarnation;

/// The identity that a server reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The hash of `run_id` and `master_replid`. `run_id` alone returns with the old master at a
    /// failback, and the replid alone survives a restart. `None` if INFO is denied.
    pub(super) incarnation: Option<Incarnation>,
    /// The process, which differs between two servers. `None` if INFO is denied.
    pub(super) run_id: Option<String>,
    pub(super) is_master: bool,
    /// Whether it is a sentinel, which stores no keys.
    pub(super) is_sentinel: bool,
    /// Whether it is a node of a cluster, as far as INFO shows.
    pub(super) is_cluster: bool,
    /// Whether the server has replicas, or had some lately. It keeps its replication backlog for an
    /// hour after the last one left (`repl-backlog-ttl`). When it frees the backlog, its
    /// incarnation changes. A replica that left may return as master, with entries removed here
    /// since.
    pub(super) replicated: bool,
    /// Its version, if that is too old.
    pub(super) outdated: Option<String>,
}

impl Identity {
    /// Returns the incarnation to which entries are bound. If it is unknown, it is a constant, and
    /// an invalidation proves nothing about other servers ([`Identity::is_known`]).
    pub(super) fn incarnation(&self) -> Incarnation {
        self.incarnation.unwrap_or(Incarnation([0; 16]))
    }

    pub(super) fn is_known(&self) -> bool {
        self.incarnation.is_some()
    }
}

/// Reads the identity. Two sections are read separately, because servers before 7.0 accept one.
pub(super) async fn read(connection: &mut MultiplexedConnection) -> RedisResult<Identity> {
    let mut sections = redis::pipe();
    sections.cmd("INFO").arg("server").cmd("INFO").arg("replication");
    match sections.query_async::<(String, String)>(connection).await {
        Ok((server, replication)) => Ok(parse(&server, &replication)),
        // A managed service may deny or disable INFO.
        Err(error) if is_denied(&error) => read_role(connection).await,
        Err(error) => Err(error),
    }
}

/// Reads the role from ROLE or HELLO, if INFO is denied.
async fn read_role(connection: &mut MultiplexedConnection) -> RedisResult<Identity> {
    let role = match redis::cmd("ROLE").query_async::<Vec<Value>>(connection).await {
        Ok(answer) => answer.into_iter().next(),
        Err(error) if is_denied(&error) => {
            let answer: Vec<Value> = redis::cmd("HELLO").query_async(connection).await?;
            let pairs = answer.chunks_exact(2);
            pairs
                .filter(|pair| matches!(&pair[0], Value::BulkString(name) if name == b"role"))
                .map(|pair| pair[1].clone())
                .next()
        }
        Err(error) => return Err(error),
    };
    let role: String = redis::from_redis_value(role.unwrap_or(Value::Nil))?;
    Ok(Identity {
        incarnation: None,
        run_id: None,
        is_master: role == "master",
        is_sentinel: role == "sentinel",
        is_cluster: false,
        replicated: false,
        outdated: None,
    })
}

/// Returns whether the server denied this command or does not know it. Temporary errors of every
/// command, such as LOADING or NOAUTH, do not count.
fn is_denied(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOPERM" | "ERR"))
}

pub(super) fn parse(server: &str, replication: &str) -> Identity {
    let run_id = field(server, "run_id").map(str::to_owned);
    let incarnation = run_id
        .as_deref()
        .zip(field(replication, "master_replid"))
        .map(|(run, replid)| incarnation(run, replid));
    // Valkey 9 has another name for it.
    let mode = ["redis_mode", "server_mode"].iter().find_map(|name| field(server, name));
    Identity {
        incarnation,
        run_id,
        is_master: field(replication, "role") == Some("master"),
        is_sentinel: mode == Some("sentinel"),
        is_cluster: mode == Some("cluster"),
        replicated: ["connected_slaves", "repl_backlog_active"]
            .iter()
            .any(|name| field(replication, name).is_some_and(|number| number != "0")),
        outdated: outdated(server),
    }
}

/// Returns the version of a Redis before 4.0, which lacks UNLINK. Other products that name
/// themselves have versions of their own.
fn outdated(info: &str) -> Option<String> {
    let (_, version) = server_version(info).filter(|(product, _)| *product == "redis")?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor) = (parts.next()??, parts.next()??);
    ((major, minor) < (4, 0)).then(|| version.to_owned())
}

fn incarnation(run_id: &str, replid: &str) -> Incarnation {
    let hash = Sha256::digest(format!("{run_id}:{replid}"));
    let mut short = [0; 16];
    short.copy_from_slice(&hash[..16]);
    Incarnation(short)
}

/// Returns the product that replied this INFO, in lower case, and its own version.
///
/// Valkey and others report a version of Redis that they are compatible with, beside their own.
// It is public for the testkit only, which reads INFO as the health document does.
#[doc(hidden)]
#[must_use]
pub fn server_version(info: &str) -> Option<(&str, &str)> {
    let named = field(info, "server_name").filter(|name| !name.is_empty());
    let others = ["valkey", "dragonfly"];
    let name = named.or_else(|| {
        others.into_iter().find(|name| field(info, &format!("{name}_version")).is_some())
    });
    let name = name.unwrap_or("redis");
    let own = field(info, &format!("{name}_version"));
    own.or_else(|| field(info, "redis_version")).map(|version| (name, version))
}

/// Returns the value of one `name:value` line of INFO.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end)
}

/// Returns whether the connection was lost, in contrast to a rejected command.
pub(super) fn is_lost(error: &RedisError) -> bool {
    error.is_connection_dropped() || error.is_io_error() && !error.is_timeout()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:aaa\r\n";

    #[test]
    fn role_and_replicas_are_parsed() {
        let master = parse(SERVER, "role:master\r\nconnected_slaves:2\r\nmaster_replid:rrr\r\n");
        assert!(master.is_master && master.is_known());
        assert!(master.replicated);
        let replica = parse(SERVER, "role:slave\r\nmaster_replid:rrr\r\n");
        assert!(!replica.is_master);
    }

    #[test]
    fn departed_replica_counts_until_backlog_is_freed() {
        let info = |backlog| {
            format!("role:master\r\nconnected_slaves:0\r\nrepl_backlog_active:{backlog}\r\n")
        };
        assert!(parse(SERVER, &info(1)).replicated);
        assert!(!parse(SERVER, &info(0)).replicated);
    }

    #[test]
    fn restart_and_promotion_each_change_the_incarnation() {
        let one = parse(SERVER, "role:master\r\nmaster_replid:rrr\r\n");
        let promoted = parse(SERVER, "role:master\r\nmaster_replid:sss\r\n");
        let restarted = parse("run_id:bbb\r\n", "role:master\r\nmaster_replid:rrr\r\n");
        assert_ne!(one.incarnation(), promoted.incarnation());
        assert_ne!(one.incarnation(), restarted.incarnation());
    }

    #[test]
    fn redis_before_4_0_is_outdated() {
        for (info, version) in [
            ("redis_version:3.2.12\r\n", Some("3.2.12")),
            ("redis_version:2.8.0\r\n", Some("2.8.0")),
            ("redis_version:4.0.0\r\n", None),
            // Azure's.
            ("redis_version:6.0.14\r\nos:Windows\r\n", None),
            ("redis_version:10.0.1\r\n", None),
            ("redis_version:255.255.255\r\n", None),
            ("redis_version:unstable\r\n", None),
            ("redis_version:3.0.0\r\nserver_name:other\r\nother_version:1.0.0\r\n", None),
            ("", None),
        ] {
            assert_eq!(parse(info, "role:master\r\n").outdated.as_deref(), version, "{info}");
        }
    }

    #[test]
    fn product_is_named_with_its_own_version() {
        for (info, expected) in [
            ("redis_version:7.0.15\r\n", Some(("redis", "7.0.15"))),
            (
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n",
                Some(("valkey", "9.1.2")),
            ),
            (
                "redis_version:7.4.0\r\ndragonfly_version:df-v1.2\r\n",
                Some(("dragonfly", "df-v1.2")),
            ),
            ("redis_version:7.2.4\r\nserver_name:other\r\n", Some(("other", "7.2.4"))),
            ("role:master\r\n", None),
        ] {
            assert_eq!(server_version(info), expected, "{info}");
        }
    }

    #[test]
    fn sentinel_is_no_master() {
        for mode in ["redis_mode", "server_mode"] {
            let sentinel = parse(&format!("run_id:aaa\r\n{mode}:sentinel\r\n"), "");
            assert!(sentinel.is_sentinel && !sentinel.is_master);
        }
        assert!(!parse(SERVER, "role:master\r\n").is_sentinel);
    }

    #[test]
    fn mode_of_a_node_of_a_cluster_is_parsed() {
        for mode in ["redis_mode", "server_mode"] {
            let node = |is| parse(&format!("run_id:aaa\r\n{mode}:{is}\r\n"), "role:master\r\n");
            assert!(node("cluster").is_cluster && node("cluster").is_master);
            assert!(!node("standalone").is_cluster);
        }
    }

    #[test]
    fn server_without_run_id_is_unknown() {
        assert!(!parse("", "role:master\r\n").is_known());
    }
}
