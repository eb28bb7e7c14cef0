//! The events of a schedule, and their names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    faults::{Fault, Link},
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

impl Lost {
    /// All kinds.
    pub const ALL: [Self; 4] =
        [Self::Unlinks, Self::UnlinkReplies, Self::Fences, Self::FenceReplies];
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

impl Planted {
    /// All values.
    pub const ALL: [Self; 5] =
        [Self::Garbage, Self::Swapped, Self::Oversized, Self::WrongType, Self::Flipped];
}

impl Event {
    /// Returns all events.
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::NodeRestart,
            Self::RandomTokens,
            Self::ClockStep,
            Self::PlainRevoke,
            Self::LateRevoke,
        ];
        let faults = Fault::ALL.into_iter().map(Self::Fault);
        faults.chain(Lost::ALL.map(Self::Lose)).chain(Planted::ALL.map(Self::Plant)).chain(others)
    }

    /// Returns the name, as on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.name(),
            Self::Lose(Lost::Unlinks) => "lose-unlinks",
            Self::Lose(Lost::UnlinkReplies) => "lose-unlink-replies",
            Self::Lose(Lost::Fences) => "lose-fences",
            Self::Lose(Lost::FenceReplies) => "lose-fence-replies",
            Self::NodeRestart => "node-restart",
            Self::RandomTokens => "random-tokens",
            Self::ClockStep => "clock-step",
            Self::Plant(Planted::Garbage) => "plant-garbage",
            Self::Plant(Planted::Swapped) => "plant-swapped",
            Self::Plant(Planted::Oversized) => "plant-oversized",
            Self::Plant(Planted::WrongType) => "plant-wrong-type",
            Self::Plant(Planted::Flipped) => "plant-flipped",
            Self::PlainRevoke => "plain-revoke",
            Self::LateRevoke => "late-revoke",
        }
    }

    /// Returns the server that the event damages, if any.
    #[must_use]
    pub fn server(self) -> Option<Peer> {
        match self {
            Self::Fault(Fault::RedisLink(_) | Fault::PostgresLink(_)) => None,
            Self::Fault(fault) if fault.is_redis() => Some(Peer::Redis),
            Self::Fault(_) => Some(Peer::Postgres),
            _ => None,
        }
    }

    /// Returns whether the event can affect some nodes only.
    #[must_use]
    pub fn affects_single_nodes(self) -> bool {
        matches!(
            self,
            Self::Fault(Fault::RedisLink(_) | Fault::PostgresLink(_))
                | Self::Lose(_)
                | Self::NodeRestart
        )
    }

    /// Returns the nodes that the event affects by default. `None`: all.
    #[must_use]
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

    /// Returns whether the event needs a sealing key, because without one Redis is trusted.
    pub(super) fn needs_key(self) -> bool {
        self == Self::Plant(Planted::Flipped)
    }

    /// Returns whether the event needs containers, because only they can leave their network.
    pub(super) fn needs_containers(self) -> bool {
        matches!(self, Self::Fault(Fault::RedisDisconnect | Fault::PostgresDisconnect))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error for a name that no event has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown fault `{name}`: the faults are {}", names())]
pub struct UnknownEventError {
    name: String,
}

fn names() -> String {
    Event::all().map(Event::name).collect::<Vec<_>>().join(", ")
}

impl FromStr for Event {
    type Err = UnknownEventError;

    fn from_str(name: &str) -> Result<Self, UnknownEventError> {
        let mut all = Self::all();
        all.find(|event| event.name() == name)
            .ok_or_else(|| UnknownEventError { name: name.to_owned() })
    }
}

impl From<Event> for String {
    fn from(event: Event) -> Self {
        event.name().to_owned()
    }
}

impl TryFrom<String> for Event {
    type Error = UnknownEventError;

    fn try_from(name: String) -> Result<Self, UnknownEventError> {
        name.parse()
    }
}

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
