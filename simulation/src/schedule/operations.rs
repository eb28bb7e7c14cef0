//! What clients ask, each recorded with what came of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::to_raw_value;
use session_layer::store::{self, Target};
use session_layer::{Mode, Policy, TokenDigest};
use session_testkit::history::{Change, Creation, Nanos, Op, Operation};
use session_testkit::subject::{Failed, Login, Reach, Subject as _, Token};
use tokio::time::timeout;

use super::{D, Schedule, TTL, lock};
use crate::coverage::Event;
use crate::plan::{Action, OPERATOR, Planned};
use crate::postgres::{Outcome, Transaction, Wish};
use crate::store::changing;
use crate::world::Call;

impl Schedule {
    fn token(&self, session: u32, older: bool) -> Option<(u32, Token)> {
        let tokens = lock(&self.tokens);
        let tokens = tokens.get(&session)?;
        let at = (tokens.len() - 1).saturating_sub(usize::from(older));
        Some((number(at), tokens[at].clone()))
    }

    /// A client's operation at its time.
    pub(super) async fn perform(self: Arc<Self>, number: usize, planned: Planned) {
        tokio::time::sleep(Duration::from_millis(planned.at)).await;
        let node = planned.node;
        let login = |session: u32, lifetime: Option<u64>, idle: Option<u64>| Login {
            user: "ann".to_owned(),
            data: format!("{session}.0"),
            lifetime: lifetime.map(Duration::from_millis),
            idle: idle.map(Duration::from_millis),
            begun: None,
        };
        if let Action::PlainSql { session, .. } | Action::PlainUpdate { session, .. } =
            planned.action
        {
            return self.plain_sql(number, planned, session).await;
        }
        let asked = self.node(node);
        let subject = &asked.subject;
        match planned.action {
            Action::Create {
                session,
                lifetime,
                idle,
            } => {
                let login = login(session, lifetime, idle);
                let op = Op::Create {
                    session,
                    user: login.user.clone(),
                    data: login.data.clone(),
                    began: None,
                    lifetime_ms: lifetime,
                    idle_ms: idle,
                    answer: None,
                };
                let given = self.ask(planned, op, subject.create(0, &login), |op, created| {
                    if let Op::Create { answer, began, .. } = op {
                        *answer = Creation::of(created);
                        *began = created.as_ref().ok().and_then(|token| self.heard_of(token));
                    }
                });
                if let Some(Ok(token)) = given.await {
                    lock(&self.tokens).insert(session, vec![token]);
                }
            }
            Action::Validate { session, older } => {
                let Some((token_number, token)) = self.token(session, older) else {
                    return;
                };
                let op = Op::Validate {
                    session,
                    token: token_number,
                    answer: None,
                };
                self.ask(planned, op, subject.validate(0, &token), |op, seen| {
                    if let Op::Validate { answer, .. } = op {
                        *answer = Some(seen.clone());
                    }
                })
                .await;
            }
            Action::Random => {
                let token = subject.random_token([7; 32]);
                let op = Op::ValidateRandom { answer: None };
                self.ask(planned, op, subject.validate(0, &token), |op, seen| {
                    if let Op::ValidateRandom { answer } = op {
                        *answer = Some(seen.clone());
                    }
                })
                .await;
            }
            Action::Update { session } => {
                let Some((token_number, token)) = self.token(session, false) else {
                    return;
                };
                let data = format!("{session}.{}", number + 1);
                let op = Op::Update {
                    session,
                    token: token_number,
                    data: data.clone(),
                    answer: None,
                };
                self.ask(planned, op, subject.update(0, &token, &data), changed)
                    .await;
            }
            Action::Rotate { session, grace } => {
                let Some((token_number, token)) = self.token(session, false) else {
                    return;
                };
                let op = Op::Rotate {
                    session,
                    token: token_number,
                    new_token: None,
                    grace_ms: grace,
                    answer: None,
                };
                let rotating = subject.rotate(0, &token, Duration::from_millis(grace));
                self.ask(planned, op, rotating, |op, rotated| {
                    let reach = rotated.as_ref().map(|(_, reach)| *reach);
                    if let (Op::Rotate { new_token, .. }, Ok((token, _))) = (&mut *op, rotated) {
                        *new_token = self.give(session, token);
                    }
                    changed(op, &reach.map_err(Clone::clone));
                })
                .await;
            }
            Action::Revoke { session } => {
                let Some((token_number, token)) = self.token(session, false) else {
                    return;
                };
                let op = Op::Revoke {
                    session,
                    token: token_number,
                    answer: None,
                };
                self.ask(planned, op, subject.revoke(0, &token), changed)
                    .await;
            }
            Action::RevokeAll => {
                let op = Op::RevokeAll {
                    user: "ann".to_owned(),
                    answer: None,
                };
                self.ask(planned, op, subject.revoke_all(0, "ann"), changed)
                    .await;
            }
            Action::Bypass(on) => {
                let mode = if on { Mode::Bypass } else { Mode::On };
                asked.sessions.set_mode(mode);
                self.world.lock().coverage.saw(Event::Bypass);
            }
            Action::PlainSql { .. } | Action::PlainUpdate { .. } => {}
        }
    }

