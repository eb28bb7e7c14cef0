//! The proxies of several nodes, which make it possible to cut off one node alone.

use std::io;

use super::{Proxy, Toxic, ToxicGuard};

/// The server at the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Redis.
    Redis,
    /// Postgres.
    Postgres,
}

/// One proxy for each node and server.
///
/// # Examples
///
/// ```
/// use session_testkit::proxy::{Network, Peer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let network = Network::start(3, "127.0.0.1:6379", "127.0.0.1:5432").await?;
/// let url = network.proxy(1, Peer::Redis).url("redis://127.0.0.1:6379/0"); // for node 1
/// let partitioned = network.partition(1, Peer::Redis);
/// // … nodes 0 and 2 still reach Redis …
/// partitioned.heal();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Network {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    redis: Proxy,
    postgres: Proxy,
}

impl Network {
    /// Starts the proxies of `nodes` nodes in front of a Redis and a Postgres (`host:port`).
    ///
    /// # Errors
    ///
    /// If a port cannot be bound.
    pub async fn start(nodes: usize, redis: &str, postgres: &str) -> io::Result<Self> {
        let mut started = Vec::with_capacity(nodes);
        for _ in 0..nodes {
            started.push(Node {
                redis: Proxy::start(redis).await?,
                postgres: Proxy::start(postgres).await?,
            });
        }
        Ok(Self { nodes: started })
    }

    /// Returns the number of nodes.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the proxy between a node and a server.
    ///
    /// # Panics
    ///
    /// If there is no such node. Nodes are numbered from 0.
    pub fn proxy(&self, node: usize, peer: Peer) -> &Proxy {
        let node = &self.nodes[node];
        match peer {
            Peer::Redis => &node.redis,
            Peer::Postgres => &node.postgres,
        }
    }

    /// Returns the proxies in front of a server, one per node.
    pub fn proxies(&self, peer: Peer) -> impl Iterator<Item = &Proxy> {
        (0..self.nodes()).map(move |node| self.proxy(node, peer))
    }

    /// Stops all bytes between this node and this server, on old and new connections. The held
    /// bytes are delivered when the guard heals, as TCP does.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn partition(&self, node: usize, peer: Peer) -> ToxicGuard {
        self.proxy(node, peer).inject(Toxic::hold())
    }

    /// Directs all nodes' new connections to another server, for example after a failover.
    pub fn set_target(&self, peer: Peer, target: &str) {
        for proxy in self.proxies(peer) {
            proxy.set_target(target);
        }
    }
}
