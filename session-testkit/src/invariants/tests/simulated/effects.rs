//! The effects of operations, and their right results.

use super::{
    Fate, Kind, MS, Simulation, Step, TOUCH_MS, USERS,
    session::{Row, Session, number_of, touch},
};
use crate::{
    history::{Change, Creation, Nanos, Op, nanos},
    invariants::Invariant,
    subject::Seen,
};

impl Simulation {
    pub(super) fn create(&mut self, at: usize, call: Nanos, point: Nanos) -> Op {
        let step = self.plan.steps[at];
        let number = self.about[at].map_or(0, |(number, _)| number);
        let user = self.sessions[number].user;
        let raised = self.epochs.get(&user).into_iter().flatten().any(|e| *e >= call);
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

    pub(super) fn validate(
        &mut self,
        at: usize,
        call: Nanos,
        point: Nanos,
        ret: Nanos,
    ) -> Option<Op> {
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

    /// Returns one of the right results.
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
        let alive = truth.as_ref().is_some_and(|row| session.alive(row, token, point, 0));
        // If less time is left than a touch may be late, no entry is served.
        let lively = session.idle.is_none() || session.expires() > point + TOUCH_MS * MS;
        if step.luck >= 40 && lively {
            let back = (call - floor) * (step.luck - 40) / 60;
            let slack = if single_server { 0 } else { nanos(parameters.skew) / 2 };
            let copy = session.row(call - back).cloned();
            if let Some(copy) = copy.filter(|copy| session.alive(copy, token, point, slack)) {
                if alive && !cut {
                    touch(session, point);
                }
                return Seen::Valid { user, data: copy.data };
            }
        }
        match truth {
            _ if cut => Seen::Unavailable,
            Some(row) if alive => {
                touch(session, point);
                Seen::Valid { user, data: row.data }
            }
            _ => Seen::Invalid,
        }
    }

    pub(super) fn random(&mut self, step: Step, call: Nanos, point: Nanos, ret: Nanos) -> Op {
        let comes = step.fate != Fate::Dropped;
        let cut = self.cut(step.node, point, point);
        let mut answer = if cut || step.luck < 10 { Seen::Unavailable } else { Seen::Invalid };
        if comes && self.bug == Some(Invariant::R4) {
            self.shown = true;
            answer = Seen::Valid { user: "eve".to_owned(), data: String::new() };
        }
        if comes && self.bug == Some(Invariant::R7) && self.wholly_cut(step.node, call, ret) {
            self.shown = true;
            answer = Seen::Invalid;
        }
        Op::ValidateRandom { answer: Some(answer) }
    }

    pub(super) fn change(&mut self, at: usize, point: Nanos) -> Option<Op> {
        let (number, token) = self.about[at]?;
        let step = self.plan.steps[at];
        let cut = self.cut(step.node, point, point);
        let done = self.done(step.fate);
        // An unacknowledged change may or may not happen.
        let happens = !cut && (step.fate == Fate::Comes || step.luck.is_multiple_of(2));
        let data = format!("{number}.{}", at + 1);
        let session = &mut self.sessions[number];
        let mut row = session.rows.last()?.clone();
        row.since = point;
        let resolves = Session::resolves(&row, token, point);
        let alive = session.alive(&row, token, point, 0);
        let number = number_of(number);
        let refused = || Some(Change::Refused("simulated".to_owned()));
        let grace_ms = if step.luck.is_multiple_of(3) { 0 } else { step.luck * 50 };
        let next = row.current + 1;
        let (op, row) = match step.kind {
            Kind::Update => {
                let answer = if cut || !alive { refused() } else { Some(done) };
                row.data.clone_from(&data);
                let op = Op::Update { session: number, token, data, answer };
                (op, (alive && happens).then_some(row))
            }
            Kind::Revoke => {
                let answer = match (cut, resolves) {
                    (true, _) => refused(),
                    (false, false) => Some(Change::Nothing),
                    (false, true) => Some(done),
                };
                row.ended = true;
                let op = Op::Revoke { session: number, token, answer };
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

    pub(super) fn revoke_all(&mut self, step: Step, point: Nanos) -> Op {
        let user = step.pick % USERS.len();
        let happens = step.fate == Fate::Comes || step.luck.is_multiple_of(2);
        let cut = self.cut(step.node, point, point);
        let answer =
            if cut { Change::Refused("simulated".to_owned()) } else { self.done(step.fate) };
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
        Op::RevokeAll { user: USERS[user].to_owned(), answer: Some(answer) }
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
}
