//! The parts that the scenarios share: real servers, a proxy between each node and each server, and
//! the findings.

use std::{sync::Arc, time::Duration};

use session_layer::store::PostgresStore;
use session_layer::{Sessions, cache::RedisCache};
use session_testkit::{
    backends::{Backends, Sandbox},
    faults::Target,
    history::History,
    invariants::{self, Verdict, Verdicts},
    proxy::{Network, Peer},
    subject::SessionLayerSubject,
    wait,
};

/// The error of a scenario that could not run: exit code 2, without a verdict.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The timeout of a condition on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The budget of a validate. A cache that reads from Postgres without Redis needs a fraction of it.
pub(crate) const BUDGET: Duration = Duration::from_secs(1);
/// The time by which a busy machine may exceed the budget.
pub(crate) const SLACK: Duration = Duration::from_secs(2);

const NODES: usize = 2;

/// A Redis and a Postgres for this run, which the faults may damage.
pub(crate) struct Harness {
    pub(crate) servers: Backends,
    pub(crate) network: Arc<Network>,
    pub(crate) seed: u64,
}

impl Harness {
    pub(crate) async fn start(seed: u64) -> Result<Self, Failure> {
        let servers = Backends::start_own().await?;
        let (redis, postgres) = (servers.redis().address(), servers.postgres().address());
        let network = Network::start(NODES, redis, postgres).await?;
        Ok(Self { network: Arc::new(network), servers, seed })
    }

    /// Returns each node's URLs of Redis and Postgres.
    pub(crate) fn urls(&self, sandbox: &Sandbox) -> impl Iterator<Item = (String, String)> {
        let url = |node, peer, server| self.network.proxy(node, peer).url(server);
        (0..NODES).map(move |node| {
            (
                url(node, Peer::Redis, sandbox.redis_url()),
                url(node, Peer::Postgres, sandbox.database_url()),
            )
        })
    }

    /// Returns the target for named faults.
    pub(crate) fn target(&self) -> Target {
        Target::new(&self.servers).network(Arc::clone(&self.network))
    }
}

/// Starts session-layer on the same servers, as a comparison.
///
/// Each scenario has its own tables and keys. The nodes of the previous scenario were dropped
/// without a shutdown, and stay registered for a while. If Redis was restarted since, they count as
/// nodes that use another cache, and no logout could be `Propagated`.
pub(crate) async fn session_layer(harness: &Harness) -> Result<SessionLayerSubject, Failure> {
    let mut nodes = Vec::new();
    let sandbox = harness.servers.sandbox();
    for (redis_url, database_url) in harness.urls(&sandbox) {
        // Long deadlines, because the test is about behaviour and not about the speed of this
        // machine.
        let cache = RedisCache::builder(redis_url)
            .namespace(sandbox.namespace())
            .deadline(Duration::from_millis(500));
        let store = PostgresStore::builder(&database_url)
            .schema(sandbox.schema())
            .read_deadline(BUDGET)
            .change_deadline(SOON)
            .build()?;
        store.migrate().await?;
        let sessions =
            Sessions::builder(cache.build()?, store).validation_timeout(BUDGET).build()?;
        let connected = async || sessions.cache_status().connected;
        wait::until("Redis to be connected", SOON, connected).await?;
        nodes.push(sessions);
    }
    Ok(SessionLayerSubject::new(nodes))
}

/// Returns the checker's verdicts, if the run is conclusive.
pub(crate) fn verdicts_of(history: &History) -> Result<Verdicts, Failure> {
    let verdicts = invariants::check(history);
    match verdicts.doubts().first() {
        Some(doubt) => Err(doubt.clone().into()),
        None => Ok(verdicts),
    }
}

/// The findings of a scenario.
#[derive(Default)]
pub(crate) struct Findings {
    /// The measurements.
    pub(crate) seen: Vec<String>,
    /// The undecided questions with their reasons.
    pub(crate) open: Vec<String>,
    /// The bugs with their proofs.
    pub(crate) bugs: Vec<String>,
}

impl Findings {
    /// Adds every broken promise, with the proof of one violation.
    pub(crate) fn broken_promises(&mut self, verdicts: &Verdicts) {
        for (invariant, verdict) in verdicts.iter() {
            match verdict {
                Verdict::Broken { violations, found, .. } => {
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
