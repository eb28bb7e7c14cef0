//! The closed list of faults, and their names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::link::Link;
use crate::proxy::Peer;

/// A command that an ACL takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// INFO: the incarnation can't be read.
    Info,
    /// EVALSHA: nothing can be filled.
    Evalsha,
    /// SET: no lease, no fence.
    Set,
    /// GET: no hit.
    Get,
    /// CLIENT.
    Client,
}

impl Command {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Evalsha => "evalsha",
            Self::Set => "set",
            Self::Get => "get",
            Self::Client => "client",
        }
    }
}

/// What can be done to a server, or to the lines that lead there. Written as in `redis-kill`, `postgres-table-lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Fault {
    /// SIGKILL; healing starts it again, empty.
    RedisKill,
    /// SIGSTOP: connections stay open, nothing answers.
    RedisPause,
    /// SAVE, then SIGKILL as soon as something has changed (2 s at most); healing starts it again
    /// with what it had at the SAVE.
    RedisOldDump,
    /// FLUSHALL; there is nothing to heal.
    RedisFlushAll,
    /// `maxmemory` in the middle of what is used now, `allkeys-random`: about half of the entries
    /// are evicted, and more with each write.
    RedisEviction,
    /// `maxmemory` of 1 byte, `noeviction`: writes are refused with OOM, reads and UNLINK are not.
    RedisOom,
    /// NOPERM for one command, for the target's user, connected already or not. CLIENT is asked on new
    /// connections alone, so with it those that are open are closed.
    RedisAcl(Command),
    /// A background save has failed: writes are refused with MISCONF.
    RedisMisconf,
    /// CLIENT PAUSE … ALL for 2 s: nothing can end it earlier, so healing waits for the rest.
    RedisClientPause,
    /// CLIENT PAUSE … WRITE: reads are answered, writes wait until it heals.
    RedisClientPauseWrites,
    /// CLIENT KILL of every normal connection, once.
    RedisClientKill,
    /// `maxclients 1`: those that are connected are closed, and new connections refused.
    RedisMaxClients,
    /// A replica that lags behind is promoted, and the old master demoted to its replica, as soon
    /// as it took a write that the new one lacks (2 s at most). Healing fails back to the old master.
    /// Needs [`Target::replica`](super::Target::replica); with
    /// [`Target::network`](super::Target::network) new connections follow the master.
    RedisFailover,
    /// It is made a replica of another under its clients: READONLY for writes, and LOADING for reads for a second or
    /// two, while it takes in the other's data. Healing promotes it. Needs
    /// [`Target::replica`](super::Target::replica).
    RedisDemotion,
    /// The container leaves its network.
    RedisDisconnect,
    /// The lines between nodes and Redis; needs [`Target::network`](super::Target::network).
    RedisLink(Link),
    /// SIGKILL for all its processes; healing starts it again, and it recovers.
    PostgresKill,
    /// SIGSTOP for all its processes.
    PostgresPause,
    /// An immediate shutdown (SIGQUIT): connections end, nothing is flushed; healing starts it.
    PostgresImmediateStop,
    /// `pg_terminate_backend` for every client, once (57P01).
    PostgresTerminate,
    /// No connection for the target's role (53300), which must not be a superuser: what is open is ended.
    PostgresConnectionLimit,
    /// What clients have at work is cancelled, some 200 times a second (57014), as by an administrator. (A
    /// `statement_timeout` would be felt by nobody who sets one of their own, as session-layer does.)
    PostgresCancel,
    /// ACCESS EXCLUSIVE locks on the tables of the target's schema.
    PostgresTableLock,
    /// Every second row of those tables is locked, as by an UPDATE that nobody has committed (55P03 for who
    /// wants to change one).
    PostgresRowLocks,
    /// `default_transaction_read_only` (25006).
    PostgresReadOnly,
    /// Row-level security, enabled and forced without a policy, on the tables of the target's schema:
    /// they look empty to the target's role, which must not be a superuser.
    PostgresForcedRls,
    /// The target's role, which must not be a superuser, loses its rights on the tables of the
    /// target's schema (42501).
    PostgresRevokedGrant,
    /// A transaction with an id and a snapshot stays open.
    PostgresOpenTransaction,
    /// The container leaves its network.
    PostgresDisconnect,
    /// The lines between nodes and Postgres; needs [`Target::network`](super::Target::network).
    PostgresLink(Link),
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 48] = [
        Self::RedisKill,
        Self::RedisPause,
        Self::RedisOldDump,
        Self::RedisFlushAll,
        Self::RedisEviction,
        Self::RedisOom,
        Self::RedisAcl(Command::Info),
        Self::RedisAcl(Command::Evalsha),
        Self::RedisAcl(Command::Set),
        Self::RedisAcl(Command::Get),
        Self::RedisAcl(Command::Client),
        Self::RedisMisconf,
        Self::RedisClientPause,
        Self::RedisClientPauseWrites,
        Self::RedisClientKill,
        Self::RedisMaxClients,
        Self::RedisFailover,
        Self::RedisDemotion,
        Self::RedisDisconnect,
        Self::RedisLink(Link::Latency),
        Self::RedisLink(Link::Blackhole),
        Self::RedisLink(Link::Partition),
        Self::RedisLink(Link::Down),
        Self::RedisLink(Link::Reset),
        Self::RedisLink(Link::Idle),
        Self::RedisLink(Link::Truncated),
        Self::RedisLink(Link::Sliced),
        Self::PostgresKill,
        Self::PostgresPause,
        Self::PostgresImmediateStop,
        Self::PostgresTerminate,
        Self::PostgresConnectionLimit,
        Self::PostgresCancel,
        Self::PostgresTableLock,
        Self::PostgresRowLocks,
        Self::PostgresReadOnly,
        Self::PostgresForcedRls,
        Self::PostgresRevokedGrant,
        Self::PostgresOpenTransaction,
        Self::PostgresDisconnect,
        Self::PostgresLink(Link::Latency),
        Self::PostgresLink(Link::Blackhole),
        Self::PostgresLink(Link::Partition),
        Self::PostgresLink(Link::Down),
        Self::PostgresLink(Link::Reset),
        Self::PostgresLink(Link::Idle),
        Self::PostgresLink(Link::Truncated),
        Self::PostgresLink(Link::Sliced),
    ];

    /// Its name, as in a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RedisKill => "redis-kill",
            Self::RedisPause => "redis-pause",
            Self::RedisOldDump => "redis-old-dump",
            Self::RedisFlushAll => "redis-flush-all",
            Self::RedisEviction => "redis-eviction",
            Self::RedisOom => "redis-oom",
            Self::RedisAcl(Command::Info) => "redis-acl-info",
            Self::RedisAcl(Command::Evalsha) => "redis-acl-evalsha",
            Self::RedisAcl(Command::Set) => "redis-acl-set",
            Self::RedisAcl(Command::Get) => "redis-acl-get",
            Self::RedisAcl(Command::Client) => "redis-acl-client",
            Self::RedisMisconf => "redis-misconf",
            Self::RedisClientPause => "redis-client-pause",
            Self::RedisClientPauseWrites => "redis-client-pause-writes",
            Self::RedisClientKill => "redis-client-kill",
            Self::RedisMaxClients => "redis-maxclients",
            Self::RedisFailover => "redis-failover",
            Self::RedisDemotion => "redis-demotion",
            Self::RedisDisconnect => "redis-disconnect",
            Self::RedisLink(Link::Latency) => "redis-link-latency",
            Self::RedisLink(Link::Blackhole) => "redis-link-blackhole",
            Self::RedisLink(Link::Partition) => "redis-link-partition",
            Self::RedisLink(Link::Down) => "redis-link-down",
            Self::RedisLink(Link::Reset) => "redis-link-reset",
            Self::RedisLink(Link::Idle) => "redis-link-idle",
            Self::RedisLink(Link::Truncated) => "redis-link-truncated",
            Self::RedisLink(Link::Sliced) => "redis-link-sliced",
            Self::PostgresKill => "postgres-kill",
            Self::PostgresPause => "postgres-pause",
            Self::PostgresImmediateStop => "postgres-immediate-stop",
            Self::PostgresTerminate => "postgres-terminate",
            Self::PostgresConnectionLimit => "postgres-connection-limit",
            Self::PostgresCancel => "postgres-cancel",
            Self::PostgresTableLock => "postgres-table-lock",
            Self::PostgresRowLocks => "postgres-row-locks",
            Self::PostgresReadOnly => "postgres-read-only",
            Self::PostgresForcedRls => "postgres-forced-rls",
            Self::PostgresRevokedGrant => "postgres-revoked-grant",
            Self::PostgresOpenTransaction => "postgres-open-transaction",
            Self::PostgresDisconnect => "postgres-disconnect",
            Self::PostgresLink(Link::Latency) => "postgres-link-latency",
            Self::PostgresLink(Link::Blackhole) => "postgres-link-blackhole",
            Self::PostgresLink(Link::Partition) => "postgres-link-partition",
            Self::PostgresLink(Link::Down) => "postgres-link-down",
            Self::PostgresLink(Link::Reset) => "postgres-link-reset",
            Self::PostgresLink(Link::Idle) => "postgres-link-idle",
            Self::PostgresLink(Link::Truncated) => "postgres-link-truncated",
            Self::PostgresLink(Link::Sliced) => "postgres-link-sliced",
        }
    }

    /// Whether it happens to the Redis; else to the Postgres.
    #[must_use]
    pub fn is_redis(self) -> bool {
        self.name().starts_with("redis-")
    }

    /// The line that it happens to, if it does not happen to a server.
    pub(super) fn link(self) -> Option<(Peer, Link)> {
        match self {
            Self::RedisLink(link) => Some((Peer::Redis, link)),
            Self::PostgresLink(link) => Some((Peer::Postgres, link)),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No fault has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault `{name}`; there are {}", names())]
pub struct UnknownFault {
    name: String,
}

fn names() -> String {
    Fault::ALL.map(Fault::name).join(", ")
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        let mut all = Self::ALL.into_iter();
        all.find(|fault| fault.name() == name)
            .ok_or_else(|| UnknownFault {
                name: name.to_owned(),
            })
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        fault.name().to_owned()
    }
}

impl TryFrom<String> for Fault {
    type Error = UnknownFault;

    fn try_from(name: String) -> Result<Self, UnknownFault> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_found_by_its_own_name() {
        let links = Fault::ALL.iter().filter(|fault| fault.link().is_some());
        assert_eq!(links.count(), 2 * Link::ALL.len());
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
            let json = serde_json::to_string(&fault).unwrap();
            assert_eq!(json, format!("\"{fault}\""));
            assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), fault);
        }
        let unknown = "redis-kil".parse::<Fault>().unwrap_err();
        assert!(unknown.to_string().contains("redis-kill, "), "{unknown}");
    }
}
