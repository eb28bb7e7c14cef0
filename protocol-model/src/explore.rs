//! A plain breadth-first model checker.
//!
//! Level by level, so the first violation of each promise is a shortest one; it goes on after a
//! violation, so one run decides every promise. What was visited is kept as 64-bit fingerprints (at
//! 60 million states the chance that any two collide is about 1 in 10,000; another seed makes other
//! fingerprints). A state's predecessor and the rank of the step that led to it are kept too, which is
//! enough to replay a trace.

use std::hash::Hash;
use std::time::{Duration, Instant};

mod healing;
mod seen;
mod step;

use self::healing::Healing;
use self::seen::{Seen, fingerprint};
pub(crate) use self::step::{Label, Step, Steps, say};

/// What is explored.
pub(crate) trait Model {
    /// Its value is its identity.
    type State: Copy + Hash;

    /// Where it begins.
    fn start(&self) -> Self::State;

    /// Everything that may happen next.
    fn steps(&self, state: &Self::State, out: &mut Steps<Self::State>);

    /// Must it be possible, without a further fault, to get from this state to a goal?
    fn must_heal(&self, _: &Self::State) -> bool {
        false
    }
}

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Give up at this many states.
    pub states: usize,
    /// Of the fingerprints. Another one must give the same counts.
    pub seed: u64,
}

/// How one run is to be explored.
#[derive(Clone, Copy)]
pub(crate) struct Order {
    pub(crate) limits: Limits,
    /// Stop as soon as all of these promises are broken (0: never).
    pub(crate) stop_on: u32,
    /// What must stay reachable from every state that [`Model::must_heal`] names (0: not asked, for it
    /// keeps every step in memory).
    pub(crate) goal: u32,
}

/// What was found.
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) steps: u64,
    /// The longest shortest path.
    pub(crate) depth: usize,
    pub(crate) took: Duration,
    /// Promises, each with a shortest trace that breaks it.
    pub(crate) broken: Vec<(u32, Vec<String>)>,
    pub(crate) reached: u32,
    /// Everything was explored.
    pub(crate) complete: bool,
    /// How many states can't heal, where that was asked.
    pub(crate) stuck: Option<usize>,
}

/// The way to a state: its predecessor, and which of that one's steps it was.
#[derive(Clone, Copy)]
struct Origin {
    from: u32,
    rank: u8,
}

/// The start has no predecessor.
const START: u32 = u32::MAX;

/// Explores everything reachable.
pub(crate) fn explore<M: Model>(model: &M, order: Order) -> Found {
    let began = Instant::now();
    let mut seen = Seen::new();
    let mut origins = Vec::new();
    let mut healing = (order.goal != 0).then(Healing::default);
    let mut level = vec![(model.start(), 0)];
    seen.note(fingerprint(&level[0].0, order.limits.seed), 0);
    origins.push(Origin {
        from: START,
        rank: 0,
    });
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
                let origin = Origin {
                    from: *number,
                    rank,
                };
                count += 1;
                reached |= step.reached;
                let new = step.broken & !broken;
                if new != 0 {
                    broken |= new;
                    violations.push((new, origin));
                }
                let fresh = u32::try_from(origins.len()).expect("fewer than 2^32 states");
                let known = seen.note(fingerprint(&step.to, order.limits.seed), fresh);
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
        stuck: healing
            .filter(|_| complete)
            .map(|healing| healing.count_stuck()),
    }
}

/// Replays the way that ends with `last`.
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
