//! The builder of a [`Deployment`].

use std::{future::Future, sync::Arc, time::Duration};

use session_layer::defaults::DEFAULT_VALIDATION_TIMEOUT;
use session_layer::store::PostgresStore;
use session_layer::{PartitionPolicy, SealingKeys, Sessions, TokenDigest, cache::DEFAULT_DEADLINE};

use super::{
    Blueprint, Build, Deployment, DeploymentError, NodeParts, application_name, role::Role,
};
use crate::{
    backends::Backends,
    faults::Target,
    proxy::{Network, Peer},
    subject::SessionLayerSubject,
    url,
    wait::Patience,
    workload::Failure,
};

/// The limit for every node to reach both servers.
const READY: Duration = Duration::from_secs(30);

/// The settings of a [`Deployment`].
#[must_use = "nothing is started before `start`"]
pub struct DeploymentBuilder {
    nodes: u32,
    ttl: Duration,
    redis_deadline: Duration,
    budget: Duration,
    policy: PartitionPolicy,
    replica: bool,
    sealed: bool,
    build: Box<Build>,
}

impl std::fmt::Debug for DeploymentBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeploymentBuilder")
            .field("nodes", &self.nodes)
            .field("ttl", &self.ttl)
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl Default for DeploymentBuilder {
    fn default() -> Self {
        Self {
            nodes: 3,
            ttl: Duration::from_secs(300),
            redis_deadline: DEFAULT_DEADLINE,
            budget: DEFAULT_VALIDATION_TIMEOUT,
            policy: PartitionPolicy::default(),
            replica: false,
            sealed: false,
            build: Box::new(|parts| Box::pin(async move { as_in_production(&parts) })),
        }
    }
}

fn as_in_production(parts: &NodeParts) -> Result<Sessions, Failure> {
    let builder = Sessions::builder(parts.cache()?, parts.store()?);
    let builder = builder.ttl(parts.ttl).validation_timeout(parts.budget);
    Ok(builder.policy(parts.policy).build()?)
}

impl DeploymentBuilder {
    /// Sets the number of nodes, at least 1. Defaults to 3.
    pub fn nodes(mut self, nodes: u32) -> Self {
        self.nodes = nodes.max(1);
        self
    }

    /// Sets the TTL of an entry. Defaults to 300 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the timeouts of an operation of Redis and of a validation. Defaults to 50 ms and 250
    /// ms, as in production. A busy machine may need more.
    pub fn deadlines(mut self, redis: Duration, budget: Duration) -> Self {
        (self.redis_deadline, self.budget) = (redis, budget);
        self
    }

    /// Sets the policy of a partitioned node. Defaults to [`PartitionPolicy::Available`].
    pub fn policy(mut self, policy: PartitionPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Starts a replica for a failover and declares it to the nodes. Defaults to false.
    pub fn replica(mut self, replica: bool) -> Self {
        self.replica = replica;
        self
    }

    /// Gives the nodes a new sealing key. Defaults to false, which trusts Redis.
    pub fn sealed(mut self, sealed: bool) -> Self {
        self.sealed = sealed;
        self
    }

    /// Sets a function that builds the nodes, for example with another port or a deliberate
    /// mistake. Defaults to [`NodeParts::cache`] and [`NodeParts::store`].
    pub fn build_with<F, B>(mut self, build: F) -> Self
    where
        F: Fn(NodeParts) -> B + Send + Sync + 'static,
        B: Future<Output = Result<Sessions, Failure>> + Send + 'static,
    {
        self.build = Box::new(move |parts| Box::pin(build(parts)));
        self
    }

    /// Creates schema, tables and role, and starts the nodes until each has reached both servers.
    ///
    /// # Errors
    /// [`DeploymentError`] if a step fails.
    pub async fn start(self, backends: Backends) -> Result<Deployment, DeploymentError> {
        let sandbox = backends.sandbox();
        let replica = if self.replica {
            let mut builder = Backends::builder().own();
            if let Some(backend) = backends.redis().backend() {
                builder = builder.backend(backend);
            }
            Some(builder.start_redis().await?)
        } else {
            None
        };
        let admin = PostgresStore::builder(backends.postgres().url())
            .schema(sandbox.schema())
            .change_deadline(Duration::from_secs(30))
            .build();
        let admin = admin.map_err(refused("read the URL"))?;
        let migrated = admin.migrate().await;
        session_layer::store::SessionStore::close(&admin).await;
        migrated.map_err(refused("migrate"))?;
        let role = Role::create(backends.postgres(), sandbox.schema()).await?;

        let (redis, postgres) = (backends.redis(), backends.postgres());
        let count = usize::try_from(self.nodes).unwrap_or(usize::MAX);
        let network = Network::start(count, redis.address(), postgres.address()).await;
        let network = Arc::new(network.map_err(DeploymentError::Proxies)?);
        let proxies = network.proxies(Peer::Redis).zip(network.proxies(Peer::Postgres));
        let keys = self.sealed.then(fresh_keys).transpose()?;
        let user = role.as_ref().map(Role::credentials);
        let parts = proxies.zip(0..).map(|((to_redis, to_postgres), node)| NodeParts {
            node,
            redis_url: to_redis.url(redis.url()),
            database_url: url::as_user(
                &to_postgres.url(postgres.url()),
                user,
                ("application_name", &application_name(sandbox.namespace(), node)),
            ),
            namespace: sandbox.namespace().to_owned(),
            schema: sandbox.schema().to_owned(),
            ttl: self.ttl,
            redis_deadline: self.redis_deadline,
            budget: self.budget,
            policy: self.policy,
            replicated: self.replica,
            keys: keys.clone(),
        });
        let blueprint = Arc::new(Blueprint { parts: parts.collect(), build: self.build });
        let mut nodes = Vec::new();
        for parts in &blueprint.parts {
            let node = (blueprint.build)(parts.clone()).await;
            nodes.push(node.map_err(|source| DeploymentError::Node { node: parts.node, source })?);
        }
        for node in &nodes {
            connected(node).await?;
        }
        let mut target =
            Target::new(&backends).network(Arc::clone(&network)).schema(sandbox.schema());
        if let Some(role) = &role {
            target = target.role(role.name());
        }
        if let Some(replica) = &replica {
            target = target.replica(replica);
        }
        Ok(Deployment {
            subject: SessionLayerSubject::new(nodes),
            network,
            blueprint,
            target,
            role,
            sandbox,
            replica,
            backends,
        })
    }
}

/// Creates a key from the digest of a random value. A digest has as many bytes as a key.
fn fresh_keys() -> Result<SealingKeys, DeploymentError> {
    let secret = TokenDigest::of(&uuid::Uuid::new_v4().to_string()).to_base64url();
    let keys = format!("testkit:{secret}").parse::<SealingKeys>();
    keys.map_err(|error| DeploymentError::Key(error.into()))
}

/// Waits until Redis accepts commands and Postgres returns Invalid for an unknown token.
async fn connected(node: &Sessions) -> Result<(), DeploymentError> {
    let mut patience = Patience::new("a node to reach Redis and Postgres", READY);
    let unknown = session_layer::SessionToken::generate()
        .map(|token| token.reveal().to_owned())
        .unwrap_or_default();
    let reached = || async {
        node.cache_status().connected
            && matches!(node.validate(&unknown).await, session_layer::Validation::Invalid)
    };
    while !patience.look(reached()).await? {}
    Ok(())
}

fn refused<E: Into<Failure>>(doing: &'static str) -> impl FnOnce(E) -> DeploymentError {
    move |source| DeploymentError::Postgres { doing, source: source.into() }
}
