//! Two nodes on real servers, with their own tables and namespaces.

use std::time::Duration;

use session_layer::{Sessions, cache::RedisCache, store::PostgresStore};
use session_testkit::backends::{Backends, Sandbox};
use tokio::time::Instant;

use crate::{
    Error,
    node::{Bounds, Node},
    plan::{KEPT, Plan},
    progress,
    sql::{Kind, Postgres, token},
};

pub(crate) const NODES: usize = 2;

/// The location of the nodes' cache entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caches {
    /// One namespace, as for the nodes of a service.
    Shared,
    /// A separate namespace per node. A node's UNLINK then removes no other node's entries. Each
    /// measured age is therefore that of the node's own journal reads.
    OfTheirOwn,
}

#[derive(Debug)]
pub(crate) struct Deployment<'a> {
    pub(crate) plan: &'a Plan,
    /// D, as the nodes report it.
    pub(crate) staleness_bound: Duration,
    pub(crate) nodes: Vec<Node>,
    pub(crate) backends: &'a Backends,
    sandbox: Sandbox,
    caches: Caches,
}

impl<'a> Deployment<'a> {
    /// Creates the tables and the sessions. Starts the nodes, and waits until each has served an
    /// entry from Redis.
    pub(crate) async fn start(
        backends: &'a Backends,
        plan: &'a Plan,
        caches: Caches,
        sessions: &[(Kind, u64)],
    ) -> Result<Self, Error> {
        let sandbox = backends.sandbox();
        let nodes = Vec::new();
        let staleness_bound = Duration::ZERO;
        let mut deployment = Self { plan, staleness_bound, nodes, backends, sandbox, caches };
        deployment.store()?.migrate().await?;
        let mut postgres = deployment.postgres().await?;
        for (kind, count) in sessions.iter().chain(&[(Kind::Kept, KEPT)]) {
            postgres.create(*kind, *count).await?;
        }
        for place in 0..NODES {
            let node = deployment.node(place)?;
            deployment.nodes.push(node);
        }
        for node in &deployment.nodes {
            node.first_hit().await?;
        }
        let journal = deployment.nodes[0].sessions.health().await.journal;
        let journal = journal.ok_or("a node reads no journal")?;
        deployment.staleness_bound = Duration::from_millis(journal.within_ms);
        Ok(deployment)
    }

    fn store(&self) -> Result<PostgresStore, Error> {
        let builder = PostgresStore::builder(self.sandbox.database_url());
        Ok(builder.schema(self.sandbox.schema()).build()?)
    }

    fn node(&self, place: usize) -> Result<Node, Error> {
        let namespace = match self.caches {
            Caches::Shared => self.sandbox.namespace().to_owned(),
            Caches::OfTheirOwn => format!("{}:{place}", self.sandbox.namespace()),
        };
        let cache = RedisCache::builder(self.sandbox.redis_url()).namespace(&namespace);
        let sessions = Sessions::builder(cache.build()?, self.store()?).build()?;
        Ok(Node::start(sessions, namespace, self.plan.seed))
    }

    /// Stops the last node and starts another in its place, which finds the first one's entries in
    /// Redis.
    pub(crate) async fn replace_the_last_node(&mut self) -> Result<(), Error> {
        if let Some(node) = self.nodes.pop() {
            node.stop().await;
        }
        let node = self.node(self.nodes.len())?;
        self.nodes.push(node);
        Ok(())
    }

    /// Returns the bounds of a session that has just ended.
    pub(crate) fn bounds(&self, within: Duration) -> Bounds {
        Bounds { at: Instant::now(), within, staleness_bound: self.staleness_bound }
    }

    /// Waits until every node has read the journal. Returns the time from the COMMIT to that.
    pub(crate) async fn caught_up(&self, committed: Instant) -> Result<Duration, Error> {
        let mut last = committed;
        for node in &self.nodes {
            last = last.max(node.catch_up(committed).await?);
        }
        Ok(last - committed)
    }

    /// Stops the nodes, and removes the tables and keys.
    pub(crate) async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
        // The servers are deleted with their data. This makes room for the next run.
        if let Err(error) = self.sandbox.cleanup().await {
            progress(format_args!("could not remove the tables and keys: {error}"));
        }
    }

    pub(crate) async fn postgres(&self) -> Result<Postgres, Error> {
        Postgres::connect(self.backends, self.sandbox.schema(), self.plan.seed).await
    }

    pub(crate) fn token(&self, kind: Kind, n: u64) -> String {
        token(self.plan.seed, kind, n)
    }
}
