//! The faults and their names.

use serde::{Deserialize, Serialize};

use super::link::Link;
use crate::proxy::Peer;

/// A command that an ACL denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// INFO. Without it, a node can't read the incarnation.
    Info,
    /// EVALSHA. Without it, a node can't fill.
    Evalsha,
    /// SET. Without it, a node gets no lease and no fence.
    Set,
    /// GET. Without it, a node has no hits.
    Get,
    /// CLIENT, which names a connection.
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

/// A fault of a server or of the connections to it, with a name such as `redis-kill`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Fault {
    /// SIGKILL. Healing restarts Redis without data.
    RedisKill,
    /// SIGSTOP. Connections stay open, and Redis does not respond.
    RedisPause,
    /// SAVE, then SIGKILL after a change or 2 s. Healing restarts Redis with the saved data.
    RedisOldDump,
    /// FLUSHALL. There is nothing to heal.
    RedisFlushAll,
    /// `maxmemory` halfway between startup and current memory, with `allkeys-random`. About half of
    /// the entries are evicted, and more with each write.
    RedisEviction,
    /// `maxmemory` of 1 byte, `noeviction`. Redis rejects writes with OOM, except UNLINK.
    RedisOom,
    /// NOPERM for one command of the target's user, also on open connections. Nodes send CLIENT
    /// only on new connections, therefore denying CLIENT also closes the open ones.
    RedisAcl(Command),
    /// A failed background save. Redis rejects writes with MISCONF.
    RedisMisconf,
    /// CLIENT PAUSE … ALL for 2 s. Nothing can end it earlier, therefore healing waits.
    RedisClientPause,
    /// CLIENT PAUSE … WRITE. Redis responds to reads, and writes wait until healing.
    RedisClientPauseWrites,
    /// CLIENT KILL of every normal connection, once.
    RedisClientKill,
    /// `maxclients 1`. Redis closes open connections and rejects new ones.
    RedisMaxClients,
    /// Promotion of a replica that lacks a write, and demotion of the old master to its replica.
    /// The demotion follows the first write after the promotion, or 2 s. Healing fails back to the
    /// old master. Needs [`Target::replica`](super::Target::replica). With
    /// [`Target::network`](super::Target::network), new connections follow the master.
    RedisFailover,
    /// Demotion of the master with its clients connected. Writes get READONLY. Reads get LOADING
    /// for a second or two while it loads the other server's data. Healing promotes it. Needs
    /// [`Target::replica`](super::Target::replica).
    RedisDemotion,
    /// The move of up to 100 slots of a cluster that have keys to another shard, with the keys.
    /// Healing moves them back. Needs [`Target::cluster`](super::Target::cluster).
    RedisClusterSlotMove,
    /// SIGKILL of a master of a cluster that has no replica. Healing restarts it without data.
    /// Needs [`Target::cluster`](super::Target::cluster).
    RedisClusterShardDown,
    /// SIGKILL of the master that sentinels watch. They promote its replica. Healing restarts the
    /// killed server, which becomes a replica. Needs
    /// [`Target::sentinels`](super::Target::sentinels).
    RedisSentinelFailover,
    /// Removal of the container from its network.
    RedisDisconnect,
    /// A fault of the connections between nodes and Redis. Needs
    /// [`Target::network`](super::Target::network).
    RedisLink(Link),
    /// SIGKILL for all processes of Postgres. Healing restarts it, and it recovers.
    PostgresKill,
    /// SIGSTOP for all processes of Postgres.
    PostgresPause,
    /// An immediate shutdown (SIGQUIT), which flushes nothing. Healing restarts Postgres.
    PostgresImmediateStop,
    /// `pg_terminate_backend` for every client, once (57P01).
    PostgresTerminate,
    /// A connection limit of 0 for the target's role, no superuser (53300). Open ones are ended.
    PostgresConnectionLimit,
    /// Cancellation of the clients' active statements, about 200 times a second (57014), as by an
    /// administrator. A `statement_timeout` would not affect clients that set their own, as
    /// session-layer does.
    PostgresCancel,
    /// ACCESS EXCLUSIVE locks on the tables of the target's schema.
    PostgresTableLock,
    /// Locks on every second row of those tables, as by an uncommitted UPDATE (55P03).
    PostgresRowLocks,
    /// `default_transaction_read_only` (25006).
    PostgresReadOnly,
    /// Row-level security without a policy, enabled and forced on the tables of the target's
    /// schema. The tables look empty to the target's role, which must not be a superuser.
    PostgresForcedRls,
    /// Revoked rights of the target's role, no superuser, on the tables of its schema (42501).
    PostgresRevokedGrant,
    /// An open transaction with an id and a snapshot.
    PostgresOpenTransaction,
    /// A stop of the primary, after which its standby is promoted. The old primary returns as a
    /// standby, and only then the address moves. Healing fails back in the same way. Needs
    /// [`Target::standby`](super::Target::standby). With
    /// [`Target::network`](super::Target::network), new connections follow the primary.
    PostgresFailover,
    /// Silent loss of idle connections, as by a NAT that forgets them. A connection without bytes
    /// for 11 s passes none from then on, also after healing. It is not closed, and new ones work.
    /// Needs [`Target::network`](super::Target::network). It must last longer than 11 s.
    PostgresIdleDrop,
    /// Removal of the container from its network.
    PostgresDisconnect,
    /// A fault of the connections between nodes and Postgres. Needs
    /// [`Target::network`](super::Target::network).
    PostgresLink(Link),
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 53] = {
        let mut all = [Self::RedisKill; 53];
        let mut at = 0;
        while at < all.len() {
            all[at] = Self::NAMES[at].0;
            at += 1;
        }
        all
    };

    const NAMES: [(Self, &'static str); 53] = [
        (Self::RedisKill, "redis-kill"),
        (Self::RedisPause, "redis-pause"),
        (Self::RedisOldDump, "redis-old-dump"),
        (Self::RedisFlushAll, "redis-flush-all"),
        (Self::RedisEviction, "redis-eviction"),
        (Self::RedisOom, "redis-oom"),
        (Self::RedisAcl(Command::Info), "redis-acl-info"),
        (Self::RedisAcl(Command::Evalsha), "redis-acl-evalsha"),
        (Self::RedisAcl(Command::Set), "redis-acl-set"),
        (Self::RedisAcl(Command::Get), "redis-acl-get"),
        (Self::RedisAcl(Command::Client), "redis-acl-client"),
        (Self::RedisMisconf, "redis-misconf"),
        (Self::RedisClientPause, "redis-client-pause"),
        (Self::RedisClientPauseWrites, "redis-client-pause-writes"),
        (Self::RedisClientKill, "redis-client-kill"),
        (Self::RedisMaxClients, "redis-maxclients"),
        (Self::RedisFailover, "redis-failover"),
        (Self::RedisDemotion, "redis-demotion"),
        (Self::RedisClusterSlotMove, "redis-cluster-slot-move"),
        (Self::RedisClusterShardDown, "redis-cluster-shard-down"),
        (Self::RedisSentinelFailover, "redis-sentinel-failover"),
        (Self::RedisDisconnect, "redis-disconnect"),
        (Self::RedisLink(Link::Latency), "redis-link-latency"),
        (Self::RedisLink(Link::Blackhole), "redis-link-blackhole"),
        (Self::RedisLink(Link::Partition), "redis-link-partition"),
        (Self::RedisLink(Link::Down), "redis-link-down"),
        (Self::RedisLink(Link::Reset), "redis-link-reset"),
        (Self::RedisLink(Link::Idle), "redis-link-idle"),
        (Self::RedisLink(Link::Truncated), "redis-link-truncated"),
        (Self::RedisLink(Link::Sliced), "redis-link-sliced"),
        (Self::PostgresKill, "postgres-kill"),
        (Self::PostgresPause, "postgres-pause"),
        (Self::PostgresImmediateStop, "postgres-immediate-stop"),
        (Self::PostgresTerminate, "postgres-terminate"),
        (Self::PostgresConnectionLimit, "postgres-connection-limit"),
        (Self::PostgresCancel, "postgres-cancel"),
        (Self::PostgresTableLock, "postgres-table-lock"),
        (Self::PostgresRowLocks, "postgres-row-locks"),
        (Self::PostgresReadOnly, "postgres-read-only"),
        (Self::PostgresForcedRls, "postgres-forced-rls"),
        (Self::PostgresRevokedGrant, "postgres-revoked-grant"),
        (Self::PostgresOpenTransaction, "postgres-open-transaction"),
        (Self::PostgresFailover, "postgres-failover"),
        (Self::PostgresIdleDrop, "postgres-idle-drop"),
        (Self::PostgresDisconnect, "postgres-disconnect"),
        (Self::PostgresLink(Link::Latency), "postgres-link-latency"),
        (Self::PostgresLink(Link::Blackhole), "postgres-link-blackhole"),
        (Self::PostgresLink(Link::Partition), "postgres-link-partition"),
        (Self::PostgresLink(Link::Down), "postgres-link-down"),
        (Self::PostgresLink(Link::Reset), "postgres-link-reset"),
        (Self::PostgresLink(Link::Idle), "postgres-link-idle"),
        (Self::PostgresLink(Link::Truncated), "postgres-link-truncated"),
        (Self::PostgresLink(Link::Sliced), "postgres-link-sliced"),
    ];

    /// Returns the name, as in a command line.
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(fault, _)| *fault == self);
        found.map_or("unnamed", |(_, name)| name)
    }

    /// Returns whether the fault belongs to Redis. Otherwise it belongs to Postgres.
    pub fn is_redis(self) -> bool {
        self.name().starts_with("redis-")
    }

    /// Returns whether the fault is one of a cluster.
    pub fn is_of_cluster(self) -> bool {
        matches!(self, Self::RedisClusterSlotMove | Self::RedisClusterShardDown)
    }

    /// Returns whether the fault is one of connections and not of a server.
    pub fn is_of_connections(self) -> bool {
        self.link().is_some() || self == Self::PostgresIdleDrop
    }

    /// Returns the affected connections, if the fault is one of a [`Link`].
    pub(super) fn link(self) -> Option<(Peer, Link)> {
        match self {
            Self::RedisLink(link) => Some((Peer::Redis, link)),
            Self::PostgresLink(link) => Some((Peer::Postgres, link)),
            _ => None,
        }
    }
}

