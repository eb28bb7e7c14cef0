//! The operations of clients, each recorded with its result.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::to_raw_value;
use session_layer::store::{self, Target};
use session_layer::{CacheMode, PartitionPolicy, TokenDigest};
use session_testkit::history::{Change, Creation, Nanos, Op, Operation};
use session_testkit::subject::{Failed, Login, Subject as _, Token, Visibility};
use tokio::time::timeout;

use super::{D, Schedule, TTL, lock};
use crate::coverage::Event;
use crate::plan::{Action, OPERATOR, Planned};
use crate::postgres::{Outcome, Statement, Transaction};
use crate::store::changing;
use crate::world::Call;

const USER: &str = "ann";

impl Schedule {
    /// Returns the newest token of a session, or the one before, with its number.
    fn token(&self, session: u32, older: bool) -> Option<(u32, Token)> {
        let tokens = lock(&self.tokens);
        let tokens = tokens.get(&session)?;
        let at = (tokens.len() - 1).saturating_sub(usize::from(older));
        Some((number(at), tokens[at].clone()))
    }

    /// Performs a client's operation at its time, unless the session has no token yet.
    pub(super) async fn perform(self: Arc<Self>, number: usize, planned: Planned) {
        tokio::time::sleep(Duration::from_millis(planned.at)).await;
        let of = |session| self.token(session, false);
        match planned.action {
            Action::Create { session, lifetime, idle } => {
                self.create(planned, session, lifetime, idle).await;
            }
            Action::Validate { session, older } => {
                if let Some((token, secret)) = self.token(session, older) {
                    let op = Op::Validate { session, token, answer: None };
                    self.validate(planned, op, &secret).await;
                }
            }
            Action::ValidateRandom => {
                let token = self.subject.random_token([7; 32]);
                self.validate(planned, Op::ValidateRandom { answer: None }, &token).await;
            }
            Action::Update(session) | Action::Revoke(session) => {
                let is_update = matches!(planned.action, Action::Update(_));
                if let Some((token, secret)) = of(session) {
                    let op = change_of(is_update, session, token, number);
                    self.change(planned, op, &secret).await;
                }
            }
            Action::Rotate { session, grace } => {
                if let Some((token, secret)) = of(session) {
                    self.rotate(planned, session, token, &secret, grace).await;
                }
            }
            Action::RevokeAll => {
                let op = Op::RevokeAll { user: USER.to_owned(), answer: None };
                let revoking = self.subject.revoke_all(planned.node, USER);
                self.record(planned, op, revoking, changed).await;
            }
            Action::DirectRevoke { session, idle } | Action::DirectUpdate { session, idle } => {
                let is_update = matches!(planned.action, Action::DirectUpdate { .. });
                if let Some((token, secret)) = of(session) {
                    let op = change_of(is_update, session, token, number);
                    self.direct_sql(planned, op, &secret, idle).await;
                }
            }
            Action::Bypass(on) => {
                let mode = if on { CacheMode::Bypass } else { CacheMode::On };
                if let Some(sessions) = self.subject.node(planned.node) {
                    sessions.set_mode(mode);
                }
                self.world.lock().coverage.saw(Event::Bypass);
            }
        }
    }

    async fn create(
        &self,
        planned: Planned,
        session: u32,
        lifetime_ms: Option<u64>,
        idle_ms: Option<u64>,
    ) {
        let (user, data) = (USER.to_owned(), format!("{session}.0"));
        let login = Login {
            user: user.clone(),
            data: data.clone(),
            lifetime: lifetime_ms.map(Duration::from_millis),
            idle: idle_ms.map(Duration::from_millis),
            begun: None,
        };
        let op =
            Op::Create { session, user, data, began: None, lifetime_ms, idle_ms, answer: None };
        let creating = self.subject.create(planned.node, &login);
        let created = self.record(planned, op, creating, |op, created| {
            if let Op::Create { answer, began, .. } = op {
                *answer = Creation::of(created);
                *began = created.as_ref().ok().and_then(|token| self.began(token));
            }
        });
        if let Some(Ok(token)) = created.await {
            lock(&self.tokens).insert(session, vec![token]);
        }
    }

    async fn validate(&self, planned: Planned, op: Op, token: &Token) {
        self.record(planned, op, self.subject.validate(planned.node, token), |op, seen| {
            if let Op::Validate { answer, .. } | Op::ValidateRandom { answer } = op {
                *answer = Some(seen.clone());
            }
        })
        .await;
    }

    async fn change(&self, planned: Planned, op: Op, token: &Token) {
        match op.clone() {
            Op::Update { data, .. } => {
                let updating = self.subject.update(planned.node, token, &data);
                self.record(planned, op, updating, changed).await;
            }
            _ => {
                let revoking = self.subject.revoke(planned.node, token);
                self.record(planned, op, revoking, changed).await;
            }
        }
    }

