//! The events of a schedule, and their names.

use serde::{Deserialize, Serialize};

use crate::{
    faults::{Fault, Link, named},
    proxy::Peer,
};

/// An event of a schedule. Its text is its name: `redis-kill`, `lose-unlinks`, `node-restart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Event {
    /// A fault of a server, or of the links to it.
    Fault(Fault),
    /// Some commands of one kind, or their replies, are lost together with their connection. The
    /// seed selects about one in 50.
    Lose(Lost),
    /// Nodes restart one after the other, one every half second.
    NodeRestart,
    /// Clients send 500 additional validates of random tokens per second, to all nodes.
    RandomTokens,
    /// The nodes' wall clock steps 10 minutes forward, and back at the end. The servers' clocks do
    /// not. It needs a process whose clock [is steppable](crate::wall_clock::is_steppable), and is
    /// never drawn.
    ClockStep,
    /// A client writes values under keys in use, 20 per second. Each stays for 5 s at most.
    Plant(Planted),
    /// An operator revokes 10 sessions per second by direct SQL, each in its own transaction.
    PlainRevoke,
    /// An operator revokes 5 sessions by direct SQL in one transaction. It commits when the event
    /// ends, after other commits.
    LateRevoke,
    /// The tokens of the nodes expire after 8 s, for both servers. A new one is issued every 4 s.
    /// Redis then closes the connections of the expired one. Postgres refuses new ones with it, and
    /// an operator ends its idle connections. It needs a deployment [with
    /// tokens](crate::deployment::DeploymentBuilder::tokens).
    CredentialsExpire,
    /// The certificates of both servers expire, and the connections to Redis end. New connections
    /// fail with that reason. Healing renews the certificates. It needs a deployment [with
    /// TLS](crate::deployment::DeploymentBuilder::tls).
    CertificateExpire,
}

/// The form of the Redis that an event needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topology {
    /// One server behind proxies.
    Single,
    /// A cluster.
    Cluster,
    /// Sentinels with a master and a replica.
    Sentinels,
}

/// The kind of command or reply that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// UNLINK, which removes an entry.
    Unlinks,
    /// The reply to an UNLINK.
    UnlinkReplies,
    /// The fence before a change.
    Fences,
    /// The reply to a fence.
    FenceReplies,
}

/// The value that is written into Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// Bytes without a meaning.
    Garbage,
    /// Another session's entry.
    Swapped,
    /// 256 KiB, four times what a session may hold.
    Oversized,
    /// A list.
    WrongType,
    /// The entry with one flipped bit. It needs a deployment [with a sealing
    /// key](crate::deployment::DeploymentBuilder::sealed), because without one Redis is trusted.
    Flipped,
}

/// The events that are no faults of servers or links.
const OTHERS: [(Event, &str); 16] = [
    (Event::Lose(Lost::Unlinks), "lose-unlinks"),
    (Event::Lose(Lost::UnlinkReplies), "lose-unlink-replies"),
    (Event::Lose(Lost::Fences), "lose-fences"),
    (Event::Lose(Lost::FenceReplies), "lose-fence-replies"),
    (Event::Plant(Planted::Garbage), "plant-garbage"),
    (Event::Plant(Planted::Swapped), "plant-swapped"),
    (Event::Plant(Planted::Oversized), "plant-oversized"),
    (Event::Plant(Planted::WrongType), "plant-wrong-type"),
    (Event::Plant(Planted::Flipped), "plant-flipped"),
    (Event::NodeRestart, "node-restart"),
    (Event::RandomTokens, "random-tokens"),
    (Event::ClockStep, "clock-step"),
    (Event::PlainRevoke, "plain-revoke"),
    (Event::LateRevoke, "late-revoke"),
    (Event::CredentialsExpire, "credentials-expire"),
    (Event::CertificateExpire, "certificate-expire"),
];

impl Event {
    /// Returns all events.
    pub fn all() -> impl Iterator<Item = Self> {
        Fault::ALL.into_iter().map(Self::Fault).chain(OTHERS.map(|(event, _)| event))
    }

    /// Returns the name, as on a command line.
    pub fn name(self) -> &'static str {
        if let Self::Fault(fault) = self {
            return fault.name();
        }
        let found = OTHERS.iter().find(|(event, _)| *event == self);
        found.map_or("unnamed", |(_, name)| name)
    }

    /// Returns the server that the event damages, if any.
    pub fn server(self) -> Option<Peer> {
        match self {
            Self::Fault(fault) if fault.is_of_connections() => None,
            Self::Fault(fault) if fault.is_redis() => Some(Peer::Redis),
            Self::Fault(_) => Some(Peer::Postgres),
            _ => None,
        }
    }

    /// Returns whether the event can affect some nodes only.
    pub fn affects_single_nodes(self) -> bool {
        match self {
            Self::Fault(fault) => fault.is_of_connections(),
            Self::Lose(_) | Self::NodeRestart => true,
            _ => false,
        }
    }

    /// Returns the nodes that the event affects by default. `None`: all.
    pub fn default_nodes(self) -> Option<Vec<u32>> {
        let partition = matches!(
            self,
            Self::Fault(Fault::RedisLink(Link::Partition) | Fault::PostgresLink(Link::Partition))
        );
        partition.then(|| vec![0])
    }

    pub(super) fn needs_replica(self) -> bool {
        matches!(self, Self::Fault(Fault::RedisFailover | Fault::RedisDemotion))
    }

    /// Returns the form of the Redis that the event needs. `None`: it suits each.
    pub(super) fn topology(self) -> Option<Topology> {
        match self {
            Self::Fault(fault) if fault.is_of_cluster() => Some(Topology::Cluster),
            Self::Fault(Fault::RedisSentinelFailover) => Some(Topology::Sentinels),
            Self::Fault(fault) => fault.is_redis().then_some(Topology::Single),
            Self::Lose(_) | Self::Plant(_) | Self::CredentialsExpire | Self::CertificateExpire => {
                Some(Topology::Single)
            }
            _ => None,
        }
    }

    /// Returns whether the event needs a standby of the Postgres.
    pub(super) fn needs_standby(self) -> bool {
        self == Self::Fault(Fault::PostgresFailover)
    }

    /// Returns whether a schedule may be drawn with the event. Others need a deployment of their
    /// own, or more time than a drawn event has.
    pub(super) fn is_drawable(self) -> bool {
        let is_special = matches!(self.topology(), Some(Topology::Cluster | Topology::Sentinels));
        let others = [
            Self::Fault(Fault::PostgresFailover),
            Self::Fault(Fault::PostgresIdleDrop),
            Self::ClockStep,
            Self::CredentialsExpire,
            Self::CertificateExpire,
        ];
        !is_special && !others.contains(&self)
    }

    /// Returns whether the event needs a sealing key, because without one Redis is trusted.
    pub(super) fn needs_key(self) -> bool {
        self == Self::Plant(Planted::Flipped)
    }

    /// Returns whether the event needs containers, because only they can leave their network.
    pub(super) fn needs_containers(self) -> bool {
        matches!(self, Self::Fault(Fault::RedisDisconnect | Fault::PostgresDisconnect))
    }
}

named!(Event: Self::all());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_name_parses_to_the_same_event() {
        for event in Event::all() {
            assert_eq!(event.to_string().parse(), Ok(event));
        }
        let unknown = "redis-kil".parse::<Event>().unwrap_err();
        assert!(unknown.to_string().contains("redis-kill, "), "{unknown}");
        assert!(unknown.to_string().contains("late-revoke"), "{unknown}");
    }
}
