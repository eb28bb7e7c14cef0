//! The execution of one planned request: sent, answered or dropped, and recorded.

use std::{sync::Arc, time::Duration};

use super::{
    Clock, DropWhen, Recorder,
    cancel::dropping,
    plan::{Action, Planned, TokenChoice},
    sessions::{Known, Slots, Tokens},
    tally::Answered,
};
use crate::{
    history::{Change, Creation, Nanos, Op, Operation, nanos},
    subject::{Failed, Login, Subject, Token, Visibility},
};

/// The state that all requests of a run share.
#[derive(Debug)]
pub(super) struct Shared<S> {
    pub(super) subject: S,
    pub(super) slots: Slots,
    pub(super) tokens: Tokens,
    pub(super) recorder: Recorder,
    pub(super) patience: Duration,
    pub(super) sessions_per_user: u32,
}

impl<S: Subject> Shared<S> {
    fn user(&self, slot: u32) -> String {
        format!("user-{}", slot / self.sessions_per_user.max(1))
    }

    /// Sends and records the request. `load_began` is `None` for requests before the load.
    pub(super) async fn perform(
        self: Arc<Self>,
        planned: Planned,
        load_began: Option<Nanos>,
    ) -> Result<(), Failed> {
        let Planned { due, node, action, drop } = planned;
        let this = &*self;
        let newest = |slot| this.slots.choose(slot, TokenChoice::Newest);
        let load = load_began.map(|began| (began, due));
        let begin =
            |op| Pending::begin(&this.recorder, this.patience, node, op).planned(load, drop);
        match action {
            Action::Create { session, slot, lifetime, idle } => {
                let login = Login {
                    user: this.user(slot),
                    data: format!("{session}.0"),
                    lifetime,
                    idle,
                    begun: None,
                };
                let pending = begin(create_op(session, &login));
                let logged_in = log_in(&this.subject, this.recorder.clock(), node, login);
                match pending.run(logged_in, set_creation).await {
                    Some(Ok((token, _began))) => {
                        this.tokens.add(session, 0, token.clone());
                        this.slots.take(slot, Known::new(session, token));
                    }
                    Some(Err(failed)) => return Err(failed),
                    None => {}
                }
            }
            Action::Validate { slot, choice } => {
                if let Some((session, number, token)) = this.slots.choose(slot, choice) {
                    let pending = begin(Op::Validate {
                        session: session.number,
                        token: number,
                        answer: None,
                    });
                    pending.run(this.subject.validate(node, &token), set_seen).await;
                }
            }
            Action::Random(bytes) => {
                let token = this.subject.random_token(bytes);
                let pending = begin(Op::ValidateRandom { answer: None });
                pending.run(this.subject.validate(node, &token), set_seen).await;
            }
            Action::Update { slot, number } => {
                if let Some((session, token_number, token)) = newest(slot) {
                    let data = format!("{}.{}", session.number, number + 1);
                    let pending = begin(Op::Update {
                        session: session.number,
                        token: token_number,
                        data: data.clone(),
                        answer: None,
                    });
                    pending.run(this.subject.update(node, &token, &data), changed).await;
                }
            }
            Action::Revoke { slot } => {
                if let Some((session, number, token)) = newest(slot) {
                    let pending =
                        begin(Op::Revoke { session: session.number, token: number, answer: None });
                    pending.run(this.subject.revoke(node, &token), changed).await;
                }
            }
            Action::RevokeAll { slot } => {
                let user = this.user(slot);
                let pending = begin(Op::RevokeAll { user: user.clone(), answer: None });
                pending.run(this.subject.revoke_all(node, &user), changed).await;
            }
            Action::Rotate { slot, grace } => {
                if let Some((session, number, token)) = newest(slot) {
                    let pending = begin(Op::Rotate {
                        session: session.number,
                        token: number,
                        new_token: None,
                        grace_ms: nanos(grace) / 1_000_000,
                        answer: None,
                    });
                    let known = Arc::clone(&session);
                    let call = this.subject.rotate(node, &token, grace);
                    pending
                        .run(call, move |op, rotated| {
                            let (given, visibility) = match rotated {
                                Ok((token, visibility)) => (Some(token.clone()), Ok(*visibility)),
                                Err(failed) => (None, Err(failed.clone())),
                            };
                            if let Op::Rotate { new_token, .. } = op {
                                *new_token = given.map(|token| {
                                    let number = known.add(token.clone());
                                    this.tokens.add(known.number, number, token);
                                    number
                                });
                            }
                            set_change(op, Change::of(&visibility))
                        })
                        .await;
                }
            }
        }
        Ok(())
    }
}

