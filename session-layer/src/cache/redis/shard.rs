//! One server that has keys: its connections, and the look-ups that wait for it. A cluster has
//! several.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool::managed;
use tokio_util::sync::DropGuard;

use super::batch::{Batches, Lookups};
use super::connect::{Address, Connector, SUPERVISOR_TIMEOUT, read_slots};
use super::links::Links;
use super::slots::SlotMap;

/// A server, and everything that this node has of it.
#[derive(Debug)]
pub(super) struct Shard {
    /// The address of a shard of a cluster.
    address: Option<Address>,
    pub(super) links: Arc<Links>,
    pub(super) lookups: Arc<Lookups>,
    /// Whether the log has reported that it is down.
    is_reported: AtomicBool,
    /// Stops the supervisor of the links.
    _stop: DropGuard,
}

/// The settings that all shards share.
#[derive(Debug, Clone)]
pub(super) struct ShardSettings {
    /// What identifies the cache within an incarnation.
    pub(super) place: Box<[u8]>,
    /// The maximum number of links to each.
    pub(super) size: usize,
    pub(super) deadline: Duration,
}

impl Shard {
    /// Opens the links to a server that has all keys. Must be called within a runtime.
    pub(super) fn single(
        connector: Connector,
        settings: ShardSettings,
    ) -> Result<Arc<Self>, managed::BuildError> {
        Self::open(connector, settings, None, Batches::Mget)
    }

    /// Opens the links to a node of a cluster. Must be called within a runtime.
    pub(super) fn of_cluster(
        connector: Connector,
        settings: ShardSettings,
        address: Address,
    ) -> Result<Arc<Self>, managed::BuildError> {
        Self::open(connector, settings, Some(address), Batches::Gets)
    }

    fn open(
        connector: Connector,
        ShardSettings { place, size, deadline }: ShardSettings,
        address: Option<Address>,
        batches: Batches,
    ) -> Result<Arc<Self>, managed::BuildError> {
        let links = Links::open(connector, place, size, deadline)?;
        Ok(Arc::new(Self {
            address,
            _stop: links.stop_on_drop(),
            lookups: Lookups::start(Arc::clone(&links), batches),
            links,
            is_reported: AtomicBool::new(false),
        }))
    }

    /// Returns the address of a shard of a cluster.
    pub(super) fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// Returns whether a command could be executed now.
    pub(super) fn is_usable(&self) -> bool {
        self.links.count().0 > 0
    }

    /// Logs that the shard of a cluster is down, and that it is up again.
    pub(super) fn log_state(&self) {
        let is_down = !self.is_usable();
        let Some(shard) = self.address() else { return };
        match (self.is_reported.swap(is_down, Ordering::Relaxed), is_down) {
            (false, true) => tracing::warn!(
                %shard,
                "a shard of the Redis cluster has no usable connection: its sessions are read from \
                 the store"
            ),
            (true, false) => tracing::info!(%shard, "the shard of the Redis cluster is used again"),
            _ => {}
        }
    }

    /// Returns the slots of the cluster as this shard reports them, if it replies.
    pub(super) async fn report_slots(&self) -> Option<SlotMap> {
        let (link, address) = (self.links.least_busy()?, self.address.as_ref()?);
        let connection = link.0.connection();
        let map = read_slots(&connection, address, SUPERVISOR_TIMEOUT).await.ok()?;
        (!map.ranges().is_empty()).then_some(map)
    }
}
