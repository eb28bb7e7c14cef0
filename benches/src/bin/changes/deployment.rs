//! Two nodes on real servers, with their own tables and namespaces.

use std::time::Duration;

use futures_util::future::try_join_all;
use session_layer::store::PostgresStore;
use session_testkit::backends::{Backends, Sandbox};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::{
    error::{Chain, Doing as _, Error},
    moment::Moment,
    names::{Kind, Names},
    node::Node,
    plan::Plan,
    protocol::{Invalid, Order, Settings},
    sql::{Postgres, Users},
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
    pub(crate) names: Names,
    /// D, as the nodes report it.
    pub(crate) staleness_bound: Duration,
    backends: &'a Backends,
    sandbox: Sandbox,
    caches: Caches,
    nodes: Vec<Node>,
    invalid: UnboundedSender<(usize, Invalid)>,
}

impl<'a> Deployment<'a> {
    /// Creates the tables with the sessions that stay valid, but no nodes.
    pub(crate) async fn new(
        backends: &'a Backends,
        plan: &'a Plan,
        caches: Caches,
    ) -> Result<(Self, UnboundedReceiver<(usize, Invalid)>), Error> {
        let sandbox = backends.sandbox();
        let migrating = || "create the tables";
        let store = PostgresStore::builder(sandbox.database_url())
            .schema(sandbox.schema())
            .build()
            .doing(migrating)?;
        store.migrate().await.doing(migrating)?;
        let (invalid, reports) = mpsc::unbounded_channel();
        let deployment = Self {
            plan,
            names: Names::new(plan.seed),
            staleness_bound: Duration::ZERO,
            backends,
            sandbox,
            caches,
            nodes: Vec::new(),
            invalid,
        };
        deployment.create(Kind::Kept, plan.kept, Users::OneEach).await?;
        Ok((deployment, reports))
    }

    /// Starts the nodes, and waits until each has served an entry from Redis.
    pub(crate) async fn start_nodes(&mut self) -> Result<(), Error> {
        for place in 0..NODES {
            let node = self.start(place).await?;
            self.nodes.push(node);
        }
        for node in &self.nodes {
            node.first_hit().await?;
        }
        self.staleness_bound = self.nodes[0].staleness_bound().await?;
        Ok(())
    }

    async fn start(&self, place: usize) -> Result<Node, Error> {
        let namespace = match self.caches {
            Caches::Shared => self.sandbox.namespace().to_owned(),
            Caches::OfTheirOwn => format!("{}:{place}", self.sandbox.namespace()),
        };
        let settings = Settings {
            database_url: self.sandbox.database_url().to_owned(),
            redis_url: self.sandbox.redis_url().to_owned(),
            schema: self.sandbox.schema().to_owned(),
            namespace,
            seed: self.plan.seed,
            poll: self.plan.poll,
            kept: self.plan.kept,
        };
        Node::start(place, &settings, self.invalid.clone()).await
    }

    /// Stops the last node and starts another in its place, which finds the first one's entries in
    /// Redis.
    pub(crate) async fn replace_the_last_node(&mut self) -> Result<(), Error> {
        if let Some(node) = self.nodes.pop() {
            node.stop().await?;
        }
        let node = self.start(self.nodes.len()).await?;
        self.nodes.push(node);
        Ok(())
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn order(&self, order: impl Fn() -> Order) {
        for node in &self.nodes {
            node.order(order());
        }
    }

    /// Waits until every node has read the journal. Returns the time from the COMMIT to that.
    pub(crate) async fn caught_up(&self, committed: Moment) -> Result<Duration, Error> {
        let all = try_join_all(self.nodes.iter().map(|node| node.catch_up(committed))).await?;
        Ok(all.into_iter().max().unwrap_or(committed).since(committed))
    }

    /// Stops the nodes, and removes the tables and keys.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        for node in self.nodes {
            node.stop().await?;
        }
        // The servers are deleted with their data. This makes room for the next run.
        if let Err(error) = self.sandbox.cleanup().await {
            let error = Error::because("remove the tables and keys", error);
            eprintln!("changes: {}", Chain(&error));
        }
        Ok(())
    }

    pub(crate) async fn redis(&self) -> Result<redis::aio::MultiplexedConnection, Error> {
        let connection = self.backends.redis().connect().await;
        connection.doing(|| "connect to Redis")
    }

    pub(crate) async fn postgres(&self) -> Result<Postgres, Error> {
        let connection = self.backends.postgres().connect().await;
        let connection = connection.doing(|| "connect to Postgres")?;
        let schema = self.sandbox.schema().to_owned();
        Ok(Postgres::new(connection, schema, self.names))
    }

    /// Creates sessions of a kind by SQL, numbered from 0.
    pub(crate) async fn create(&self, kind: Kind, count: u64, users: Users) -> Result<(), Error> {
        let mut postgres = self.postgres().await?;
        postgres.create(kind, count, users).await?;
        postgres.close().await
    }
}
