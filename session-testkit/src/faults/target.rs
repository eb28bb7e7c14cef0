//! To whom a fault happens.

use std::sync::Arc;

use super::{Fault, FaultError};
use crate::{
    backends::{Backends, PostgresServer, RedisServer},
    proxy::Network,
};

/// The servers of a service under test, and what a fault has to know about the service.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) redis: RedisServer,
    pub(super) postgres: PostgresServer,
    pub(super) replica: Option<RedisServer>,
    pub(super) network: Option<Arc<Network>>,
    pub(super) nodes: Option<Vec<usize>>,
    pub(super) redis_user: String,
    pub(super) role: Option<String>,
    schema: Option<String>,
}

impl Target {
    /// A pair of servers, which live on at least until this and its guards are dropped.
    #[must_use]
    pub fn new(backends: &Backends) -> Self {
        Self {
            redis: backends.redis().clone(),
            postgres: backends.postgres().clone(),
            replica: None,
            network: None,
            nodes: None,
            redis_user: "default".to_owned(),
            role: None,
            schema: None,
        }
    }

    /// The Redis that takes over in a failover. Defaults to none.
    #[must_use]
    pub fn replica(mut self, replica: &RedisServer) -> Self {
        self.replica = Some(replica.clone());
        self
    }

    /// The proxies that follow the master in a failover. Defaults to none.
    #[must_use]
    pub fn network(mut self, network: Arc<Network>) -> Self {
        self.network = Some(network);
        self
    }

    /// Faults of lines happen to these nodes alone. Defaults to what the [`Link`](super::Link) says:
    /// all, or node 0 for a partition.
    #[must_use]
    pub fn nodes(mut self, nodes: impl IntoIterator<Item = usize>) -> Self {
        self.nodes = Some(nodes.into_iter().collect());
        self
    }

    /// The Redis user that the service connects as. Defaults to `default`.
    #[must_use]
    pub fn redis_user(mut self, user: impl Into<String>) -> Self {
        self.redis_user = user.into();
        self
    }

    /// The Postgres role that the service connects as. Defaults to the one in the server's URL.
    #[must_use]
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// The schema that the service's tables are in. Defaults to none, and faults of tables are
    /// refused.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    pub(super) fn schema_for(&self, fault: Fault) -> Result<&str, FaultError> {
        self.schema
            .as_deref()
            .ok_or_else(|| FaultError::Impossible {
                fault,
                why: "whose tables? Say so with `Target::schema`".to_owned(),
            })
    }
}
