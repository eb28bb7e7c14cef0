//! A simulated session cache that keeps every promise, but uses all the freedom that they leave. It
//! serves old entries for as long as it may, loses results, and is cut off from Postgres at times.
//! With a bug it breaks one promise, and records whether it did.
//!
//! It knows when each change was committed and never consults the checker. The two are therefore
//! independent.

mod bugs;
mod effects;
mod observed;
mod session;

use std::collections::HashMap;

use self::session::Session;

use crate::{
    history::{Fault, Header, History, Nanos, Op, Operation, nanos},
    invariants::Invariant,
};

pub(super) const MS: Nanos = 1_000_000;
const TOUCH_MS: u64 = 1_500;

/// One step of a client, as far as it does not depend on results.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) gap_ms: u64,
    pub(super) took_ms: u64,
    /// The moment between call and result at which it takes effect, in percent.
    pub(super) point: u64,
    pub(super) kind: Kind,
    pub(super) node: u32,
    /// The choice of the session, or of the user.
    pub(super) pick: usize,
    /// The choice among the right results.
    pub(super) luck: u64,
    pub(super) fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Create,
    Validate,
    Random,
    Update,
    Revoke,
    RevokeAll,
    Rotate,
}

/// The fate of the result. `Lost` is for changes, whose result then is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Comes,
    Dropped,
    Lost,
}

/// The server that is cut off, and from which node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Redis,
    Postgres,
    PostgresFrom(u32),
}

/// A fault, `gap_ms` after the last one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Break {
    pub(super) gap_ms: u64,
    pub(super) for_ms: u64,
    pub(super) of: Broken,
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) breaks: Vec<Break>,
    /// One Redis whose UNLINKs are acknowledged. Changes return `Propagated`, and otherwise
    /// `Committed`.
    pub(super) single_server: bool,
}

pub(super) const NODES: u32 = 2;
const USERS: [&str; 2] = ["ann", "bob"];

pub(super) struct Simulation {
    plan: Plan,
    bug: Option<Invariant>,
    /// Whether the bug was exposed.
    pub(super) shown: bool,
    pub(super) history: History,
    sessions: Vec<Session>,
    /// The times at which each user's epoch was raised.
    epochs: HashMap<usize, Vec<Nanos>>,
    /// Per step: its session and token, chosen at its call.
    about: Vec<Option<(usize, u32)>>,
    /// Per step: the oldest state that it may see.
    floor: Vec<Nanos>,
    /// Per step: its result.
    answers: Vec<Option<Op>>,
}

impl Simulation {
    pub(super) fn run(plan: Plan, bug: Option<Invariant>) -> Self {
        let mut header = Header::new(0, NODES);
        header.parameters.single_server = plan.single_server;
        header.parameters.ttl = std::time::Duration::from_secs(10);
        header.parameters.touch = std::time::Duration::from_millis(TOUCH_MS);
        header.parameters.bulkhead = Some(16);
        let steps = plan.steps.len();
        let mut simulation = Self {
            plan,
            bug,
            shown: false,
            history: History::new(header),
            sessions: Vec::new(),
            epochs: HashMap::new(),
            about: vec![None; steps],
            floor: vec![0; steps],
            answers: vec![None; steps],
        };
        simulation.break_things();
        let times = simulation.times();
        let mut events: Vec<(Nanos, u8, usize)> = Vec::new();
        for (at, (call, point, ret)) in times.iter().enumerate() {
            events.extend([(*call, 0, at), (*point, 1, at), (*ret, 2, at)]);
        }
        events.sort_unstable_by_key(|(time, phase, at)| (*time, *at, *phase));
        for (_, phase, at) in events {
            let (call, point, ret) = times[at];
            match phase {
                0 => simulation.call(at, call),
                1 => simulation.point(at, call, point, ret),
                _ => simulation.answer(at, call, ret),
            }
        }
        simulation.observe(times.iter().map(|(.., ret)| *ret).max().unwrap_or(0));
        simulation
    }

    fn break_things(&mut self) {
        let mut at = 0;
        for each in &self.plan.breaks {
            at += (each.gap_ms + 10) * MS;
            let until = at + each.for_ms * MS;
            self.history.faults.push(Fault {
                until: Some(until),
                nodes: match each.of {
                    Broken::PostgresFrom(node) => Some(vec![node]),
                    Broken::Redis | Broken::Postgres => None,
                },
                no_postgres: each.of != Broken::Redis,
                no_redis: each.of == Broken::Redis,
                ..Fault::new("simulated", at)
            });
            at = until;
        }
    }

    /// Returns call, effect and result time of each step.
    fn times(&self) -> Vec<(Nanos, Nanos, Nanos)> {
        let mut now = MS;
        let times = self.plan.steps.iter().map(|step| {
            now += step.gap_ms * MS + 1;
            let took = match (step.kind, self.bug) {
                (Kind::Validate, Some(Invariant::R9)) => step.took_ms + 250,
                _ => step.took_ms,
            };
            let point = now + took * MS * step.point / 100;
            (now, point, now + took * MS)
        });
        times.collect()
    }

