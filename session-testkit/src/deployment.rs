//! A service under test, whole: several nodes of session-layer, each with a cache and a store of its own
//! behind proxies of its own, as a role that Postgres does not let do everything.
//!
//! What is set is what production has (50 ms for Redis, 250 ms in all, 10 connections to each server),
//! but for the TTL: a run that waits until the last copy has died can't wait for 300 s.
//!
//! ```no_run
//! use session_testkit::{backends::Backends, deployment::Deployment, invariants, workload::{Runner, Settings}};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let servers = Backends::start_own().await?;
//! let deployment = Deployment::builder().nodes(3).start(servers).await?;
//! let run = Runner::new(deployment.subject(), Settings::new(7)).run().await?;
//! println!("{}", invariants::check(&run.history));
//! # Ok(())
//! # }
//! ```

mod builder;
mod role;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use session_layer::{
    Policy, SealingKeys, Sessions,
    cache::RedisCache,
    store::{CHANGE_DEADLINE, PostgresStore},
};

pub use self::builder::DeploymentBuilder;
use self::role::Role;
use crate::{
    backends::{BackendError, Backends, RedisServer, Sandbox},
    faults::Target,
    proxy::{Network, Peer},
    subject::SessionLayerSubject,
    workload::Failure,
};

/// How many connections a node may have to each server.
pub const POOL_SIZE: u32 = 10;

/// A service under test. When it is dropped, what it made on given servers is removed.
pub struct Deployment {
    // In the order in which they are dropped.
    subject: SessionLayerSubject,
    network: Arc<Network>,
    blueprint: Arc<Blueprint>,
    target: Target,
    role: Option<Role>,
    sandbox: Sandbox,
    replica: Option<RedisServer>,
    backends: Backends,
}

/// What a node is built from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NodeParts {
    /// Its number, from 0.
    pub node: u32,
    /// Its way to Redis.
    pub redis_url: String,
    /// Its way to Postgres, as the service's role.
    pub database_url: String,
    /// The prefix of all keys.
    pub namespace: String,
    /// The schema of the tables, which are there.
    pub schema: String,
    /// How long an entry may be served.
    pub ttl: Duration,
    /// How long an operation of Redis may take.
    pub redis_deadline: Duration,
    /// How long a validation may take in all.
    pub budget: Duration,
    /// What it does when it has lost touch with Postgres.
    pub policy: Policy,
    /// Redis has replicas, or may fail over.
    pub replicated: bool,
    /// What entries are sealed with, if they are.
    pub keys: Option<SealingKeys>,
}

impl NodeParts {
    /// The cache that production would have.
    ///
    /// # Errors
    /// As [`RedisCacheBuilder::build`](session_layer::cache::RedisCacheBuilder::build).
    pub fn cache(&self) -> Result<RedisCache, Failure> {
        let builder = RedisCache::builder(&self.redis_url)
            .namespace(&self.namespace)
            .pool_size(POOL_SIZE as usize)
            .deadline(self.redis_deadline)
            .replicated(self.replicated);
        let builder = match &self.keys {
            Some(keys) => builder.seal(keys.clone()),
            None => builder,
        };
        Ok(builder.build()?)
    }

    /// How long a validation's read may take: 200 ms of a budget of 250.
    #[must_use]
    pub fn read_deadline(&self) -> Duration {
        self.budget * 4 / 5
    }

    /// The store that production would have.
    ///
    /// # Errors
    /// As [`PostgresStoreBuilder::connect_lazy`](session_layer::store::PostgresStoreBuilder::connect_lazy).
    pub fn store(&self) -> Result<PostgresStore, Failure> {
        let builder = PostgresStore::builder(&self.database_url)
            .schema(&self.schema)
            .max_connections(POOL_SIZE)
            .read_deadline(self.read_deadline())
            // 2 s, unless the machine is said to be slow.
            .change_deadline(CHANGE_DEADLINE.max(self.budget * 4));
        Ok(builder.connect_lazy()?)
    }
}

type Building = Pin<Box<dyn Future<Output = Result<Sessions, Failure>> + Send>>;
type Build = dyn Fn(NodeParts) -> Building + Send + Sync;

/// How nodes are built, and with what.
struct Blueprint {
    build: Box<Build>,
    parts: Vec<NodeParts>,
}

