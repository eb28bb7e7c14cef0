//! Runs one plan: session-layer's own driver on three nodes, in a world of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use session_layer::store::Target;
use session_layer::{Mode, NotAToken, OpaqueTokens, Policy, Sessions, TokenDigest, TokenScheme};
use session_testkit::history::{
    Change, Creation, End, Fault, Header, History, Nanos, Op, Operation,
};
use session_testkit::invariants::{self, Verdicts};
use session_testkit::subject::{Failed, Login, SessionLayerSubject, Subject as _, Token};
use tokio::time::timeout;

use crate::cache::SimulatedCache;
use crate::coverage::{Coverage, Event};
use crate::dice::mix;
use crate::mutants::{Broken, BrokenCache, BrokenStore, Mistake};
use crate::plan::{Action, Breaks, NODES, OPERATOR, Plan, Planned};
use crate::postgres::{Postgres, Wish};
use crate::redis::Redis;
use crate::store::{SimulatedStore, changing};
use crate::world::{Call, State, World};

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
        let endless = self.mistake == Some(Mistake::NoDeadline);
        let store = BrokenStore {
            store: Arc::new(SimulatedStore {
                world: Arc::clone(&self.world),
                node,
                life,
                patient: endless,
            }),
            broken,
        };
        let budget = if endless {
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

    fn token(&self, session: u32, older: bool) -> Option<(u32, Token)> {
        let tokens = lock(&self.tokens);
        let tokens = tokens.get(&session)?;
        let at = (tokens.len() - 1).saturating_sub(usize::from(older));
        Some((number(at), tokens[at].clone()))
    }

    /// A client's operation at its time.
    async fn perform(self: Arc<Self>, number: usize, planned: Planned) {
        tokio::time::sleep(Duration::from_millis(planned.at)).await;
        let node = planned.node;
        let login = |session: u32, lifetime: Option<u64>, idle: Option<u64>| Login {
            user: "ann".to_owned(),
            data: format!("{session}.0"),
            lifetime: lifetime.map(Duration::from_millis),
            idle: idle.map(Duration::from_millis),
            begun: None,
        };
        if let Action::PlainSql { session } = planned.action {
            return self.plain_sql(session).await;
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
            Action::PlainSql { .. } => {}
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

    /// By hand: nobody fences or unlinks. What it promises is the bound of every copy.
    async fn plain_sql(&self, session: u32) {
        let Some((token_number, token)) = self.token(session, false) else {
            return;
        };
        let real = TokenDigest::of(token.reveal());
        let digest = self.world.lock().known_as(real);
        let call = Call {
            node: OPERATOR,
            life: 0,
            what: "plain SQL",
            about: 0,
            lane: None,
        };
        let wish = Wish::Revoke(Target::Token(digest));
        let planned = Planned {
            at: 0,
            node: OPERATOR,
            action: Action::PlainSql { session },
            dropped_after: None,
        };
        let op = Op::Revoke {
            session,
            token: token_number,
            answer: None,
        };
        let asked = self.world.ask(call, changing(call.what, call.about, wish));
        self.ask(planned, op, asked, |op, made| {
            let Op::Revoke { answer, .. } = op else {
                return;
            };
            *answer = Some(match made {
                Ok(crate::postgres::Outcome::Revoked(made)) if made.ended > 0 => committed(),
                Ok(_) => Change::Nothing,
                Err(error) => Change::Unknown(error.to_string()),
            });
        })
        .await;
    }

    fn plan_fault(self: &Arc<Self>, at: u64, breaks: Breaks) {
        let world = &self.world;
        match breaks {
            Breaks::RestartNode(node) => {
                let schedule = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(at)).await;
                    schedule.restart_node(node);
                });
            }
            Breaks::Flush => world.at(at, |state| {
                state.flush();
                instant(state, "redis.flushall");
            }),
            Breaks::Save => world.at(at, State::save),
            Breaks::Crash {
                down_for,
                from_dump,
            } => {
                world.at(at, |state| {
                    state.crash();
                    instant(state, "redis.kill");
                });
                world.at(at + down_for, move |state| {
                    state.restart(from_dump);
                    instant(state, "redis.restart");
                });
            }
            Breaks::FailOver => world.at(at, |state| {
                state.fail_over();
                instant(state, "redis.failover");
            }),
            Breaks::Resync => world.at(at, State::resync),
            Breaks::CutLinks => world.at(at, State::cut_all_links),
            Breaks::StepClock(by) => world.at(at, move |state| {
                state.step_redis_clock(by);
                instant(state, "redis.clock");
            }),
            Breaks::PostgresDown { down_for } => {
                world.at(at, move |state| {
                    state.postgres.crash();
                    state.coverage.saw(Event::PostgresDown);
                    begin_outage(state, "postgres.kill");
                });
                world.at(at + down_for, |state| {
                    end_outage(state, "postgres.kill");
                    state.postgres.outages -= 1;
                });
            }
            Breaks::Hidden { down_for } => {
                world.at(at, |state| {
                    state.postgres.hidings += 1;
                    state.coverage.saw(Event::HiddenRows);
                    begin_outage(state, "postgres.rls");
                });
                world.at(at + down_for, |state| {
                    end_outage(state, "postgres.rls");
                    state.postgres.hidings -= 1;
                });
            }
        }
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

/// What a change by plain SQL promises: the journal.
fn committed() -> Change {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Change::Committed {
        within_ms: millis(D),
        at_most_ms: millis(TTL + session_layer::cache::LEASE),
    }
}

fn changed(op: &mut Op, made: &Result<session_testkit::subject::Reach, Failed>) {
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

fn fault(name: &str, at: Nanos) -> Fault {
    Fault {
        name: name.to_owned(),
        at,
        since: None,
        until: None,
        healed: None,
        nodes: None,
        no_postgres: false,
        no_touch: false,
        no_redis: false,
        touched: None,
    }
}

/// Something that happened to Redis, for whoever reads the proof.
fn instant(state: &mut State, name: &str) {
    let at = state.moment();
    let until = Some(at);
    state.faults.push(Fault {
        until,
        ..fault(name, at)
    });
    state.say(name);
}

fn begin_outage(state: &mut State, name: &str) {
    let at = state.moment();
    state.faults.push(Fault {
        no_postgres: true,
        ..fault(name, at)
    });
    state.say(name);
}

fn end_outage(state: &mut State, name: &str) {
    let until = state.moment();
    let ended = state
        .faults
        .iter_mut()
        .find(|fault| fault.name == name && fault.until.is_none());
    if let Some(ended) = ended {
        ended.until = Some(until);
    }
    state.say(&format!("{name} is over"));
}

impl State {
    /// Redis may not have been told what this UNLINK was to tell it.
    pub(crate) fn note_unlink_in_doubt(&mut self, node: u32, since: Nanos) {
        let until = Some(self.moment());
        self.faults.push(Fault {
            until,
            nodes: Some(vec![node]),
            no_redis: true,
            ..fault("redis.unlink-in-doubt", since)
        });
    }
}

impl State {
    /// This node may not have read of a change.
    pub(crate) fn note_journal_in_doubt(&mut self, node: u32, since: Nanos) {
        let now = self.moment();
        self.faults.push(Fault {
            since: Some(now),
            until: Some(now),
            nodes: Some(vec![node]),
            no_postgres: true,
            ..fault("postgres.journal-in-doubt", since)
        });
    }
}

/// The seeds of a test: its base and its place.
pub(crate) fn seed(base: u64, number: u64) -> u64 {
    mix(&[base, number])
}
