//! A simulated session cache that keeps every promise and uses all the room that the promises leave: it
//! serves old copies for as long as it may, loses answers, and can't reach Postgres at times. With a [`Bug`] it
//! breaks one promise, and says whether it did.
//!
//! It knows the truth (when each change was committed) and never looks at the checker, so that the two
//! can be held against each other.

mod bugs;
mod observed;
mod session;
mod truth;

use std::collections::HashMap;

use self::session::Session;

use crate::{
    history::{Fault, Header, History, Nanos, Op, Operation, nanos},
    invariants::Invariant,
};

pub(super) const MS: Nanos = 1_000_000;
const TOUCH_MS: u64 = 1_500;

/// What one client does, as far as it does not depend on answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) gap_ms: u64,
    pub(super) took_ms: u64,
    /// When between call and answer it takes effect, in percent.
    pub(super) point: u64,
    pub(super) kind: Kind,
    pub(super) node: u32,
    /// Chooses the session, or the user.
    pub(super) pick: usize,
    /// Chooses among the answers that are right.
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

/// Of the answer. (`Lost` is for changes: their answer says that their fate is unknown.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Comes,
    Dropped,
    Lost,
}

/// What is cut off from whom.
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
    /// One Redis whose UNLINKs are acknowledged: answers are `Propagated`. Else they are `Committed`.
    pub(super) single_server: bool,
}

pub(super) const NODES: u32 = 2;
const USERS: [&str; 2] = ["ann", "bob"];

pub(super) struct Simulation {
    plan: Plan,
    bug: Option<Invariant>,
    /// Did the bug show?
    pub(super) shown: bool,
    pub(super) history: History,
    sessions: Vec<Session>,
    /// When each user's epoch was raised.
    epochs: HashMap<usize, Vec<Nanos>>,
    /// Per step: the session and token that it is about, chosen at its call; and what it will say.
    about: Vec<Option<(usize, u32)>>,
    floor: Vec<Nanos>,
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

    /// Call, effect and answer of each step.
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

    fn cut(&self, node: u32, from: Nanos, to: Nanos) -> bool {
        self.history.faults.iter().any(|fault| {
            let (at, until) = fault.longest();
            fault.no_postgres && fault.is_felt_by(node) && at <= to && from <= until
        })
    }

    /// All of it within one cut?
    fn wholly_cut(&self, node: u32, from: Nanos, to: Nanos) -> bool {
        self.history.faults.iter().any(|fault| {
            let (at, until) = fault.longest();
            fault.no_postgres && fault.is_felt_by(node) && at <= from && to <= until
        })
    }

    fn redis_disturbed(&self, from: Nanos, to: Nanos) -> bool {
        self.history.faults.iter().any(|fault| {
            let (at, until) = fault.longest();
            fault.no_redis && at <= to && from <= until
        })
    }

    /// Chooses what the step is about, and what is the oldest that it may see.
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
                    rows: Vec::new(),
                    known_from: None,
                    tokens: Vec::new(),
                    last_seen: 0,
                    barrier: 0,
                    invalids: Vec::new(),
                    revoked: None,
                    all_revoked: None,
                    rotated: false,
                    silent: false,
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
                // The newest token mostly, an older one at times.
                let back = usize::from(step.luck.is_multiple_of(5)).min(session.tokens.len() - 1);
                let (token, _) = session.tokens[session.tokens.len() - 1 - back];
                self.about[at] = Some((*number, token));
                self.floor[at] = self.oldest(session, step.node, call);
            }
        }
    }

    fn oldest(&self, session: &Session, node: u32, call: Nanos) -> Nanos {
        let parameters = &self.history.header.parameters;
        let (d, at_most) = (
            nanos(parameters.d),
            nanos(parameters.ttl + parameters.lease),
        );
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

    /// Where the step takes effect.
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

    /// The answer arrives, or not; what is known from it.
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
        Op::Rotate {
            answer, new_token, ..
        } => {
            *answer = None;
            *new_token = None;
        }
    }
}
