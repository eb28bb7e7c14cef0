//! What can happen to a deployment, by name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    faults::{Fault, Link},
    proxy::Peer,
};

/// What can happen to a deployment. Written as in `redis-kill`, `lose-unlinks`, `node-restart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Event {
    /// A fault of a server, or of the lines that lead there.
    Fault(Fault),
    /// Some commands of one kind are lost on their way to Redis, or their replies on the way back: of 50
    /// about one, chosen by the seed. The connection goes with them.
    Lose(Lost),
    /// Nodes restart, one after the other, each half second.
    NodeRestart,
    /// 500 more validates of random tokens in each second, on all nodes.
    RandomTokens,
    /// The nodes' wall clock is stepped 10 minutes forward, and back at its end; the servers' clocks are not. Needs
    /// a process whose clock [can be stepped](crate::wall_clock::is_steppable); it is never drawn.
    ClockStep,
    /// Something is put under keys that are in use, 20 times in each second, for 5 s at most.
    Plant(Planted),
    /// Somebody ends sessions by plain SQL, 10 in each second, each in a transaction of its own.
    PlainRevoke,
    /// Somebody ends 5 sessions by plain SQL in one transaction, and commits it when the event ends, while
    /// others commit.
    LateRevoke,
}

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// UNLINK, by which a copy is removed.
    Unlinks,
    /// What Redis answers to an UNLINK.
    UnlinkReplies,
    /// The fence that is put before a change.
    Fences,
    /// What Redis answers to a fence.
    FenceReplies,
}

impl Lost {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Unlinks,
        Self::UnlinkReplies,
        Self::Fences,
        Self::FenceReplies,
    ];
}

/// What is put into Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// Bytes that mean nothing.
    Garbage,
    /// Another session's entry.
    Swapped,
    /// 256 KiB, four times what a session may hold.
    Oversized,
    /// A list.
    WrongType,
    /// The entry itself with one bit turned over. Without a key to seal entries with, Redis is trusted, so this is
    /// for a deployment that [has one](crate::deployment::DeploymentBuilder::sealed).
    Flipped,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Garbage,
        Self::Swapped,
        Self::Oversized,
        Self::WrongType,
        Self::Flipped,
    ];
}

impl Event {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::NodeRestart,
            Self::RandomTokens,
            Self::ClockStep,
            Self::PlainRevoke,
            Self::LateRevoke,
        ];
        let faults = Fault::ALL.into_iter().map(Self::Fault);
        faults
            .chain(Lost::ALL.map(Self::Lose))
            .chain(Planted::ALL.map(Self::Plant))
            .chain(others)
    }

    /// Its name, as in a command line.
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

    /// The server that it does damage to, if it does to one.
    #[must_use]
    pub fn server(self) -> Option<Peer> {
        match self {
            Self::Fault(Fault::RedisLink(_) | Fault::PostgresLink(_)) => None,
            Self::Fault(fault) if fault.is_redis() => Some(Peer::Redis),
            Self::Fault(_) => Some(Peer::Postgres),
            _ => None,
        }
    }

    /// Can it happen to some nodes and spare others?
    #[must_use]
    pub fn is_of_nodes(self) -> bool {
        matches!(
            self,
            Self::Fault(Fault::RedisLink(_) | Fault::PostgresLink(_))
                | Self::Lose(_)
                | Self::NodeRestart
        )
    }

    /// Which nodes feel it where nothing else is said; `None`: all.
    #[must_use]
    pub fn usually_felt_by(self) -> Option<Vec<u32>> {
        let partition = matches!(
            self,
            Self::Fault(Fault::RedisLink(Link::Partition) | Fault::PostgresLink(Link::Partition))
        );
        partition.then(|| vec![0])
    }

    pub(super) fn needs_replica(self) -> bool {
        matches!(
            self,
            Self::Fault(Fault::RedisFailover | Fault::RedisDemotion)
        )
    }

    /// Without a key to seal entries with, Redis is trusted.
    pub(super) fn needs_key(self) -> bool {
        self == Self::Plant(Planted::Flipped)
    }

    /// Only containers can leave their network.
    pub(super) fn needs_containers(self) -> bool {
        matches!(
            self,
            Self::Fault(Fault::RedisDisconnect | Fault::PostgresDisconnect)
        )
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Nothing has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault `{name}`; there are {}", names())]
pub struct UnknownEvent {
    name: String,
}

fn names() -> String {
    Event::all().map(Event::name).collect::<Vec<_>>().join(", ")
}

impl FromStr for Event {
    type Err = UnknownEvent;

    fn from_str(name: &str) -> Result<Self, UnknownEvent> {
        let mut all = Self::all();
        all.find(|event| event.name() == name)
            .ok_or_else(|| UnknownEvent {
                name: name.to_owned(),
            })
    }
}

impl From<Event> for String {
    fn from(event: Event) -> Self {
        event.name().to_owned()
    }
}

impl TryFrom<String> for Event {
    type Error = UnknownEvent;

    fn try_from(name: String) -> Result<Self, UnknownEvent> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_found_by_its_own_name() {
        for event in Event::all() {
            assert_eq!(event.to_string().parse(), Ok(event));
        }
        let unknown = "redis-kil".parse::<Event>().unwrap_err();
        assert!(unknown.to_string().contains("redis-kill, "), "{unknown}");
        assert!(unknown.to_string().contains("late-revoke"), "{unknown}");
    }
}