/// An operation in flight. It is always recorded. If it is dropped in the middle, by a panic of the
/// subject or the end of the runtime, it is recorded without a result.
pub(super) struct Pending<'a> {
    recorder: &'a Recorder,
    patience: Duration,
    drop: Option<DropWhen>,
    /// When the load began, and when after that the request was due.
    load: Option<(Nanos, Nanos)>,
    node: u32,
    call: Nanos,
    /// Taken at the end.
    op: Option<Op>,
}

impl<'a> Pending<'a> {
    /// Begins an operation outside the load, which its caller does not drop.
    pub(super) fn begin(recorder: &'a Recorder, patience: Duration, node: u32, op: Op) -> Self {
        Self {
            recorder,
            patience,
            drop: None,
            load: None,
            node,
            call: recorder.clock().now(),
            op: Some(op),
        }
    }

    fn planned(mut self, load: Option<(Nanos, Nanos)>, drop: Option<DropWhen>) -> Self {
        self.load = load;
        self.drop = drop;
        self
    }

    /// Waits for the result. `answer` stores it in the operation, and returns whether the subject
    /// supports the operation.
    pub(super) async fn run<T>(
        mut self,
        call: impl Future<Output = T>,
        answer: impl FnOnce(&mut Op, &T) -> bool,
    ) -> Option<T> {
        let within = tokio::time::timeout(self.patience, dropping(call, self.drop)).await;
        let end = self.recorder.clock().now();
        let mut op = self.op.take()?;
        let (got, hung) = match within {
            Ok(got) => (got, false),
            Err(_elapsed) => (None, true),
        };
        if let Some(got) = &got
            && !answer(&mut op, got)
        {
            self.recorder.unsupported();
        } else {
            self.record(op, end, got.is_some(), hung);
        }
        got
    }

    fn record(&self, op: Op, end: Nanos, answered: bool, hung: bool) {
        let operation = Operation {
            node: self.node,
            call: self.call,
            ret: answered.then_some(end),
            dropped: (!answered).then_some(end),
            op,
        };
        let of_load = self.load.map(|(began, due)| Answered { due, began, hung });
        self.recorder.operation(operation, of_load);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(op) = self.op.take() {
            self.record(op, self.recorder.clock().now(), false, true);
        }
    }
}

pub(super) fn changed(op: &mut Op, answer: &Result<Visibility, Failed>) -> bool {
    set_change(op, Change::of(answer))
}

fn set_change(op: &mut Op, change: Option<Change>) -> bool {
    let supported = change.is_some();
    if let Op::Update { answer, .. }
    | Op::Revoke { answer, .. }
    | Op::RevokeAll { answer, .. }
    | Op::Rotate { answer, .. } = op
    {
        *answer = change;
    }
    supported
}

/// Returns the operation of a login without a result.
pub(super) fn create_op(session: u32, login: &Login) -> Op {
    let millis = |span: Duration| nanos(span) / 1_000_000;
    Op::Create {
        session,
        user: login.user.clone(),
        data: login.data.clone(),
        began: None,
        lifetime_ms: login.lifetime.map(millis),
        idle_ms: login.idle.map(millis),
        answer: None,
    }
}

/// Runs a whole login. Returns the token, and when the login had certainly begun, if that is known.
pub(super) async fn log_in(
    subject: &impl Subject,
    clock: Clock,
    node: u32,
    mut login: Login,
) -> Result<(Token, Option<Nanos>), Failed> {
    login.begun = subject.begin_login(node).await?;
    let began = login.begun.is_some().then(|| clock.now());
    let token = subject.create(node, &login).await?;
    Ok((token, began))
}

pub(super) fn set_creation(op: &mut Op, created: &Result<(Token, Option<Nanos>), Failed>) -> bool {
    let creation = Creation::of(created);
    let supported = creation.is_some();
    if let Op::Create { answer, began, .. } = op {
        *answer = creation;
        *began = created.as_ref().ok().and_then(|(_token, began)| *began);
    }
    supported
}

pub(super) fn set_seen(op: &mut Op, seen: &crate::subject::Seen) -> bool {
    if let Op::Validate { answer, .. } | Op::ValidateRandom { answer } = op {
        *answer = Some(seen.clone());
    }
    true
}
