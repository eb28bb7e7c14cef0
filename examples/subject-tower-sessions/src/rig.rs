//! What the scenarios share: real servers, a line from each node to each of them that can be tampered
//! with, and what a scenario has to say.

use std::{sync::Arc, time::Duration};

use session_layer::{Sessions, cache::RedisCache, store::PostgresStore};
use session_testkit::{
    backends::{Backends, Sandbox},
    faults::Target,
    history::History,
    invariants::{self, Verdict, Verdicts},
    proxy::{Network, Peer},
    subject::SessionLayerSubject,
    wait,
};

/// Whatever kept a scenario from being carried out: exit code 2, and not a verdict.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long a condition may take to come true on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// How long a validate may take here, and how far a busy machine may be late with it. What asks Postgres
/// when Redis does not answer needs a fraction of it.
pub(crate) const BUDGET: Duration = Duration::from_secs(1);
pub(crate) const SLACK: Duration = Duration::from_secs(2);

const NODES: usize = 2;

/// A Redis and a Postgres of our own, to be broken.
pub(crate) struct Rig {
    pub(crate) servers: Backends,
    pub(crate) sandbox: Sandbox,
    pub(crate) network: Arc<Network>,
    pub(crate) seed: u64,
}

impl Rig {
    pub(crate) async fn start(seed: u64) -> Result<Self, Failure> {
        let servers = Backends::start_own().await?;
        let (redis, postgres) = (servers.redis().address(), servers.postgres().address());
        let network = Network::start(NODES, redis, postgres).await?;
        Ok(Self {
            sandbox: servers.sandbox(),
            network: Arc::new(network),
            servers,
            seed,
        })
    }

    /// Each node's URLs of the Redis and the Postgres.
    pub(crate) fn urls(&self) -> impl Iterator<Item = (String, String)> {
        let url = |node, peer, server| self.network.proxy(node, peer).url(server);
        (0..NODES).map(move |node| {
            (
                url(node, Peer::Redis, self.sandbox.redis_url()),
                url(node, Peer::Postgres, self.sandbox.database_url()),
            )
        })
    }

    /// For faults by name.
    pub(crate) fn target(&self) -> Target {
        Target::new(&self.servers).network(Arc::clone(&self.network))
    }
}

/// session-layer on the same rig, to compare.
pub(crate) async fn session_layer(rig: &Rig) -> Result<SessionLayerSubject, Failure> {
    let mut nodes = Vec::new();
    for (redis_url, database_url) in rig.urls() {
        // Room in every deadline: what is looked at is what happens, not how fast this machine is.
        let cache = RedisCache::builder(redis_url)
            .namespace(rig.sandbox.namespace())
            .deadline(Duration::from_millis(500));
        let store = PostgresStore::builder(&database_url)
            .schema(rig.sandbox.schema())
            .read_deadline(BUDGET)
            .change_deadline(SOON)
            .connect_lazy()?;
        store.migrate().await?;
        let sessions = Sessions::builder(cache.build()?, store)
            .budget(BUDGET)
            .build();
        wait::until("Redis to be in use", SOON, async || {
            sessions.cache_status().connected
        })
        .await?;
        nodes.push(sessions);
    }
    Ok(SessionLayerSubject::new(nodes))
}

/// What the checker says, if the run can mean anything.
pub(crate) fn judged(history: &History) -> Result<Verdicts, Failure> {
    let verdicts = invariants::check(history);
    match verdicts.doubts().first() {
        Some(doubt) => Err(doubt.clone().into()),
        None => Ok(verdicts),
    }
}

/// What came of a scenario.
#[derive(Default)]
pub(crate) struct Findings {
    /// What was measured.
    pub(crate) seen: Vec<String>,
    /// What could not be decided, and why.
    pub(crate) open: Vec<String>,
    /// Each bug in plain words, with what proves it.
    pub(crate) bugs: Vec<String>,
}

impl Findings {
    /// Every promise that the checker says is broken, with the proof of one violation.
    pub(crate) fn broken_promises(&mut self, verdicts: &Verdicts) {
        for (invariant, verdict) in verdicts.iter() {
            match verdict {
                Verdict::Broken {
                    violations, found, ..
                } => {
                    let promise = invariant.promise();
                    let proof = violations.first().map(ToString::to_string);
                    self.bugs.push(format!(
                        "{invariant} is BROKEN {found} times: {promise}. One of them:\n{}",
                        proof.unwrap_or_default()
                    ));
                }
                Verdict::Holds { .. } => self.seen.push(format!("{invariant} {verdict}")),
                Verdict::Inconclusive { .. } => {}
            }
        }
    }
}
