//! The builder of a [`Deployment`].

use std::{fmt, future::Future, sync::Arc, time::Duration};

use session_layer::defaults::DEFAULT_VALIDATION_TIMEOUT;
use session_layer::store::{PostgresStore, SessionStore as _, grants};
use session_layer::{
    PartitionPolicy, SealingKeys, SessionToken, Sessions, TokenDigest, Validation,
    cache::DEFAULT_DEADLINE,
};
use sqlx::AssertSqlSafe;

use super::{Blueprint, Build, Certificates, Deployment, NodeParts, TokenIssuer, application_name};
use crate::{
    backends::{BackendError, Backends, Cluster, PostgresServer, Sentinels},
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
    near_cache: usize,
    replica: bool,
    cluster: bool,
    sentinels: bool,
    standby: bool,
    tokens: bool,
    tls: bool,
    sealed: bool,
    build: Box<Build>,
}

impl fmt::Debug for DeploymentBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeploymentBuilder({} nodes, TTL {:?})", self.nodes, self.ttl)
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
            near_cache: 0,
            replica: false,
            cluster: false,
            sentinels: false,
            standby: false,
            tokens: false,
            tls: false,
            sealed: false,
            build: Box::new(|parts| Box::pin(async move { as_in_production(&parts) })),
        }
    }
}

fn as_in_production(parts: &NodeParts) -> Result<Sessions, Failure> {
    let builder = Sessions::builder(parts.cache()?, parts.store()?);
    let builder = builder.ttl(parts.ttl).validation_timeout(parts.budget);
    Ok(builder.policy(parts.policy).near_cache(parts.near_cache).build()?)
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

    /// Gives each node a near cache of so many bytes. Defaults to 0: none.
    pub fn near_cache(mut self, bytes: usize) -> Self {
        self.near_cache = bytes;
        self
    }

    /// Starts a replica for a failover and declares it to the nodes. Defaults to false.
    pub fn replica(mut self, replica: bool) -> Self {
        self.replica = replica;
        self
    }

    /// Starts a cluster, which the nodes use in the place of the Redis and without proxies.
    /// Defaults to false.
    pub fn cluster(mut self, cluster: bool) -> Self {
        self.cluster = cluster;
        self
    }

    /// Starts three sentinels with a master and a replica, which the nodes use in the place of the
    /// Redis and without proxies. A cluster takes precedence. Defaults to false.
    pub fn sentinels(mut self, sentinels: bool) -> Self {
        self.sentinels = sentinels;
        self
    }

    /// Starts a standby of the Postgres for a failover. Both must be native. Defaults to false.
    pub fn standby(mut self, standby: bool) -> Self {
        self.standby = standby;
        self
    }

    /// Gives the nodes a [token](super::TokenIssuer) for both servers instead of passwords. The
    /// servers must be the testkit's own, and the Redis a single one. Defaults to false.
    pub fn tokens(mut self, tokens: bool) -> Self {
        self.tokens = tokens;
        self
    }

    /// Lets the nodes use TLS to both servers, with [certificates](super::Certificates) of a CA of
    /// the testkit. The servers must be native, and the Redis a single one. Defaults to false.
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
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
    /// [`BackendError`] if a step fails.
    pub async fn start(self, backends: Backends) -> Result<Deployment, BackendError> {
        let mut sandbox = backends.sandbox();
        let replica = if self.replica {
            let mut builder = Backends::builder().own();
            if let Some(backend) = backends.redis().backend() {
                builder = builder.backend(backend);
            }
            Some(builder.start_redis().await?)
        } else {
            None
        };
        let cluster = match self.cluster {
            true => Some(Arc::new(Cluster::start().await?)),
            false => None,
        };
        let sentinels = match self.sentinels && cluster.is_none() {
            true => Some(Arc::new(Sentinels::start().await?)),
            false => None,
        };
        let admin = PostgresStore::builder(backends.postgres().url())
            .schema(sandbox.schema())
            .change_deadline(Duration::from_secs(30))
            .build();
        let admin = admin.map_err(BackendError::failed("read the URL of Postgres"))?;
        let migrated = admin.migrate().await;
        admin.close().await;
        migrated.map_err(BackendError::failed("create the tables"))?;
        let role = create_role(backends.postgres(), sandbox.schema()).await?;
        if let Some((name, _)) = &role {
            sandbox.set_role(name.clone());
        }

        let (redis, postgres) = (backends.redis(), backends.postgres());
        let tokens = match (&role, self.tokens) {
            (Some((role, _)), true) => Some(TokenIssuer::start(redis, postgres, role).await?),
            _ => None,
        };
        let standby = match self.standby {
            true => Some(postgres.standby().await?),
            false => None,
        };
        let certificates = match self.tls {
            true => Some(Arc::new(Certificates::start(redis, postgres).await?)),
            false => None,
        };
        let redis_address = match &certificates {
            Some(certificates) => certificates.redis_address(),
            None => redis.address(),
        };
        let count = usize::try_from(self.nodes).unwrap_or(usize::MAX);
        let network = Network::start(count, redis_address, postgres.address()).await;
        let network = Arc::new(network.map_err(BackendError::failed("start the proxies"))?);
        let proxies = network.proxies(Peer::Redis).zip(network.proxies(Peer::Postgres));
        let keys = self.sealed.then(fresh_keys).transpose()?;
        let user = role.as_ref().filter(|_| tokens.is_none());
        let user = user.map(|(name, password)| (name.as_str(), password.as_str()));
        let parts = proxies.zip(0..).map(|((to_redis, to_postgres), node)| NodeParts {
            node,
            redis_url: match (&cluster, &sentinels) {
                (Some(cluster), _) => cluster.url(),
                (None, Some(sentinels)) => sentinels.url(),
                (None, None) if certificates.is_some() => {
                    to_redis.url(redis.url()).replacen("redis://", "rediss://", 1)
                }
                (None, None) => to_redis.url(redis.url()),
            },
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
            near_cache: self.near_cache,
            replicated: self.replica,
            keys: keys.clone(),
            tokens: tokens.clone(),
            tls: certificates.as_ref().map(|it| it.settings()).unwrap_or_default(),
        });
        let blueprint = Arc::new(Blueprint { parts: parts.collect(), build: self.build });
        let mut nodes = Vec::new();
        for parts in &blueprint.parts {
            let node = (blueprint.build)(parts.clone()).await;
            let failed = BackendError::failed(format!("build node {}", parts.node));
            nodes.push(node.map_err(failed)?);
        }
        for node in &nodes {
            connected(node).await?;
        }
        let mut target =
            Target::new(&backends).network(Arc::clone(&network)).schema(sandbox.schema());
        if let Some((name, _)) = &role {
            target = target.role(name);
        }
        if let Some(replica) = &replica {
            target = target.replica(replica);
        }
        if let Some(cluster) = &cluster {
            target = target.cluster(Arc::clone(cluster));
        }
        if let Some(sentinels) = &sentinels {
            target = target.sentinels(Arc::clone(sentinels));
        }
        if let Some(standby) = &standby {
            target = target.standby(standby);
        }
        Ok(Deployment {
            subject: SessionLayerSubject::new(nodes),
            network,
            blueprint,
            target,
            sandbox,
            replica,
            cluster,
            sentinels,
            tokens,
            certificates,
            backends,
        })
    }
}