    async fn rotate(
        &self,
        planned: Planned,
        session: u32,
        token: u32,
        secret: &Token,
        grace_ms: u64,
    ) {
        let op = Op::Rotate { session, token, new_token: None, grace_ms, answer: None };
        let grace = Duration::from_millis(grace_ms);
        let rotating = self.subject.rotate(planned.node, secret, grace);
        self.record(planned, op, rotating, |op, rotated| {
            let visibility = rotated.as_ref().map(|(_, visibility)| *visibility);
            if let (Op::Rotate { new_token, .. }, Ok((token, _))) = (&mut *op, rotated) {
                let mut tokens = lock(&self.tokens);
                *new_token = tokens.get_mut(&session).map(|tokens| {
                    tokens.push(token.clone());
                    number(tokens.len() - 1)
                });
            }
            changed(op, &visibility.map_err(Clone::clone));
        })
        .await;
    }

    /// Executes an operator's SQL, without a fence and an UNLINK. Its bound is the journal.
    async fn direct_sql(&self, planned: Planned, op: Op, secret: &Token, idle: u64) {
        let digest = self.world.lock().known_as(TokenDigest::of(secret.reveal()));
        let call = Call { node: OPERATOR, life: 0, what: "direct SQL", about: 0, lane: None };
        let statement = match &op {
            Op::Update { data, .. } => {
                Statement::SetData(digest, to_raw_value(data).expect("a string is JSON"))
            }
            _ => Statement::Revoke(Target::Token(digest)),
        };
        let transaction = Transaction::that_idles(statement, idle);
        let executing = self.world.ask(call, changing(call.what, call.about, transaction));
        self.record(planned, op, executing, |op, made| {
            if let Some(answer) = answer_of(op) {
                *answer = Some(match made {
                    Ok(Outcome::Revoked(made)) if made.ended > 0 => self.committed(),
                    Ok(Outcome::Change(store::Change::Made { .. })) => self.committed(),
                    Ok(_) => Change::Nothing,
                    Err(error) => Change::Unknown(error.to_string()),
                });
            }
        })
        .await;
    }

    /// Returns when Postgres first received the login of this token.
    fn began(&self, token: &Token) -> Option<Nanos> {
        let state = self.world.lock();
        let digest = state.known_as(TokenDigest::of(token.reveal()));
        state.login_began(&digest)
    }

    /// Records an operation, also if its caller disconnects.
    async fn record<T>(
        &self,
        planned: Planned,
        mut op: Op,
        work: impl Future<Output = T>,
        answer: impl FnOnce(&mut Op, &T),
    ) -> Option<T> {
        let node = planned.node;
        let call = self.world.stamp();
        let place = {
            let mut all = lock(&self.operations);
            all.push(Operation { node, call, ret: None, dropped: None, op: op.clone() });
            all.len() - 1
        };
        let result = match planned.dropped_after {
            Some(after) => timeout(Duration::from_millis(after), work).await.ok(),
            None => Some(work.await),
        };
        let end = self.world.stamp();
        match &result {
            Some(result) => answer(&mut op, result),
            None => self.world.lock().coverage.saw(Event::DroppedCaller),
        }
        if self.world.lock().is_traced() {
            self.world.lock().say(&format!("node {node}: {op:?} called {call}"));
        }
        let recorded = &mut lock(&self.operations)[place];
        recorded.ret = result.is_some().then_some(end);
        recorded.dropped = result.is_none().then_some(end);
        recorded.op = op;
        result
    }

    /// Returns what `Sessions` returns if Redis acknowledged nothing.
    fn committed(&self) -> Change {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let at_most = match self.settings.policy {
            PartitionPolicy::FailClosed => D,
            _ => TTL + session_layer::cache::LEASE_TTL,
        };
        Change::Committed { within_ms: millis(D), at_most_ms: millis(at_most) }
    }
}

/// Returns an update with data that is unique in the history, or a revocation.
fn change_of(is_update: bool, session: u32, token: u32, number: usize) -> Op {
    let answer = None;
    if is_update {
        Op::Update { session, token, data: format!("{session}.{}", number + 1), answer }
    } else {
        Op::Revoke { session, token, answer }
    }
}

/// Returns the result of a change.
pub(super) fn answer_of(op: &mut Op) -> Option<&mut Option<Change>> {
    match op {
        Op::Update { answer, .. }
        | Op::Revoke { answer, .. }
        | Op::RevokeAll { answer, .. }
        | Op::Rotate { answer, .. } => Some(answer),
        _ => None,
    }
}

fn changed(op: &mut Op, made: &Result<Visibility, Failed>) {
    if let Some(answer) = answer_of(op) {
        *answer = Change::of(made);
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
