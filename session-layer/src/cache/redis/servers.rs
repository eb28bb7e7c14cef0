//! The servers that have the keys: one Redis, or the shards of a cluster.

use std::sync::Arc;

use redis::RedisError;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::shard::Shard;
use crate::cache::{CacheId, CacheIdentity};
use crate::model::error::CacheError;

#[derive(Debug)]
pub(super) enum Servers {
    /// One Redis that has all keys.
    One(Arc<Shard>),
    Cluster {
        cluster: Arc<Cluster>,
        /// The cache that the nodes register. It does not depend on incarnations, because no change
        /// is `Propagated`, and a failover of one shard must not stop the hits of the others.
        id: CacheId,
    },
}

impl Servers {
    /// Returns the server that has this key.
    pub(super) async fn shard_of(
        &self,
        key: &[u8],
        deadline: Instant,
    ) -> Result<Arc<Shard>, CacheError> {
        match self {
            Self::One(shard) => Ok(Arc::clone(shard)),
            Self::Cluster { cluster, .. } => cluster.shard_of(key, deadline).await,
        }
    }

    /// Returns the one server that has all keys.
    pub(super) fn only(&self) -> Option<&Arc<Shard>> {
        match self {
            Self::One(shard) => Some(shard),
            Self::Cluster { .. } => None,
        }
    }

    /// Returns every server.
    pub(super) fn all(&self) -> Vec<Arc<Shard>> {
        match self {
            Self::One(shard) => vec![Arc::clone(shard)],
            Self::Cluster { cluster, .. } => cluster.shards(),
        }
    }

    /// Returns every server with a key that it has. `key` makes keys from numbers.
    pub(super) fn with_keys(
        &self,
        key: impl Fn(u32) -> String,
    ) -> Result<Vec<(Arc<Shard>, String)>, CacheError> {
        match self {
            Self::One(shard) => Ok(vec![(Arc::clone(shard), key(0))]),
            Self::Cluster { cluster, .. } => cluster.with_keys(key),
        }
    }

    /// Returns whether the error of a command means that a cluster has the key elsewhere. The next
    /// command for the key goes there.
    pub(super) fn redirects(&self, error: &RedisError) -> bool {
        match self {
            Self::One(_) => false,
            Self::Cluster { cluster, .. } => cluster.redirects(error),
        }
    }

    /// Adds the name of the shard to an error.
    pub(super) fn explain(&self, shard: &Arc<Shard>, error: CacheError) -> CacheError {
        match self {
            Self::One(_) => error,
            Self::Cluster { cluster, .. } => cluster.explain(shard, error),
        }
    }

    /// Groups these keys by the server that has them. The keys are given by their index. Also
    /// returns the error of the first key that has none.
    pub(super) async fn group(
        &self,
        keys: impl Iterator<Item = &[u8]>,
        deadline: Instant,
    ) -> (Vec<(Arc<Shard>, Vec<usize>)>, Option<CacheError>) {
        let mut groups: Vec<(Arc<Shard>, Vec<usize>)> = Vec::new();
        let mut failed = None;
        for (at, key) in keys.enumerate() {
            match self.shard_of(key, deadline).await {
                Ok(shard) => match groups.iter_mut().find(|(it, _)| Arc::ptr_eq(it, &shard)) {
                    Some((_, group)) => group.push(at),
                    None => groups.push((shard, vec![at])),
                },
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        (groups, failed)
    }

    pub(super) fn identity(&self) -> CacheIdentity {
        let id = match self {
            Self::One(shard) => shard.links.settled().map(|settled| settled.cache),
            Self::Cluster { cluster, id } => cluster.is_settled().then_some(*id),
        };
        id.map_or(CacheIdentity::Unsettled, CacheIdentity::Shared)
    }

    pub(super) async fn close(&self) {
        match self {
            Self::One(shard) => shard.links.close().await,
            Self::Cluster { cluster, .. } => cluster.close().await,
        }
    }
}
