//! Named faults of the connections between nodes and servers. [`Toxic`]s offer other parameters.

use std::time::Duration;

use super::{FaultError, Target};
use crate::proxy::{Peer, Toxic, ToxicGuard};

const MS: Duration = Duration::from_millis(1);
/// After this time a connection to Postgres is forgotten. A NAT takes minutes. The time exceeds
/// the 10 s after which session-layer pings an idle connection before it uses it.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(11);

/// A fault of the connections between all nodes and one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// Responses are delayed by 5 to 200 ms.
    Latency,
    /// No data passes on open connections. New connections work.
    Blackhole,
    /// No data passes between node 0 and the server. Other nodes are not affected.
    Partition,
    /// All connections are closed, including new ones.
    Down,
    /// Each connection is reset once.
    Reset,
    /// Idle connections are closed, as by a load balancer or by Redis' `timeout`. The limit is 20
    /// ms to Redis and 100 ms to Postgres, because under load no connection is idle for minutes.
    Idle,
    /// Each connection is closed after 100 more bytes of responses.
    Truncated,
    /// Responses arrive in pieces of 1 to 7 bytes.
    Sliced,
}

impl Link {
    /// All faults of connections.
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

    /// Returns whether the fault needs responses from the server to have an effect.
    pub(crate) fn needs_responses(self) -> bool {
        !matches!(self, Self::Partition | Self::Down)
    }

    fn toxic(self, peer: Peer) -> (Toxic, usize) {
        let all = usize::MAX;
        match self {
            // 102.5 ms ± 97.5 ms.
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

    /// Injects the toxic on the connections of the affected nodes.
    pub(super) fn inject(self, peer: Peer, target: &Target) -> Result<Vec<ToxicGuard>, FaultError> {
        let (toxic, nodes) = self.toxic(peer);
        inject_on(&toxic, nodes, peer, target)
    }
}

/// Makes connections to Postgres that are idle pass no more bytes.
pub(super) fn drop_idle(target: &Target) -> Result<Vec<ToxicGuard>, FaultError> {
    inject_on(&Toxic::forget_idle(FORGOTTEN_AFTER), usize::MAX, Peer::Postgres, target)
}

/// Injects a toxic on the connections of the target's nodes, or else of so many.
fn inject_on(
    toxic: &Toxic,
    nodes: usize,
    peer: Peer,
    target: &Target,
) -> Result<Vec<ToxicGuard>, FaultError> {
    let network = target.network.as_ref().ok_or_else(|| {
        let why = "the connections are unknown. Name them with `Target::network`";
        FaultError::Impossible(why.to_owned())
    })?;
    let affected = |node: &usize| match &target.nodes {
        Some(named) => named.contains(node),
        None => *node < nodes,
    };
    let proxies = network.proxies(peer).enumerate().filter(|(node, _)| affected(node));
    Ok(proxies.map(|(_, proxy)| proxy.inject(toxic.clone())).collect())
}
