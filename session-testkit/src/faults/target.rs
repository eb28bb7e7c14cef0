//! The target of a fault.

use std::sync::Arc;

use super::{Fault, FaultError};
use crate::{
    backends::{Backends, Cluster, PostgresServer, RedisServer, Sentinels},
    proxy::Network,
};

/// The servers of a service under test, and the facts about the service that a fault needs.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) redis: RedisServer,
    pub(super) postgres: PostgresServer,
    pub(super) replica: Option<RedisServer>,
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) sentinels: Option<Arc<Sentinels>>,
    pub(super) standby: Option<PostgresServer>,
    pub(super) network: Option<Arc<Network>>,
    pub(super) nodes: Option<Vec<usize>>,
    pub(super) redis_user: String,
    pub(super) role: Option<String>,
    schema: Option<String>,
}

impl Target {
    /// Creates a target. Its servers remain until the target and its guards are dropped.
    #[must_use]
    pub fn new(backends: &Backends) -> Self {
        Self {
            redis: backends.redis().clone(),
            postgres: backends.postgres().clone(),
            replica: None,
            cluster: None,
            sentinels: None,
            standby: None,
            network: None,
            nodes: None,
            redis_user: "default".to_owned(),
            role: None,
            schema: None,
        }
    }

    /// Sets the Redis that takes over in a failover. Defaults to none.
    #[must_use]
    pub fn replica(mut self, replica: &RedisServer) -> Self {
        self.replica = Some(replica.clone());
        self
    }

    /// Sets the cluster that the service uses in the place of the Redis. Defaults to none. Faults
    /// of a cluster need it.
    #[must_use]
    pub fn cluster(mut self, cluster: Arc<Cluster>) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Sets the sentinels through which the service finds its Redis. Defaults to none. Their
    /// failover needs them.
    #[must_use]
    pub fn sentinels(mut self, sentinels: Arc<Sentinels>) -> Self {
        self.sentinels = Some(sentinels);
        self
    }

    /// Sets the standby that streams from the Postgres and takes over in a failover. Defaults to
    /// none.
    #[must_use]
    pub fn standby(mut self, standby: &PostgresServer) -> Self {
        self.standby = Some(standby.clone());
        self
    }

    /// Sets the proxies that follow the master or the primary in a failover. Defaults to none.
    #[must_use]
    pub fn network(mut self, network: Arc<Network>) -> Self {
        self.network = Some(network);
        self
    }

    /// Sets the nodes that faults of connections affect. Defaults to the nodes of the
    /// [`Link`](super::Link): all, or node 0 for a partition.
    #[must_use]
    pub fn nodes(mut self, nodes: impl IntoIterator<Item = usize>) -> Self {
        self.nodes = Some(nodes.into_iter().collect());
        self
    }

    /// Sets the Redis user of the service. Defaults to `default`.
    #[must_use]
    pub fn redis_user(mut self, user: impl Into<String>) -> Self {
        self.redis_user = user.into();
        self
    }

    /// Sets the Postgres role of the service. Defaults to the role in the server's URL.
    #[must_use]
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// Sets the schema of the service's tables. Defaults to none. Faults of tables need it.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// Returns the Redis that a fault affects: in a cluster, the master of the first shard. Behind
    /// sentinels, their master changes, so the fault finds it.
    pub(super) fn redis_of(&self, fault: Fault) -> &RedisServer {
        let cluster = self.cluster.as_ref().filter(|_| fault.is_of_cluster());
        cluster.and_then(|cluster| cluster.masters().first()).unwrap_or(&self.redis)
    }

    /// Returns the schema of the service's tables.
    pub(super) fn tables(&self) -> Result<&str, FaultError> {
        self.schema.as_deref().ok_or_else(|| {
            let why = "the tables are unknown. Name their schema with `Target::schema`";
            FaultError::Impossible(why.to_owned())
        })
    }
}
