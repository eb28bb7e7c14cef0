//! A complete service under test: several nodes of session-layer. Each has its own cache and store
//! behind its own proxies, and a Postgres role with few rights.
//!
//! The settings are those of production: 50 ms for Redis, 250 ms per validation, 10 connections to
//! each server. Only the TTL may differ, because a run waits for the last entry's expiry and can't
//! wait for 300 s.

mod builder;
mod tls;
mod tokens;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use session_layer::connect::TlsSettings;
use session_layer::store::{DEFAULT_CHANGE_DEADLINE, PostgresStore};
use session_layer::{PartitionPolicy, SealingKeys, Sessions, cache::RedisCache};

pub use self::{builder::DeploymentBuilder, tls::Certificates, tokens::TokenIssuer};
use crate::{
    backends::{BackendError, Backends, Cluster, RedisServer, Sandbox, Sentinels},
    faults::Target,
    proxy::{Network, Peer},
    subject::SessionLayerSubject,
    workload::Failure,
};

/// The maximum number of a node's connections to each server.
pub const POOL_SIZE: u32 = 10;

/// A service under test. Dropping it removes its data on given servers.
pub struct Deployment {
    // The fields are in drop order.
    subject: SessionLayerSubject,
    network: Arc<Network>,
    blueprint: Arc<Blueprint>,
    target: Target,
    sandbox: Sandbox,
    replica: Option<RedisServer>,
    cluster: Option<Arc<Cluster>>,
    sentinels: Option<Arc<Sentinels>>,
    tokens: Option<TokenIssuer>,
    certificates: Option<Arc<Certificates>>,
    backends: Backends,
}

/// The parts of a node.
#[derive(Clone)]
pub struct NodeParts {
    node: u32,
    /// The URLs lead through the node's proxies.
    redis_url: String,
    database_url: String,
    namespace: String,
    schema: String,
    /// The TTL of an entry.
    pub ttl: Duration,
    redis_deadline: Duration,
    /// The timeout of a validation.
    pub budget: Duration,
    /// The policy of a partitioned node.
    pub policy: PartitionPolicy,
    /// The bytes of the node's near cache. 0: it has none.
    pub near_cache: usize,
    replicated: bool,
    keys: Option<SealingKeys>,
    /// The source of the user and the password, unless the URLs have them.
    tokens: Option<TokenIssuer>,
    tls: TlsSettings,
}

impl fmt::Debug for NodeParts {
    /// Omits the URLs, which contain passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeParts({} of {})", self.node, self.namespace)
    }
}

impl NodeParts {
    /// Builds the cache as in production.
    ///
    /// # Errors
    /// As [`build`](session_layer::cache::RedisCacheBuilder::build).
    pub fn cache(&self) -> Result<RedisCache, Failure> {
        let builder = RedisCache::builder(&self.redis_url)
            .namespace(&self.namespace)
            .pool_size(POOL_SIZE as usize)
            .deadline(self.redis_deadline)
            .replicated(self.replicated);
        let builder = match &self.keys {
            Some(keys) => builder.encryption_keys(keys.clone()),
            None => builder,
        };
        let builder = match &self.tokens {
            Some(tokens) => builder.credentials(tokens.clone()),
            None => builder,
        };
        Ok(builder.tls(self.tls.clone()).build()?)
    }

    /// Returns the timeout of a validation's read: 200 ms of a budget of 250 ms.
    pub fn read_deadline(&self) -> Duration {
        self.budget * 4 / 5
    }

    /// Builds the store as in production.
    ///
    /// # Errors
    /// As [`PostgresStoreBuilder::build`](session_layer::store::PostgresStoreBuilder::build).
    pub fn store(&self) -> Result<PostgresStore, Failure> {
        let builder = PostgresStore::builder(&self.database_url)
            .schema(&self.schema)
            .max_connections(POOL_SIZE)
            .read_deadline(self.read_deadline())
            // 2 s, or more if the budget is longer for a slow machine.
            .change_deadline(DEFAULT_CHANGE_DEADLINE.max(self.budget * 4));
        let builder = match &self.tokens {
            Some(tokens) => builder.credentials(tokens.clone()),
            None => builder,
        };
        Ok(builder.tls(self.tls.clone()).build()?)
    }
}

type Building = Pin<Box<dyn Future<Output = Result<Sessions, Failure>> + Send>>;
type Build = dyn Fn(NodeParts) -> Building + Send + Sync;

/// The way to build nodes, and their parts.
struct Blueprint {
    build: Box<Build>,
    parts: Vec<NodeParts>,
}

impl Deployment {
    /// Creates a builder.
    pub fn builder() -> DeploymentBuilder {
        DeploymentBuilder::default()
    }

    /// Returns the nodes as a subject for load.
    pub fn subject(&self) -> SessionLayerSubject {
        self.subject.clone()
    }

