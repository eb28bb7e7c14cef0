//! Runs one plan: session-layer's own driver on three nodes, in a world of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use session_layer::{NotAToken, OpaqueTokens, Policy, Sessions, TokenDigest, TokenScheme};
use session_testkit::history::{Change, End, Header, History, Op, Operation};
use session_testkit::invariants::{self, Verdicts};
use session_testkit::subject::{SessionLayerSubject, Token};

use crate::cache::SimulatedCache;
use crate::coverage::{Coverage, Event};
use crate::dice::mix;
use crate::mutants::{Broken, BrokenCache, BrokenStore, Mistake};
use crate::plan::{NODES, Plan};
use crate::postgres::Postgres;
use crate::redis::Redis;
use crate::store::SimulatedStore;
use crate::world::World;

mod faults;
mod operations;

/// A short one: TTL and the bounds made of it pass within a schedule.
const TTL: Duration = Duration::from_secs(5);
/// Four reads of the journal.
const D: Duration = session_layer::DEFAULT_JOURNAL_INTERVAL.saturating_mul(4);
const BUDGET: Duration = session_layer::DEFAULT_BUDGET;

/// What a plan came to.
pub(crate) struct Ran {
    pub(crate) history: History,
    pub(crate) verdicts: Verdicts,
    pub(crate) coverage: Coverage,
    /// What happened in the world, line by line, if that was wanted.
    pub(crate) trace: Vec<String>,
}

/// Runs a plan, with a mistake or without.
pub(crate) fn run(plan: &Plan, mistake: Option<Mistake>, trace: bool) -> Ran {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // The world's task is polled when all others wait, however many there are.
        .event_interval(1_000_000)
        .build()
        .expect("a runtime");
    runtime.block_on(Schedule::run(plan, mistake, trace))
}

struct Schedule {
    world: Arc<World>,
    mistake: Option<Mistake>,
    policy: Policy,
    nodes: Mutex<Vec<Node>>,
    /// The tokens that were given out, by session; the place of one is its number.
    tokens: Mutex<BTreeMap<u32, Vec<Token>>>,
    operations: Mutex<Vec<Operation>>,
}

#[derive(Clone)]
struct Node {
    sessions: Sessions,
    subject: SessionLayerSubject,
}

/// Tokens as session-layer's own, under digests that the seed gives.
struct Aliased(Arc<World>);

impl TokenScheme for Aliased {
    fn digest(&self, presented: &str) -> Result<TokenDigest, NotAToken> {
        let real = OpaqueTokens.digest(presented)?;
        Ok(self.0.lock().known_as(real))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Schedule {
    async fn run(plan: &Plan, mistake: Option<Mistake>, trace: bool) -> Ran {
        let redis = Redis::new(plan.replica.is_some(), plan.replica.unwrap_or(0));
        let world = World::new(plan.seed, plan.weather, redis, Postgres::new(), trace);
        let schedule = Arc::new(Self {
            world: Arc::clone(&world),
            mistake,
            policy: if plan.fail_closed {
                Policy::FailClosed
            } else {
                Policy::Available
            },
            nodes: Mutex::default(),
            tokens: Mutex::default(),
            operations: Mutex::default(),
        });
        for node in 0..NODES {
            let started = schedule.start(node, 0);
            lock(&schedule.nodes).push(started);
        }
        for (at, breaks) in plan.faults.clone() {
            schedule.plan_fault(at, breaks);
        }
        for (number, planned) in plan.operations.iter().enumerate() {
            tokio::spawn(Arc::clone(&schedule).perform(number, *planned));
        }
        world
            .run(tokio::time::sleep(Duration::from_millis(plan.end)))
            .await;
        let history = schedule.history(plan);
        let verdicts = invariants::check(&history);
        let coverage = schedule.coverage(&history);
        Ran {
            history,
            verdicts,
            coverage,
            trace: world.trace(),
        }
    }

    fn start(&self, node: u32, life: u32) -> Node {
        let broken = Broken::new(self.mistake);
        let cache = BrokenCache {
            cache: SimulatedCache::open(&self.world, node, life, self.mistake),
            broken: broken.clone(),
        };
        let store = BrokenStore {
            store: Arc::new(SimulatedStore {
                world: Arc::clone(&self.world),
                node,
                life,
                mistake: self.mistake,
            }),
            broken,
        };
        let budget = if self.mistake == Some(Mistake::NoDeadline) {
            Duration::from_secs(3600)
        } else {
            BUDGET
        };
        let sessions = Sessions::builder(cache, store)
            .ttl(TTL)
            .budget(budget)
            .policy(self.policy)
            .token_scheme(Aliased(Arc::clone(&self.world)))
            .build();
        Node {
            subject: SessionLayerSubject::new([sessions.clone()]),
            sessions,
        }
    }

    /// The process is killed, and another takes its place.
    fn restart_node(&self, node: u32) {
        let life = {
            let mut state = self.world.lock();
            state.coverage.saw(Event::NodeRestart);
            state.end_life(node)
        };
        let started = self.start(node, life);
        lock(&self.nodes)[node as usize] = started;
    }

    fn node(&self, node: u32) -> Node {
        lock(&self.nodes)[node as usize].clone()
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
        let mut history = History::new(header);
        let count = operations.len() as u64;
        history.operations = operations;
        history.faults.clone_from(&self.world.lock().faults);
        let at = self.world.stamp();
        history.end = Some(End {
            at,
            due: count,
            sent: count,
        });
        history
    }

    fn coverage(&self, history: &History) -> Coverage {
        let mut coverage = self.world.lock().coverage;
        if self.policy == Policy::FailClosed {
            coverage.saw(Event::FailClosed);
        }
        for operation in &history.operations {
            match answer_of(&operation.op) {
                Some(Change::Propagated) => coverage.saw(Event::Propagated),
                Some(Change::Committed { .. }) => coverage.saw(Event::Committed),
                Some(Change::Unknown(_)) => coverage.saw(Event::UnknownFate),
                _ => {}
            }
        }
        coverage
    }
}

fn answer_of(op: &Op) -> Option<&Change> {
    match op {
        Op::Update { answer, .. }
        | Op::Revoke { answer, .. }
        | Op::RevokeAll { answer, .. }
        | Op::Rotate { answer, .. } => answer.as_ref(),
        _ => None,
    }
}

/// The seeds of a test: its base and its place.
pub(crate) fn seed(base: u64, number: u64) -> u64 {
    mix(&[base, number])
}
