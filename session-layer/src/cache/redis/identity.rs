//! Who is at the other end of a connection: which server, in which life, in which role.
//!
//! It belongs to the connection and is asked at every connect and again each second: connections
//! survive a demotion, and a demoted server goes on answering GET.

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};
use sha2::{Digest as _, Sha256};

use crate::codec::Incarnation;

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// `run_id` with `master_replid`: `run_id` alone survives a failback to the old master, a replid
    /// alone does not change at a restart. `None` where the server won't tell (INFO denied).
    pub(super) incarnation: Option<Incarnation>,
    /// The process: differs between two servers. `None` where it won't tell.
    pub(super) run_id: Option<String>,
    pub(super) is_master: bool,
    /// It has replicas, or had some lately: its replication backlog is kept for an hour after the last
    /// one left (`repl-backlog-ttl`), and when it goes, so does the incarnation. A replica that left
    /// may come back as the master, with copies that were removed here meanwhile.
    pub(super) replicated: bool,
}

impl Identity {
    /// The incarnation its entries are bound to. Where the server won't tell, it is a constant, and
    /// then an invalidation proves nothing beyond itself ([`Identity::is_known`]).
    pub(super) fn incarnation(&self) -> Incarnation {
        self.incarnation.unwrap_or(Incarnation([0; 16]))
    }

    pub(super) fn is_known(&self) -> bool {
        self.incarnation.is_some()
    }
}

/// Asks. Two sections of INFO, since servers before 7.0 take one at a time.
pub(super) async fn ask(connection: &mut MultiplexedConnection) -> RedisResult<Identity> {
    let mut sections = redis::pipe();
    sections
        .cmd("INFO")
        .arg("server")
        .cmd("INFO")
        .arg("replication");
    match sections.query_async::<(String, String)>(connection).await {
        Ok((server, replication)) => Ok(parse(&server, &replication)),
        // A managed service may deny INFO, or have taken it away.
        Err(error) if is_denied(&error) => ask_the_role(connection).await,
        Err(error) => Err(error),
    }
}

/// Without INFO, ROLE and HELLO still tell whether it is a master.
async fn ask_the_role(connection: &mut MultiplexedConnection) -> RedisResult<Identity> {
    let role = match redis::cmd("ROLE")
        .query_async::<Vec<Value>>(connection)
        .await
    {
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
        replicated: false,
    })
}

/// Did the server refuse the command itself (no right to it, or no such command), rather than every
/// command for now (loading, other credentials wanted)?
fn is_denied(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOPERM" | "ERR"))
}

fn parse(server: &str, replication: &str) -> Identity {
    let run_id = field(server, "run_id").map(str::to_owned);
    let incarnation = run_id
        .as_deref()
        .zip(field(replication, "master_replid"))
        .map(|(run, replid)| incarnation(run, replid));
    Identity {
        incarnation,
        run_id,
        is_master: field(replication, "role") == Some("master"),
        replicated: ["connected_slaves", "repl_backlog_active"]
            .iter()
            .any(|name| field(replication, name).is_some_and(|number| number != "0")),
    }
}

fn incarnation(run_id: &str, replid: &str) -> Incarnation {
    let hash = Sha256::digest(format!("{run_id}:{replid}"));
    let mut short = [0; 16];
    short.copy_from_slice(&hash[..16]);
    Incarnation(short)
}

/// One `name:value` line of INFO.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim_end)
}

/// Was the connection lost (rather than a command refused)?
pub(super) fn is_lost(error: &RedisError) -> bool {
    error.is_connection_dropped() || error.is_io_error() && !error.is_timeout()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:aaa\r\n";

    #[test]
    fn reads_role_and_replicas() {
        let master = parse(
            SERVER,
            "role:master\r\nconnected_slaves:2\r\nmaster_replid:rrr\r\n",
        );
        assert!(master.is_master && master.is_known());
        assert!(master.replicated);
        let replica = parse(SERVER, "role:slave\r\nmaster_replid:rrr\r\n");
        assert!(!replica.is_master);
    }

    #[test]
    fn a_replica_that_left_counts_until_the_backlog_is_freed() {
        let info = |backlog| {
            format!("role:master\r\nconnected_slaves:0\r\nrepl_backlog_active:{backlog}\r\n")
        };
        assert!(parse(SERVER, &info(1)).replicated);
        assert!(!parse(SERVER, &info(0)).replicated);
    }

    #[test]
    fn a_restart_and_a_promotion_each_make_another_incarnation() {
        let one = parse(SERVER, "role:master\r\nmaster_replid:rrr\r\n");
        let promoted = parse(SERVER, "role:master\r\nmaster_replid:sss\r\n");
        let restarted = parse("run_id:bbb\r\n", "role:master\r\nmaster_replid:rrr\r\n");
        assert_ne!(one.incarnation(), promoted.incarnation());
        assert_ne!(one.incarnation(), restarted.incarnation());
    }

    #[test]
    fn a_server_that_tells_nothing_is_unknown() {
        assert!(!parse("", "role:master\r\n").is_known());
    }
}