    /// A login is under way from when Postgres hears of it.
    fn heard_of(&self, token: &Token) -> Option<Nanos> {
        let state = self.world.lock();
        let digest = state.known_as(TokenDigest::of(token.reveal()));
        state.heard_of(&digest)
    }

    fn give(&self, session: u32, token: &Token) -> Option<u32> {
        let mut tokens = lock(&self.tokens);
        let tokens = tokens.get_mut(&session)?;
        tokens.push(token.clone());
        Some(number(tokens.len() - 1))
    }

    /// Asks, and records the operation whatever becomes of it.
    async fn ask<T>(
        &self,
        planned: Planned,
        mut op: Op,
        asked: impl Future<Output = T>,
        answer: impl FnOnce(&mut Op, &T),
    ) -> Option<T> {
        let call = self.world.stamp();
        let place = {
            let mut operations = lock(&self.operations);
            operations.push(Operation {
                node: planned.node,
                call,
                ret: None,
                dropped: None,
                op: op.clone(),
            });
            operations.len() - 1
        };
        let got = match planned.dropped_after {
            Some(after) => timeout(Duration::from_millis(after), asked).await.ok(),
            None => Some(asked.await),
        };
        let end = self.world.stamp();
        match &got {
            Some(got) => answer(&mut op, got),
            None => self.world.lock().coverage.saw(Event::DroppedCaller),
        }
        if self.world.lock().is_traced() {
            let line = format!("node {}: {op:?} called {call}", planned.node);
            self.world.lock().say(&line);
        }
        let recorded = &mut lock(&self.operations)[place];
        recorded.ret = got.is_some().then_some(end);
        recorded.dropped = got.is_none().then_some(end);
        recorded.op = op;
        got
    }

    /// By hand: nobody fences or unlinks. What it promises is the journal.
    async fn plain_sql(&self, number: usize, planned: Planned, session: u32) {
        let Some((token, secret)) = self.token(session, false) else {
            return;
        };
        let real = TokenDigest::of(secret.reveal());
        let digest = self.world.lock().known_as(real);
        let call = Call {
            node: OPERATOR,
            life: 0,
            what: "plain SQL",
            about: 0,
            lane: None,
        };
        let answer = None;
        let (wish, op) = if let Action::PlainUpdate { .. } = planned.action {
            let data = format!("{session}.{}", number + 1);
            let json = to_raw_value(&data).expect("a string is JSON");
            let op = Op::Update {
                session,
                token,
                data,
                answer,
            };
            (Wish::SetData(digest, json), op)
        } else {
            let op = Op::Revoke {
                session,
                token,
                answer,
            };
            (Wish::Revoke(Target::Token(digest)), op)
        };
        let idle = match planned.action {
            Action::PlainSql { idle, .. } | Action::PlainUpdate { idle, .. } => idle,
            _ => 0,
        };
        let made = Transaction::that_idles(wish, idle);
        let asked = self.world.ask(call, changing(call.what, call.about, made));
        self.ask(planned, op, asked, |op, made| {
            let (Op::Revoke { answer, .. } | Op::Update { answer, .. }) = op else {
                return;
            };
            *answer = Some(match made {
                Ok(Outcome::Revoked(made)) if made.ended > 0 => self.committed(),
                Ok(Outcome::Change(store::Change::Made { .. })) => self.committed(),
                Ok(_) => Change::Nothing,
                Err(error) => Change::Unknown(error.to_string()),
            });
        })
        .await;
    }

    /// As `Sessions` answers where Redis acknowledged nothing.
    fn committed(&self) -> Change {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Change::Committed {
            within_ms: millis(D),
            at_most_ms: millis(match self.policy {
                Policy::FailClosed => D,
                _ => TTL + session_layer::cache::LEASE,
            }),
        }
    }
}

fn changed(op: &mut Op, made: &Result<Reach, Failed>) {
    if let Op::Update { answer, .. }
    | Op::Revoke { answer, .. }
    | Op::RevokeAll { answer, .. }
    | Op::Rotate { answer, .. } = op
    {
        *answer = Change::of(made);
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