    /// Returns the proxies between the nodes and the servers.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// Returns the target for faults.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the servers without proxies.
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// Returns the schema of the tables.
    pub fn schema(&self) -> &str {
        self.sandbox.schema()
    }

    /// Returns the prefix of all keys.
    pub fn namespace(&self) -> &str {
        self.sandbox.namespace()
    }

    /// Returns the number of nodes.
    pub fn nodes(&self) -> u32 {
        u32::try_from(self.blueprint.parts.len()).unwrap_or(u32::MAX)
    }

    /// Returns the parts of the first node, which differ from the others' only in their URLs.
    fn parts(&self) -> &NodeParts {
        &self.blueprint.parts[0]
    }

    /// Returns the TTL of an entry.
    pub fn ttl(&self) -> Duration {
        self.parts().ttl
    }

    /// Returns whether the nodes have near caches.
    pub fn near_caches(&self) -> bool {
        self.parts().near_cache > 0
    }

    /// Returns the policy of a partitioned node.
    pub fn policy(&self) -> PartitionPolicy {
        self.parts().policy
    }

    /// Returns the timeout of a validation.
    pub fn budget(&self) -> Duration {
        self.parts().budget
    }

    /// Returns whether the nodes seal their entries.
    pub fn sealed(&self) -> bool {
        self.parts().keys.is_some()
    }

    /// Returns the timeout of a validation's read.
    pub fn read_deadline(&self) -> Duration {
        self.parts().read_deadline()
    }

    /// Returns whether Redis has a replica or is a cluster, so that no change is `Propagated`.
    pub fn replicated(&self) -> bool {
        self.replica.is_some() || self.cluster.is_some() || self.sentinels.is_some()
    }

    /// Returns the servers that have the entries: the Redis, the masters of the cluster, or the
    /// servers behind the sentinels.
    pub fn redis_servers(&self) -> &[RedisServer] {
        match (&self.cluster, &self.sentinels) {
            (Some(cluster), _) => cluster.masters(),
            (None, Some(sentinels)) => sentinels.pair(),
            (None, None) => std::slice::from_ref(self.backends.redis()),
        }
    }

    /// Returns the certificates of the servers, if the nodes use TLS.
    pub fn certificates(&self) -> Option<&Arc<Certificates>> {
        self.certificates.as_ref()
    }

    /// Returns the issuer of the nodes' tokens, if they have tokens.
    pub fn tokens(&self) -> Option<&TokenIssuer> {
        self.tokens.as_ref()
    }

    /// Returns the name of a node's connections in `pg_stat_activity`.
    pub fn application_name(&self, node: u32) -> String {
        application_name(self.namespace(), node)
    }

    /// Returns a handle that restarts nodes.
    pub fn restarts(&self) -> Restarts {
        Restarts { subject: self.subject.clone(), blueprint: Arc::clone(&self.blueprint) }
    }

    /// Removes the data on given servers now. Unlike a drop, it returns an error if that fails.
    ///
    /// # Errors
    /// [`BackendError::Failed`] or, after 5 s, [`BackendError::Deadline`].
    pub async fn cleanup(self) -> Result<(), BackendError> {
        let Self { subject, sandbox, backends, .. } = self;
        drop(subject);
        // Started servers are removed with all their data.
        if backends.redis().backend().is_none() || backends.postgres().backend().is_none() {
            sandbox.cleanup().await?;
        }
        Ok(())
    }

    /// Returns the number of a node's open connections to one server, as the proxies count them.
    pub fn open_connections(&self, node: u32, peer: Peer) -> u64 {
        let proxy = self.network.proxies(peer).zip(0..).find(|(_, number)| *number == node);
        proxy.map(|(proxy, _)| proxy.traffic().open).unwrap_or_default()
    }
}

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deployment({} nodes of {})", self.nodes(), self.namespace())
    }
}

/// A handle that replaces a node's `Sessions` by a new one. It is cheap to clone.
#[derive(Clone)]
pub struct Restarts {
    subject: SessionLayerSubject,
    blueprint: Arc<Blueprint>,
}

impl Restarts {
    /// Restarts a node. The old node completes the requests that it has begun.
    ///
    /// # Errors
    /// An error if the new node could not be built, or if there is no such node. The old node
    /// remains.
    pub async fn restart(&self, node: u32) -> Result<(), Failure> {
        let parts = usize::try_from(node).ok().and_then(|at| self.blueprint.parts.get(at));
        let parts = parts.ok_or_else(|| format!("there is no node {node}"))?;
        let new = (self.blueprint.build)(parts.clone()).await?;
        drop(self.subject.replace(node, new));
        Ok(())
    }
}

impl fmt::Debug for Restarts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Restarts").finish_non_exhaustive()
    }
}

fn application_name(namespace: &str, node: u32) -> String {
    // Postgres keeps 63 bytes. A namespace is `testkit-` and 32 hex digits.
    format!("{namespace}-node-{node}")
}
