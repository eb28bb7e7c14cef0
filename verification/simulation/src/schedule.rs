//! Runs one plan: session-layer's engine on three nodes, in a simulated world.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use session_layer::error::TokenError;
use session_layer::{OpaqueTokens, PartitionPolicy, Sessions, TokenDigest, TokenScheme};
use session_testkit::history::{Change, End, Header, History, Operation};
use session_testkit::invariants::{self, Verdicts};
use session_testkit::subject::{SessionLayerSubject, Token};

use crate::cache::SimulatedCache;
use crate::coverage::{Coverage, Event};
use crate::mutants::{Broken, BrokenCache, BrokenStore, Mistake};
use crate::plan::{NODES, Plan};
use crate::postgres::Postgres;
use crate::random::mix;
use crate::redis::Redis;
use crate::store::SimulatedStore;
use crate::world::World;

mod faults;
mod operations;

/// A short TTL, which passes within a schedule.
const TTL: Duration = Duration::from_secs(5);
const D: Duration = session_layer::defaults::DEFAULT_JOURNAL_INTERVAL.saturating_mul(4);
const BUDGET: Duration = session_layer::defaults::DEFAULT_VALIDATION_TIMEOUT;

/// The bytes of a near cache.
const NEAR_CACHE: usize = 1 << 20;

/// The least that a node may be set to.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// The settings of the nodes of a schedule.
#[derive(Debug, Clone, Copy)]
struct NodeSettings {
    policy: PartitionPolicy,
    near_cache: usize,
    pause_after: Duration,
}

/// The result of a plan.
pub(crate) struct Ran {
    pub(crate) history: History,
    pub(crate) verdicts: Verdicts,
    pub(crate) coverage: Coverage,
    /// What happened in the world, line by line, if it was traced.
    pub(crate) trace: Vec<String>,
}

/// Runs a plan, with a mistake or without.
pub(crate) fn run(plan: &Plan, mistake: Option<Mistake>, trace: bool) -> Ran {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // The world's task is polled when all other tasks wait.
        .event_interval(1_000_000)
        .build()
        .expect("a runtime");
    runtime.block_on(Schedule::run(plan, mistake, trace))
}

struct Schedule {
    world: Arc<World>,
    mistake: Option<Mistake>,
    settings: NodeSettings,
    /// Every node is a separate process.
    subject: SessionLayerSubject,
    /// The tokens by session. The index of a token is its number.
    tokens: Mutex<BTreeMap<u32, Vec<Token>>>,
    operations: Mutex<Vec<Operation>>,
}

/// session-layer's own tokens, under digests that depend on the seed.
struct Aliased(Arc<World>);

impl TokenScheme for Aliased {
    fn digest(&self, token: &str) -> Result<TokenDigest, TokenError> {
        let real = OpaqueTokens.digest(token)?;
        Ok(self.0.lock().known_as(real))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Schedule {
    async fn run(plan: &Plan, mistake: Option<Mistake>, trace: bool) -> Ran {
        let redis = Redis::new(plan.replica);
        let world = World::new(plan.seed, plan.network, redis, Postgres::new(), trace);
        let settings = NodeSettings {
            policy: match plan.fail_closed {
                true => PartitionPolicy::FailClosed,
                false => PartitionPolicy::Available,
            },
            near_cache: if plan.near_caches { NEAR_CACHE } else { 0 },
            pause_after: if plan.pauses { PAUSE_AFTER } else { Duration::ZERO },
        };
        let nodes = (0..NODES).map(|node| start(&world, settings, mistake, node, 0));
        let schedule = Arc::new(Self {
            subject: SessionLayerSubject::new(nodes),
            world: Arc::clone(&world),
            mistake,
            settings,
            tokens: Mutex::default(),
            operations: Mutex::default(),
        });
        for (at, breaks) in plan.faults.clone() {
            schedule.plan_fault(at, breaks);
        }
        for (number, planned) in plan.operations.iter().enumerate() {
            tokio::spawn(Arc::clone(&schedule).perform(number, *planned));
        }
        world.run(tokio::time::sleep(Duration::from_millis(plan.end))).await;
        let history = schedule.history(plan);
        let verdicts = invariants::check(&history);
        let coverage = schedule.coverage(&history);
        Ran { history, verdicts, coverage, trace: world.trace() }
    }

    /// Kills the process, and starts another one.
    fn restart_node(&self, node: u32) {
        let life = self.world.lock().end_life(node);
        let started = start(&self.world, self.settings, self.mistake, node, life);
        drop(self.subject.replace(node, started));
    }

    fn history(&self, plan: &Plan) -> History {
        let mut header = Header::new(plan.seed, NODES + 1);
        let operations = lock(&self.operations).clone();
        let parameters = &mut header.parameters;
        parameters.ttl = TTL;
        parameters.d = D;
        // A timer counts whole milliseconds.
        parameters.budget_slack = Duration::from_millis(3);
        parameters.touch = TTL.min(Duration::from_secs(2));
        parameters.single_server = plan.replica.is_none();
        parameters.near_caches = plan.near_caches;
        let mut history = History::new(header);
        let count = operations.len() as u64;
        history.operations = operations;
        history.faults.clone_from(&self.world.lock().faults);
        let at = self.world.stamp();
        history.end = Some(End { at, due: count, sent: count });
        history
    }

    fn coverage(&self, history: &History) -> Coverage {
        let state = self.world.lock();
        let mut coverage = state.coverage;
        coverage.add(state.postgres.coverage);
        coverage.saw_if(Event::FailClosed, self.settings.policy == PartitionPolicy::FailClosed);
        let near_hit = |node| self.subject.node(node).is_some_and(|it| it.metrics().near_hits > 0);
        coverage.saw_if(Event::NearHit, (0..NODES).any(near_hit));
        for operation in &history.operations {
            match operations::answer_of(&mut operation.op.clone()) {
                Some(Some(Change::Propagated)) => coverage.saw(Event::Propagated),
                Some(Some(Change::Committed { .. })) => coverage.saw(Event::Committed),
                Some(Some(Change::Unknown(_))) => coverage.saw(Event::UnknownFate),
                _ => {}
            }
        }
        coverage
    }
}

/// Starts the process of a node.
fn start(
    world: &Arc<World>,
    settings: NodeSettings,
    mistake: Option<Mistake>,
    node: u32,
    life: u32,
) -> Sessions {
    let broken = Broken::new(mistake);
    let cache = BrokenCache {
        cache: SimulatedCache::open(world, node, life, mistake),
        broken: broken.clone(),
    };
    let store =
        BrokenStore { store: Arc::new(SimulatedStore::new(world, node, life, mistake)), broken };
    let budget = match mistake {
        Some(Mistake::NoDeadline) => Duration::from_secs(3600),
        _ => BUDGET,
    };
    Sessions::builder(cache, store)
        .ttl(TTL)
        .validation_timeout(budget)
        .policy(settings.policy)
        .near_cache(settings.near_cache)
        .pause_without_traffic(settings.pause_after)
        .token_scheme(Aliased(Arc::clone(world)))
        .build()
        .expect("the settings are allowed")
}

/// Returns the seed of one schedule.
pub(crate) fn seed(base: u64, number: u64) -> u64 {
    mix(&[base, number])
}