/// The error for a name that no fault or event has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown fault `{name}`: the faults are {}", .known.join(", "))]
pub struct UnknownFault {
    name: String,
    known: Vec<&'static str>,
}

/// Implements the conversions between a fault and its name.
macro_rules! named {
    ($fault:ident: $all:expr) => {
        impl std::fmt::Display for $fault {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $fault {
            type Err = $crate::faults::UnknownFault;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                let found = $all.find(|fault| fault.name() == name);
                found.ok_or_else(|| {
                    let known = $all.map(Self::name).collect();
                    $crate::faults::UnknownFault::new(name, known)
                })
            }
        }

        impl From<$fault> for String {
            fn from(fault: $fault) -> Self {
                fault.name().to_owned()
            }
        }

        impl TryFrom<String> for $fault {
            type Error = $crate::faults::UnknownFault;

            fn try_from(name: String) -> Result<Self, Self::Error> {
                name.parse()
            }
        }
    };
}
pub(crate) use named;

named!(Fault: Self::ALL.into_iter());

impl UnknownFault {
    pub(crate) fn new(name: &str, known: Vec<&'static str>) -> Self {
        Self { name: name.to_owned(), known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_parses_from_its_name() {
        let links = Fault::ALL.iter().filter(|fault| fault.link().is_some());
        assert_eq!(links.count(), 2 * Link::ALL.len());
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
            let json = serde_json::to_string(&fault).unwrap();
            assert_eq!(json, format!("\"{fault}\""));
            assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), fault);
        }
    }
}
