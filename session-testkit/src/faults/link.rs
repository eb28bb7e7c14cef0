//! Faults of the lines between nodes and servers, by name; with other numbers they are
//! [`Toxic`]s.

use std::time::Duration;

use super::{
    Fault, FaultError, Target,
    guard::{FaultGuard, Undo},
};
use crate::proxy::{Peer, Toxic};

const MS: Duration = Duration::from_millis(1);

/// What happens to the lines between all nodes and one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// Answers come 5 to 200 ms later.
    Latency,
    /// Nothing passes on the connections that are open now; new ones work.
    Blackhole,
    /// Nothing passes between node 0 and the server; the other nodes see it.
    Partition,
    /// Connections are closed, new ones too.
    Down,
    /// Each connection is reset, once.
    Reset,
    /// Connections are closed that have carried nothing for a while, as a load balancer does, or Redis with its
    /// `timeout`. A while is 20 ms to Redis and 100 ms to Postgres: under load none is idle for minutes.
    Idle,
    /// Each connection is closed after 100 more bytes of answers.
    Truncated,
    /// Answers come in pieces of 1 to 7 bytes.
    Sliced,
}

impl Link {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Latency,
        Self::Blackhole,
        Self::Partition,
        Self::Down,
        Self::Reset,
        Self::Idle,
        Self::Truncated,
        Self::Sliced,
    ];

    /// Does it do nothing to a server that does not answer?
    pub(crate) fn needs_answers(self) -> bool {
        !matches!(self, Self::Partition | Self::Down)
    }

    /// Its toxic, and on how many nodes.
    fn toxic(self, peer: Peer) -> (Toxic, usize) {
        let all = usize::MAX;
        match self {
            // 102.5 ms give or take 97.5 ms.
            Self::Latency => (Toxic::latency(205 * MS / 2, 195 * MS / 2), all),
            Self::Blackhole => (Toxic::blackhole(), all),
            Self::Partition => (Toxic::hold(), 1),
            Self::Down => (Toxic::down(), all),
            Self::Reset => (Toxic::reset_peer(Duration::ZERO).established(), all),
            Self::Idle => match peer {
                Peer::Redis => (Toxic::idle(20 * MS), all),
                Peer::Postgres => (Toxic::idle(100 * MS), all),
            },
            Self::Truncated => (Toxic::limit_data(100), all),
            Self::Sliced => (Toxic::slicer(4, 3, Duration::ZERO), all),
        }
    }
}

pub(super) fn inject(
    fault: Fault,
    (peer, link): (Peer, Link),
    target: &Target,
    mut guard: FaultGuard,
) -> Result<FaultGuard, FaultError> {
    let network = target.network.as_ref();
    let network = network.ok_or_else(|| FaultError::Impossible {
        fault,
        why: "on which lines? Say so with `Target::network`".to_owned(),
    })?;
    let (toxic, nodes) = link.toxic(peer);
    let proxies = network.proxies(peer).enumerate().filter(|(node, _)| {
        let named = target.nodes.as_ref();
        named.map_or(*node < nodes, |named| named.contains(node))
    });
    guard.undo = Undo::Toxics(
        proxies
            .map(|(_, proxy)| proxy.inject(toxic.clone()))
            .collect(),
    );
    Ok(guard)
}
