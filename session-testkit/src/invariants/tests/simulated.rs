//! A simulated session cache that keeps every promise and uses all the room that the promises leave: it
//! serves old copies for as long as it may, loses answers, and can't reach Postgres at times. With a [`Bug`] it
//! breaks one promise, and says whether it did.
//!
//! It knows the truth (when each change was committed) and never looks at the checker, so that the two
//! can be held against each other.

use std::collections::HashMap;

use crate::{
    history::{
        Change, Creation, Entry, Fault, Header, History, InFlight, Nanos, Op, Operation, Place,
        Resource, Sample, Scan, Search, nanos,
    },
    invariants::Invariant,
    subject::Seen,
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

/// What Postgres holds of a session, at one time.
#[derive(Debug, Clone)]
struct Row {
    since: Nanos,
    data: String,
    ended: bool,
    current: u32,
    previous: Option<(u32, Nanos)>,
}

#[derive(Debug)]
struct Session {
    user: usize,
    began: Nanos,
    lifetime: Option<Nanos>,
    idle: Option<Nanos>,
    /// The oldest first; empty until committed.
    rows: Vec<Row>,
    known_from: Option<Nanos>,
    /// With the answer that gave them out.
    tokens: Vec<(u32, Nanos)>,
    last_seen: Nanos,
    /// Answers `Propagated`: nothing older may be seen by what begins later.
    barrier: Nanos,
    /// (call, answer) of the Invalids.
    invalids: Vec<(Nanos, Nanos)>,
    /// Answers that ended it, and for the bugs: by a revoke, by a revoke-all.
    revoked: Option<Nanos>,
    all_revoked: Option<Nanos>,
    rotated: bool,
    /// A bug denied it wrongly: nothing is said of it any more.
    silent: bool,
}

impl Session {
    fn row(&self, at: Nanos) -> Option<&Row> {
        let after = self.rows.partition_point(|row| row.since <= at);
        self.rows.get(after.checked_sub(1)?)
    }

    fn expires(&self) -> Nanos {
        let born = self.rows.first().map_or(0, |row| row.since);
        let absolute = self.lifetime.map(|lifetime| born + lifetime);
        let idle = self.idle.map(|idle| self.last_seen + idle);
        absolute.into_iter().chain(idle).min().unwrap_or(Nanos::MAX)
    }

    fn resolves(row: &Row, token: u32, now: Nanos) -> bool {
        row.current == token
            || row
                .previous
                .is_some_and(|(old, until)| old == token && now <= until)
    }

    fn alive(&self, row: &Row, token: u32, now: Nanos, slack: Nanos) -> bool {
        let now = now.saturating_sub(slack);
        !row.ended && Self::resolves(row, token, now) && now <= self.expires()
    }

    fn denied_before(&self, call: Nanos, span: Nanos) -> bool {
        self.invalids.iter().any(|(_, ret)| ret + span < call)
    }
}

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
                name: "simulated".to_owned(),
                at,
                since: None,
                until: Some(until),
                healed: None,
                nodes: match each.of {
                    Broken::PostgresFrom(node) => Some(vec![node]),
                    Broken::Redis | Broken::Postgres => None,
                },
                no_postgres: each.of != Broken::Redis,
                no_redis: each.of == Broken::Redis,
                touched: None,
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

    fn create(&mut self, at: usize, call: Nanos, point: Nanos) -> Op {
        let step = self.plan.steps[at];
        let number = self.about[at].map_or(0, |(number, _)| number);
        let user = self.sessions[number].user;
        let raised = self
            .epochs
            .get(&user)
            .into_iter()
            .flatten()
            .any(|e| *e >= call);
        let refused = raised || self.cut(step.node, point, point);
        let data = format!("{number}.0");
        let session = &mut self.sessions[number];
        if !refused {
            session.last_seen = point;
            session.rows.push(Row {
                since: point,
                data: data.clone(),
                ended: false,
                current: 0,
                previous: None,
            });
        }
        let answer = match (refused, step.fate) {
            (true, _) => Creation::Refused("simulated".to_owned()),
            (false, Fate::Lost) => Creation::Unknown("simulated".to_owned()),
            (false, _) => Creation::Created,
        };
        Op::Create {
            session: number_of(number),
            user: USERS[user].to_owned(),
            data,
            began: None,
            lifetime_ms: session.lifetime.map(|ns| ns / MS),
            idle_ms: session.idle.map(|ns| ns / MS),
            answer: Some(answer),
        }
    }

    fn validate(&mut self, at: usize, call: Nanos, point: Nanos, ret: Nanos) -> Option<Op> {
        let (number, token) = self.about[at]?;
        let step = self.plan.steps[at];
        let right = self.right(at, number, token, call, point);
        let wrong = self.wrong(step, number, token, (call, point, ret), &right);
        if wrong.is_some() && step.fate != Fate::Dropped {
            self.shown = true;
        }
        Some(Op::Validate {
            session: number_of(number),
            token,
            answer: Some(wrong.unwrap_or(right)),
        })
    }

    /// One of the right answers.
    fn right(&mut self, at: usize, number: usize, token: u32, call: Nanos, point: Nanos) -> Seen {
        let step = self.plan.steps[at];
        let parameters = self.history.header.parameters;
        let cut = self.cut(step.node, point, point);
        let floor = self.floor[at];
        let single_server = self.plan.single_server;
        let session = &mut self.sessions[number];
        let user = USERS[session.user].to_owned();
        if step.luck < 10 || session.silent {
            return Seen::Unavailable;
        }
        let truth = session.row(point).cloned();
        let alive = truth
            .as_ref()
            .is_some_and(|row| session.alive(row, token, point, 0));
        // With less life left than a touch may be late, no copy is believed.
        let lively = session.idle.is_none() || session.expires() > point + TOUCH_MS * MS;
        if step.luck >= 40 && lively {
            let back = (call - floor) * (step.luck - 40) / 60;
            let slack = if single_server {
                0
            } else {
                nanos(parameters.skew) / 2
            };
            let copy = session.row(call - back).cloned();
            if let Some(copy) = copy.filter(|copy| session.alive(copy, token, point, slack)) {
                if alive && !cut {
                    touch(session, point);
                }
                return Seen::Valid {
                    user,
                    data: copy.data,
                };
            }
        }
        match truth {
            _ if cut => Seen::Unavailable,
            Some(row) if alive => {
                touch(session, point);
                Seen::Valid {
                    user,
                    data: row.data,
                }
            }
            _ => Seen::Invalid,
        }
    }

    /// What the bug makes of it, where it breaks its own promise and no other.
    fn wrong(
        &mut self,
        step: Step,
        number: usize,
        token: u32,
        (call, point, ret): (Nanos, Nanos, Nanos),
        right: &Seen,
    ) -> Option<Seen> {
        let parameters = self.history.header.parameters;
        let (d, skew) = (nanos(parameters.d), nanos(parameters.skew));
        let in_touch = !self.cut(step.node, call.saturating_sub(d), call);
        let cut_at_point = self.cut(step.node, point, point);
        let wholly_cut = self.wholly_cut(step.node, call, ret);
        let single = self.plan.single_server;
        let session = &mut self.sessions[number];
        let row = session.rows.last()?;
        let user = USERS[session.user].to_owned();
        let valid = Seen::Valid {
            user: user.clone(),
            data: row.data.clone(),
        };
        let denied = session.denied_before(call, if single { 0 } else { d });
        let unexpired = session.expires() >= ret;
        // By its rows' tokens: those of rotations are their own business here.
        let plain = !session.rotated && *right != valid && !denied && !session.silent;
        let since = |answer: Option<Nanos>, span: Nanos| answer.is_some_and(|t| t + span < call);
        match self.bug? {
            Invariant::R1 if single && plain && unexpired => {
                (since(session.revoked, 0) && session.all_revoked.is_none()).then_some(valid)
            }
            Invariant::R1Delta if !single && plain && unexpired => {
                (in_touch && since(session.revoked, d) && session.all_revoked.is_none())
                    .then_some(valid)
            }
            Invariant::R13 if plain && unexpired => {
                let bound = if single { 0 } else { d };
                (in_touch && since(session.all_revoked, bound) && session.revoked.is_none())
                    .then_some(valid)
            }
            Invariant::R2 => {
                let unanswered = row.ended
                    && session.revoked.is_none()
                    && session.all_revoked.is_none()
                    && !session.rotated
                    && unexpired;
                (unanswered && in_touch && session.denied_before(call, d)).then_some(valid)
            }
            Invariant::R3 => {
                let alive = session.alive(row, token, ret, 0) && session.idle.is_none();
                // Far from its expiry, and from what is under way.
                let sure = alive
                    && session.expires() > ret + skew
                    && !session.rotated
                    && !session.rows.is_empty()
                    && !self.ending(number, ret);
                let session = &mut self.sessions[number];
                if !sure || wholly_cut || step.fate == Fate::Dropped {
                    return None;
                }
                session.silent = true;
                Some(Seen::Invalid)
            }
            Invariant::R5 => {
                let Seen::Valid { data, .. } = right else {
                    return None;
                };
                Some(if step.luck.is_multiple_of(2) {
                    Seen::Valid {
                        user,
                        data: "never written".to_owned(),
                    }
                } else {
                    Seen::Valid {
                        user: "mallory".to_owned(),
                        data: data.clone(),
                    }
                })
            }
            Invariant::R6 => {
                let alone = session.rows.iter().all(|row| !row.ended) && !session.rotated;
                // Its login was answered 250 ms after its row was written at most.
                let over = session.expires().saturating_add(skew + 250 * MS);
                (alone && !denied && session.idle.is_none() && call > over).then_some(valid)
            }
            Invariant::R7 => {
                let gone = row.ended && !session.alive(row, token, call, 0);
                (gone && wholly_cut && cut_at_point && *right == Seen::Unavailable)
                    .then_some(Seen::Invalid)
            }
            _ => None,
        }
    }

    /// Was anything that ends the session called by then?
    fn ending(&self, number: usize, ret: Nanos) -> bool {
        let times = self.times();
        let user = self.sessions[number].user;
        self.plan.steps.iter().enumerate().any(|(at, step)| {
            let ends = match step.kind {
                Kind::Revoke | Kind::Rotate => {
                    self.about[at].is_none_or(|(about, _)| about == number)
                }
                Kind::RevokeAll => step.pick % USERS.len() == user,
                _ => false,
            };
            ends && times[at].0 <= ret
        })
    }

    fn random(&mut self, step: Step, call: Nanos, point: Nanos, ret: Nanos) -> Op {
        let comes = step.fate != Fate::Dropped;
        let cut = self.cut(step.node, point, point);
        let mut answer = if cut || step.luck < 10 {
            Seen::Unavailable
        } else {
            Seen::Invalid
        };
        if comes && self.bug == Some(Invariant::R4) {
            self.shown = true;
            answer = Seen::Valid {
                user: "eve".to_owned(),
                data: String::new(),
            };
        }
        if comes && self.bug == Some(Invariant::R7) && self.wholly_cut(step.node, call, ret) {
            self.shown = true;
            answer = Seen::Invalid;
        }
        Op::ValidateRandom {
            answer: Some(answer),
        }
    }

    fn change(&mut self, at: usize, point: Nanos) -> Option<Op> {
        let (number, token) = self.about[at]?;
        let step = self.plan.steps[at];
        let cut = self.cut(step.node, point, point);
        let done = self.done(step.fate);
        // What is not acknowledged happens or does not.
        let happens = !cut && (step.fate == Fate::Comes || step.luck.is_multiple_of(2));
        let data = format!("{number}.{}", at + 1);
        let session = &mut self.sessions[number];
        let mut row = session.rows.last()?.clone();
        row.since = point;
        let resolves = Session::resolves(&row, token, point);
        let alive = session.alive(&row, token, point, 0);
        let number = number_of(number);
        let refused = || Some(Change::Refused("simulated".to_owned()));
        let grace_ms = if step.luck.is_multiple_of(3) {
            0
        } else {
            step.luck * 50
        };
        let next = row.current + 1;
        let (op, row) = match step.kind {
            Kind::Update => {
                let answer = if cut || !alive { refused() } else { Some(done) };
                row.data.clone_from(&data);
                let op = Op::Update {
                    session: number,
                    token,
                    data,
                    answer,
                };
                (op, (alive && happens).then_some(row))
            }
            Kind::Revoke => {
                let answer = match (cut, resolves) {
                    (true, _) => refused(),
                    (false, false) => Some(Change::Nothing),
                    (false, true) => Some(done),
                };
                row.ended = true;
                let op = Op::Revoke {
                    session: number,
                    token,
                    answer,
                };
                (op, (resolves && happens).then_some(row))
            }
            _ => {
                let wins = !cut && alive && row.current == token;
                session.rotated |= wins && happens;
                let answer = if wins { Some(done) } else { refused() };
                let gives = wins && step.fate == Fate::Comes;
                row.previous = Some((token, point + grace_ms * MS));
                row.current = next;
                let op = Op::Rotate {
                    session: number,
                    token,
                    new_token: gives.then_some(next),
                    grace_ms,
                    answer,
                };
                (op, (wins && happens).then_some(row))
            }
        };
        session.rows.extend(row);
        Some(op)
    }

    fn revoke_all(&mut self, step: Step, point: Nanos) -> Op {
        let user = step.pick % USERS.len();
        let happens = step.fate == Fate::Comes || step.luck.is_multiple_of(2);
        let cut = self.cut(step.node, point, point);
        let answer = if cut {
            Change::Refused("simulated".to_owned())
        } else {
            self.done(step.fate)
        };
        if !cut && happens {
            self.epochs.entry(user).or_default().push(point);
            for session in self.sessions.iter_mut().filter(|each| each.user == user) {
                if let Some(mut row) = session.rows.last().cloned() {
                    row.ended = true;
                    row.since = point;
                    session.rows.push(row);
                }
            }
        }
        Op::RevokeAll {
            user: USERS[user].to_owned(),
            answer: Some(answer),
        }
    }

    fn done(&self, fate: Fate) -> Change {
        let parameters = &self.history.header.parameters;
        match fate {
            Fate::Lost => Change::Unknown("simulated".to_owned()),
            _ if self.plan.single_server => Change::Propagated,
            _ => {
                let whole = |span| nanos(span) / MS;
                Change::Committed {
                    within_ms: whole(parameters.d),
                    at_most_ms: whole(parameters.ttl + parameters.lease),
                }
            }
        }
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

    fn learn(&mut self, at: usize, op: &Op, call: Nanos, ret: Nanos) {
        let step = self.plan.steps[at];
        if let (
            Op::RevokeAll {
                answer: Some(answer),
                ..
            },
            user,
        ) = (op, step.pick % USERS.len())
        {
            if answer.reach().is_some() {
                let theirs = |each: &&mut Session| each.user == user && each.began < call;
                for session in self.sessions.iter_mut().filter(theirs) {
                    session.barrier = session.barrier.max(ret);
                    session.all_revoked.get_or_insert(ret);
                }
            }
            return;
        }
        let Some((number, _)) = self.about[at] else {
            return;
        };
        let session = &mut self.sessions[number];
        match op {
            Op::Create {
                answer: Some(Creation::Created),
                ..
            } => {
                session.known_from = Some(ret);
                session.tokens.push((0, ret));
            }
            Op::Validate {
                answer: Some(Seen::Invalid),
                ..
            } => session.invalids.push((call, ret)),
            Op::Rotate {
                answer: Some(answer),
                new_token,
                ..
            } => {
                session.tokens.extend(new_token.map(|token| (token, ret)));
                if answer.reach().is_some() {
                    session.barrier = session.barrier.max(ret);
                }
            }
            Op::Update {
                answer: Some(answer),
                ..
            }
            | Op::Revoke {
                answer: Some(answer),
                ..
            } => {
                if answer.reach().is_some() {
                    session.barrier = session.barrier.max(ret);
                    if matches!(op, Op::Revoke { .. }) {
                        session.revoked.get_or_insert(ret);
                    }
                }
            }
            _ => {}
        }
    }

    /// What is observed beside the operations.
    fn observe(&mut self, last: Nanos) {
        let bug = self.bug;
        let is = |invariant| bug == Some(invariant);
        self.shown |= [Invariant::R8, Invariant::R10, Invariant::R12]
            .map(is)
            .contains(&true);
        self.shown |= is(Invariant::R11) && !self.history.faults.is_empty();
        let sample = |at, value| Sample {
            at,
            node: 0,
            of: Resource::Tasks,
            value,
        };
        self.history.samples.push(sample(1, 12));
        let mut quiet = last;
        for fault in &self.history.faults {
            let healed = fault.longest().1;
            quiet = quiet.max(healed);
            let value = if is(Invariant::R11) { 13 } else { 12 };
            self.history.samples.push(sample(fault.at + MS, 90));
            self.history.samples.push(sample(healed + MS, value));
        }
        let reads = if is(Invariant::R10) { 17 } else { 16 };
        self.history.in_flight.push(InFlight {
            at: 2,
            node: 1,
            reads,
        });
        let parameters = &self.history.header.parameters;
        let scanned = quiet + nanos(parameters.ttl + parameters.lease);
        let stale = if is(Invariant::R8) {
            vec![0]
        } else {
            Vec::new()
        };
        self.history.push(Entry::Scan(Scan {
            at: scanned,
            entries: 9,
            stale,
        }));
        for place in Place::ALL {
            let found = if is(Invariant::R12) {
                vec![0]
            } else {
                Vec::new()
            };
            self.history.searches.push(Search {
                at: scanned,
                place,
                bytes: 1,
                found,
            });
        }
    }
}

fn touch(session: &mut Session, point: Nanos) {
    if point.saturating_sub(session.last_seen) > TOUCH_MS * MS {
        session.last_seen = point;
    }
}

fn number_of(number: usize) -> u32 {
    u32::try_from(number).unwrap()
}

fn forget_answer(op: &mut Op) {
    match op {
        Op::Create { answer, .. } => *answer = None,
        Op::Validate { answer, .. } | Op::ValidateRandom { answer } => *answer = None,
        Op::Update { answer, .. } | Op::Revoke { answer, .. } | Op::RevokeAll { answer, .. } => {
            *answer = None
        }
        Op::Rotate {
            answer, new_token, ..
        } => {
            *answer = None;
            *new_token = None;
        }
    }
}
