//! A breadth-first model checker.
//!
//! It explores level by level. The first violation of each promise is therefore a shortest one. It
//! continues after a violation, and one run decides every promise. It keeps visited states as
//! 64-bit fingerprints. With 60 million states, the chance of any collision is about 1 in 10,000,
//! and another seed makes other fingerprints. To replay a trace, it also keeps each state's
//! predecessor, and the rank of the step between them.

use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::time::{Duration, Instant};

mod healing;
mod seen;
mod step;

use self::healing::Healing;
use self::seen::{Seen, fingerprint};
pub(crate) use self::step::{Label, Step, Steps};

/// A model to explore.
pub(crate) trait Model {
    /// A state. Equal values are the same state.
    type State: Copy + Hash;

    /// Returns the first state.
    fn start(&self) -> Self::State;

    /// Adds everything that may happen next.
    fn steps(&self, state: &Self::State, out: &mut Steps<Self::State>);

    /// Returns whether a goal must be reachable from this state without a fault.
    fn must_heal(&self, _: &Self::State) -> bool {
        false
    }
}

/// The limits of an exploration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The maximum of states.
    pub states: usize,
    /// The seed of the fingerprints. Another one must give the same counts.
    pub seed: u64,
}

impl Default for Limits {
    /// Permits far more states than the largest run needs.
    fn default() -> Self {
        Self { states: 60_000_000, seed: 0 }
    }
}

/// How to explore one run.
#[derive(Clone, Copy)]
pub(crate) struct Order {
    pub(crate) limits: Limits,
    /// Stop once all of these promises are broken. If it is 0, never stop.
    pub(crate) stop_on: u32,
    /// The mark that must stay reachable from every state of [`Model::must_heal`]. If it is 0,
    /// this is not checked, because it keeps every step in memory.
    pub(crate) goal: u32,
}

/// The result of an exploration.
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) steps: u64,
    /// The length of the longest of all shortest paths.
    pub(crate) depth: usize,
    pub(crate) took: Duration,
    /// Broken promises, each with a shortest trace.
    pub(crate) broken: Vec<(u32, Vec<String>)>,
    pub(crate) reached: u32,
    /// Every state was explored.
    pub(crate) complete: bool,
    /// How many states cannot heal, if the order has a goal.
    pub(crate) stuck: Option<usize>,
}

/// How a state was reached: its predecessor, and the rank of the step.
#[derive(Clone, Copy)]
struct Origin {
    from: u32,
    rank: u8,
}

/// The start has no predecessor.
const START: u32 = u32::MAX;

/// Explores every reachable state.
pub(crate) fn explore<M: Model>(model: &M, order: Order) -> Found {
    let began = Instant::now();
    let mut seen = Seen::default();
    let mut origins = Vec::new();
    let mut healing = (order.goal != 0).then(Healing::default);
    let mut level = vec![(model.start(), 0)];
    seen.insert(fingerprint(&level[0].0, order.limits.seed), 0);
    origins.push(Origin { from: START, rank: 0 });
    if let Some(healing) = &mut healing {
        healing.state(model.must_heal(&level[0].0));
    }
    let (mut count, mut depth, mut reached, mut broken) = (0, 0, 0, 0);
    let mut violations: Vec<(u32, Origin)> = Vec::new();
    let mut complete = true;
    let mut steps = Steps::default();
    'all: while !level.is_empty() {
        let mut next = Vec::with_capacity(level.len() * 2);
        for (state, number) in &level {
            model.steps(state, steps.cleared());
            for (rank, step) in (0..=u8::MAX).zip(steps.all()) {
                let origin = Origin { from: *number, rank };
                count += 1;
                reached |= step.reached;
                let new = step.broken & !broken;
                if new != 0 {
                    broken |= new;
                    violations.push((new, origin));
                }
                let fresh = u32::try_from(origins.len()).expect("fewer than 2^32 states");
                let known = match seen.entry(fingerprint(&step.to, order.limits.seed)) {
                    Entry::Occupied(known) => Some(*known.get()),
                    Entry::Vacant(place) => {
                        place.insert(fresh);
                        None
                    }
                };
                if known.is_none() {
                    origins.push(origin);
                    next.push((step.to, fresh));
                }
                if let Some(healing) = &mut healing {
                    if known.is_none() {
                        healing.state(model.must_heal(&step.to));
                    }
                    if !step.fault {
                        let goal = step.reached & order.goal != 0;
                        healing.step(*number, known.unwrap_or(fresh), goal);
                    }
                }
            }
            let decided = order.stop_on != 0 && broken & order.stop_on == order.stop_on;
            if decided || origins.len() >= order.limits.states {
                complete = false;
                break 'all;
            }
        }
        depth += 1;
        level = next;
    }
    Found {
        states: origins.len(),
        steps: count,
        depth,
        took: began.elapsed(),
        broken: violations
            .iter()
            .map(|(promise, last)| (*promise, trace(model, &origins, *last)))
            .collect(),
        reached,
        complete,
        stuck: healing.filter(|_| complete).map(|healing| healing.count_stuck()),
    }
}

/// Replays the trace that ends with `last`.
fn trace<M: Model>(model: &M, origins: &[Origin], last: Origin) -> Vec<String> {
    let mut way = vec![last.rank];
    let mut at = origins[index(last.from)];
    while at.from != START {
        way.push(at.rank);
        at = origins[index(at.from)];
    }
    let mut state = model.start();
    let mut steps = Steps::default();
    way.iter()
        .rev()
        .map(|rank| {
            model.steps(&state, steps.cleared());
            let step = &steps.all()[usize::from(*rank)];
            state = step.to;
            step.label.to_string()
        })
        .collect()
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("a number of a state in memory")
}
