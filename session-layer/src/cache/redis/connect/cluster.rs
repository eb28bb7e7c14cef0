//! The nodes of a cluster, and the slots that they report.

use std::fmt;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::failure::{self, ConnectError};
use super::{Address, Connector, Server, within};
use crate::cache::redis::slots::SlotMap;

/// The nodes of a cluster that the URL names.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) first: Address,
    pub(super) others: Vec<Address>,
}

impl Nodes {
    fn all(&self) -> impl Iterator<Item = &Address> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cluster of the nodes")?;
        self.all().try_for_each(|address| write!(f, " {address}"))
    }
}

impl Connector {
    /// Reads the slots from the first node of the URL that reports them.
    pub(in crate::cache::redis) async fn find_slots(
        &self,
        limit: Duration,
    ) -> Result<SlotMap, ConnectError> {
        let nodes = match &self.server {
            Server::Cluster(nodes) => nodes.all().collect(),
            Server::At(_) | Server::Behind(_) | Server::Node(_) => Vec::new(),
        };
        let asking = nodes.into_iter().map(|at| async move {
            // The connection must live until the reply.
            let connected = self.to_node(at.clone()).connect(limit).await?;
            read_slots(&connected.connection.commands, at, limit).await
        });
        let mut asking: FuturesUnordered<_> = asking.collect();
        let mut failed = None;
        while let Some(answer) = asking.next().await {
            match answer {
                Ok(map) if !map.ranges().is_empty() => return Ok(map),
                Ok(_) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| failure::not_served(&self.server)))
    }
}

/// Reads the slots from a node. `at` is its address, which a node that does not know its own leaves
/// out.
pub(in crate::cache::redis) async fn read_slots(
    connection: &MultiplexedConnection,
    at: &Address,
    limit: Duration,
) -> Result<SlotMap, ConnectError> {
    let mut connection = connection.clone();
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let asked = command.query_async::<Value>(&mut connection);
    let reply = within(Instant::now() + limit, asked).await;
    let reply = reply.ok_or_else(|| failure::timed_out(at, "CLUSTER SLOTS"))?;
    let reply = reply.map_err(|error| failure::slots(at, error))?;
    SlotMap::parse(&reply, at).ok_or_else(|| failure::unreadable_slots(at))
}