/// A deployment could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeploymentError {
    /// A server did not start, or refused something.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The proxies could not be started.
    #[error("could not start the proxies")]
    Proxies(#[source] std::io::Error),
    /// Postgres refused what is needed before the nodes start.
    #[error("could not prepare Postgres: {doing}")]
    Postgres {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: Failure,
    },
    /// There is no key to seal entries with.
    #[error("could not make a key")]
    Key(#[source] Failure),
    /// A node could not be built.
    #[error("could not build node {node}")]
    Node {
        /// Which one.
        node: u32,
        /// Why not.
        #[source]
        source: Failure,
    },
    /// A node did not reach its servers.
    #[error("a node did not get into touch with its servers")]
    NotReady(#[from] crate::wait::WaitedInVain),
}

impl Deployment {
    /// To say how many nodes, and more.
    pub fn builder() -> DeploymentBuilder {
        DeploymentBuilder::default()
    }

    /// The nodes, to be put under load.
    #[must_use]
    pub fn subject(&self) -> SessionLayerSubject {
        self.subject.clone()
    }

    /// The lines between the nodes and the servers.
    #[must_use]
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// What faults have to know of it.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The servers, without proxies in between.
    #[must_use]
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// The Redis to fail over to, if there is one.
    #[must_use]
    pub fn replica(&self) -> Option<&RedisServer> {
        self.replica.as_ref()
    }

    /// The schema of the tables.
    #[must_use]
    pub fn schema(&self) -> &str {
        self.sandbox.schema()
    }

    /// The prefix of all keys.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.sandbox.namespace()
    }

    /// How many nodes there are.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        u32::try_from(self.blueprint.parts.len()).unwrap_or(u32::MAX)
    }

    /// How long an entry may be served.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        let first = self.blueprint.parts.first();
        first.map_or(Duration::ZERO, |parts| parts.ttl)
    }

    /// What a node does that has lost touch with Postgres.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let first = self.blueprint.parts.first();
        first.map_or(Policy::default(), |parts| parts.policy)
    }

    /// How long a validation may take in all.
    #[must_use]
    pub fn budget(&self) -> Duration {
        let first = self.blueprint.parts.first();
        first.map_or(Duration::ZERO, |parts| parts.budget)
    }

    /// Do the nodes seal their entries?
    #[must_use]
    pub fn sealed(&self) -> bool {
        let mut parts = self.blueprint.parts.iter();
        parts.any(|parts| parts.keys.is_some())
    }

    /// How long a validation's read may take.
    #[must_use]
    pub fn read_deadline(&self) -> Duration {
        let first = self.blueprint.parts.first();
        first.map_or(Duration::ZERO, NodeParts::read_deadline)
    }

    /// Has Redis a replica?
    #[must_use]
    pub fn replicated(&self) -> bool {
        self.replica.is_some()
    }

    /// By this a node's connections are known in `pg_stat_activity`.
    #[must_use]
    pub fn application_name(&self, node: u32) -> String {
        application_name(self.namespace(), node)
    }

    /// How a node restarts.
    #[must_use]
    pub fn restarts(&self) -> Restarts {
        Restarts {
            subject: self.subject.clone(),
            blueprint: Arc::clone(&self.blueprint),
        }
    }

    /// Removes what was made on given servers, now; unlike a drop, says so if that fails.
    ///
    /// # Errors
    /// [`BackendError`], and [`DeploymentError::Postgres`] where the role could not be dropped.
    pub async fn cleanup(self) -> Result<(), DeploymentError> {
        let Self {
            subject,
            role,
            sandbox,
            backends,
            ..
        } = self;
        drop(subject);
        // What we started is thrown away with all that it holds.
        if backends.postgres().backend().is_none()
            && let Some(role) = role
        {
            role.remove().await?;
        }
        if backends.redis().backend().is_none() || backends.postgres().backend().is_none() {
            sandbox.cleanup().await?;
        }
        Ok(())
    }

    /// The proxies' count of a node's open connections to one server.
    #[must_use]
    pub fn open_connections(&self, node: u32, peer: Peer) -> u64 {
        let proxies = self.network.proxies(peer);
        proxies
            .zip(0..)
            .find_map(|(proxy, number)| (number == node).then(|| proxy.traffic().open))
            .unwrap_or_default()
    }
}

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deployment")
            .field("nodes", &self.nodes())
            .field("namespace", &self.namespace())
            .field("schema", &self.schema())
            .finish_non_exhaustive()
    }
}

/// Restarts nodes: a handle is dropped, and a new one started in its place. Cheap to clone.
#[derive(Clone)]
pub struct Restarts {
    subject: SessionLayerSubject,
    blueprint: Arc<Blueprint>,
}

impl Restarts {
    /// Restarts a node. What is under way on the old one is answered by it.
    ///
    /// # Errors
    /// If the new one could not be built, or there is no such node; the old one stays then.
    pub async fn restart(&self, node: u32) -> Result<(), Failure> {
        let parts = usize::try_from(node)
            .ok()
            .and_then(|at| self.blueprint.parts.get(at));
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
    // Postgres keeps 63 bytes; a namespace is `testkit-` and 32 hex digits.
    format!("{namespace}-node-{node}")
}