    fn any_fault(&self, matches: impl Fn(&Fault, Nanos, Nanos) -> bool) -> bool {
        self.history.faults.iter().any(|fault| {
            let (at, until) = fault.longest();
            matches(fault, at, until)
        })
    }

    fn cut(&self, node: u32, from: Nanos, to: Nanos) -> bool {
        self.any_fault(|fault, at, until| {
            fault.no_postgres && fault.affects(node) && at <= to && from <= until
        })
    }

    /// Returns whether one fault cut the node off for the whole span.
    fn wholly_cut(&self, node: u32, from: Nanos, to: Nanos) -> bool {
        self.any_fault(|fault, at, until| {
            fault.no_postgres && fault.affects(node) && at <= from && to <= until
        })
    }

    fn redis_disturbed(&self, from: Nanos, to: Nanos) -> bool {
        self.any_fault(|fault, at, until| fault.no_redis && at <= to && from <= until)
    }

    /// Chooses the step's session and token, and the oldest state that it may see.
    fn call(&mut self, at: usize, call: Nanos) {
        let step = self.plan.steps[at];
        match step.kind {
            Kind::Create => {
                let number = self.sessions.len();
                self.sessions.push(Session {
                    user: step.pick % USERS.len(),
                    began: call,
                    lifetime: (step.luck.is_multiple_of(3)).then_some(8_000 * MS),
                    idle: (step.luck.is_multiple_of(4)).then_some(6_000 * MS),
                    ..Session::default()
                });
                self.about[at] = Some((number, 0));
            }
            Kind::Random | Kind::RevokeAll => {}
            Kind::Validate | Kind::Update | Kind::Revoke | Kind::Rotate => {
                let known = |(_, session): &(usize, &Session)| {
                    session.known_from.is_some_and(|from| from < call)
                };
                let known: Vec<_> = self.sessions.iter().enumerate().filter(known).collect();
                let Some((number, session)) = known.get(step.pick % known.len().max(1)) else {
                    return;
                };
                // Usually the newest token, sometimes the one before.
                let back = usize::from(step.luck.is_multiple_of(5)).min(session.tokens.len() - 1);
                let (token, _) = session.tokens[session.tokens.len() - 1 - back];
                self.about[at] = Some((*number, token));
                self.floor[at] = self.oldest(session, step.node, call);
            }
        }
    }

    fn oldest(&self, session: &Session, node: u32, call: Nanos) -> Nanos {
        let parameters = &self.history.header.parameters;
        let (d, at_most) = (nanos(parameters.d), nanos(parameters.ttl + parameters.lease));
        let in_touch = !self.cut(node, call.saturating_sub(d), call);
        let bound = if in_touch { d } else { at_most };
        let mut oldest = call.saturating_sub(bound);
        if self.plan.single_server {
            oldest = oldest.max(session.barrier);
            for &(denied, ret) in &session.invalids {
                if !self.redis_disturbed(denied, call) {
                    oldest = oldest.max(ret);
                }
            }
        }
        oldest
    }

    fn point(&mut self, at: usize, call: Nanos, point: Nanos, ret: Nanos) {
        let step = self.plan.steps[at];
        let op = match step.kind {
            Kind::Create => Some(self.create(at, call, point)),
            Kind::Validate => self.validate(at, call, point, ret),
            Kind::Random => Some(self.random(step, call, point, ret)),
            Kind::Update | Kind::Revoke | Kind::Rotate => self.change(at, point),
            Kind::RevokeAll => Some(self.revoke_all(step, point)),
        };
        self.answers[at] = op;
    }

    /// Delivers or drops the result, and records what it proves.
    fn answer(&mut self, at: usize, call: Nanos, ret: Nanos) {
        let step = self.plan.steps[at];
        let Some(mut op) = self.answers[at].take() else {
            return;
        };
        let dropped = step.fate == Fate::Dropped;
        if dropped {
            forget_answer(&mut op);
        } else {
            self.learn(at, &op, call, ret);
        }
        if self.bug == Some(Invariant::R9) && op.is_validation() && ret - call > 250 * MS {
            self.shown = true;
        }
        self.history.operations.push(Operation {
            node: step.node,
            call,
            ret: (!dropped).then_some(ret),
            dropped: dropped.then_some(ret),
            op,
        });
    }
}

fn forget_answer(op: &mut Op) {
    match op {
        Op::Create { answer, .. } => *answer = None,
        Op::Validate { answer, .. } | Op::ValidateRandom { answer } => *answer = None,
        Op::Update { answer, .. } | Op::Revoke { answer, .. } | Op::RevokeAll { answer, .. } => {
            *answer = None;
        }
        Op::Rotate { answer, new_token, .. } => (*answer, *new_token) = (None, None),
    }
}