/// Creates the role of the nodes, with rights on the rows only, and returns its name and password.
/// A superuser can't test denied rights, because Postgres denies it nothing.
///
/// Returns `None` if we may not create roles. The nodes then connect as the URL's user, which is no
/// superuser.
async fn create_role(
    server: &PostgresServer,
    schema: &str,
) -> Result<Option<(String, String)>, BackendError> {
    let mut admin = server.connect().await?;
    let superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
    let superuser: bool = sqlx::query_scalar(superuser)
        .fetch_one(&mut admin)
        .await
        .map_err(BackendError::failed("read the role in Postgres"))?;
    if !superuser {
        return Ok(None);
    }
    let password = uuid::Uuid::new_v4().simple().to_string();
    // The schema's name is unique.
    let name = format!("{schema}_app");
    let grants = grants(schema, &name);
    let create = format!("CREATE ROLE {name} LOGIN NOSUPERUSER PASSWORD '{password}'; {grants}");
    let created = sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await;
    created.map_err(BackendError::failed("create the role of the nodes"))?;
    Ok(Some((name, password)))
}

/// Creates a key from the digest of a random value. A digest has as many bytes as a key.
fn fresh_keys() -> Result<SealingKeys, BackendError> {
    let secret = TokenDigest::of(&uuid::Uuid::new_v4().to_string()).to_base64url();
    format!("testkit:{secret}").parse().map_err(BackendError::failed("create a sealing key"))
}

/// Waits until Redis accepts commands and Postgres returns Invalid for an unknown token.
async fn connected(node: &Sessions) -> Result<(), BackendError> {
    let mut patience = Patience::new("a node to reach Redis and Postgres", READY);
    let unknown = SessionToken::generate().map(|token| token.reveal().to_owned());
    let unknown = unknown.unwrap_or_default();
    let reached = || async {
        node.cache_status().connected
            && matches!(node.validate(&unknown).await, Validation::Invalid)
    };
    let failed = |late| BackendError::failed("connect a node to its servers")(late);
    while !patience.look(reached()).await.map_err(failed)? {}
    Ok(())
}
