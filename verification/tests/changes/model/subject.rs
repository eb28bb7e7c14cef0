//! session-layer on two nodes over real servers, step by step beside the model.

use std::sync::Arc;
use std::time::Duration;

use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use session_layer::cache::RedisCache;
use session_layer::store::PostgresStore;
use session_layer::{
    CacheMode, Created, Error, NewSession, RevokeTarget, SessionId, Sessions, Validation,
    Visibility,
};
use session_testkit::backends::{Backends, Sandbox};
use session_testkit::wait;
use tokio::runtime::Handle;

use super::reference::{Reference, Step};
use crate::harness::Failure;
use crate::mutants::{Broken, BrokenCache, BrokenStore, Mistake};
use crate::support::{
    OwnRedis, SOON, built, cache_within, store, until_connected, until_disconnected, word,
};

const GRACE: Duration = Duration::from_secs(3600);
/// What is compared must not depend on how busy the machine is.
const PATIENT: Duration = Duration::from_secs(4);

/// The servers of all sequences: a Redis that they may break, and the shared Postgres.
pub(crate) struct Rig {
    pub(super) redis: OwnRedis,
    pub(super) backends: Arc<Backends>,
    pub(super) runtime: Handle,
    pub(super) mistake: Option<Mistake>,
}

/// Two nodes, in a sandbox of this sequence's own.
pub(crate) struct Subject {
    rig: Arc<Rig>,
    sandbox: Sandbox,
    nodes: [Sessions; 2],
    /// Each session's id and tokens.
    known: Vec<(SessionId, Vec<String>)>,
    /// What the model knew before the step.
    before: Reference,
}

impl StateMachineTest for Subject {
    type SystemUnderTest = Self;
    type Reference = Reference;

    fn init_test(reference: &Reference) -> Self {
        let rig = Arc::clone(reference.rig.as_ref().expect("a rig"));
        let runtime = rig.runtime.clone();
        let started = runtime.block_on(Self::start(rig, reference.clone()));
        started.unwrap_or_else(|failure| match failure {})
    }

    fn apply(mut subject: Self, reference: &Reference, step: Step) -> Self {
        let runtime = subject.rig.runtime.clone();
        let done = runtime.block_on(subject.step(reference, &step));
        done.unwrap_or_else(|failure| match failure {});
        subject.before = <Reference as ReferenceStateMachine>::apply(subject.before, &step);
        subject
    }

    fn teardown(subject: Self, _reference: Reference) {
        let runtime = subject.rig.runtime.clone();
        runtime.block_on(async {
            for node in &subject.nodes {
                node.shutdown(SOON).await.expect("nothing is under way");
            }
            subject.sandbox.cleanup().await.expect("the sandbox is removed");
        });
    }
}

impl Subject {
    async fn start(rig: Arc<Rig>, before: Reference) -> Result<Self, Failure> {
        let sandbox = rig.backends.sandbox();
        let nodes = [node(&rig, &sandbox).await?, node(&rig, &sandbox).await?];
        let subject = Self { rig, sandbox, nodes, known: Vec::new(), before };
        subject.until_ready().await?;
        Ok(subject)
    }

    /// Until Redis is in use by both nodes, and every link leads to the one server there is.
    async fn until_ready(&self) -> Result<(), Failure> {
        for node in &self.nodes {
            until_connected(node).await?;
            let ready = async || {
                let created = node.create(NewSession::new("nobody")).await;
                let Ok(Created { token, .. }) = created else {
                    return false;
                };
                let revoked = node.revoke(token.reveal()).await;
                revoked.is_ok_and(|changed| changed.visibility == Visibility::Propagated)
            };
            wait::until("a revoke that propagates", SOON, ready).await?;
        }
        Ok(())
    }

    /// Does the step and compares. `now` is the model after it.
    async fn step(&mut self, now: &Reference, step: &Step) -> Result<(), Failure> {
        match *step {
            Step::Create { node, user } => {
                let data = now.sessions[self.known.len()].data;
                let new = NewSession::new(name(user)).data(data);
                let created = self.nodes[node].create(new).await?;
                let token = created.token.reveal().to_owned();
                self.known.push((created.session.id(), vec![token]));
            }
            Step::Validate { node, session, token } => self.look(now, node, session, token).await?,
            Step::Update { node, session } => {
                let newest = self.newest(session);
                let seen = self.nodes[node].validate(&newest).await;
                if self.before.sessions[session].ended {
                    assert_eq!(word(&seen), "invalid", "{step:?}");
                    return Ok(());
                }
                let Validation::Valid(copy) = seen else { panic!("{step:?}: {seen:?}") };
                let changed = self.nodes[node].update(&copy, now.sessions[session].data).await?;
                assert_eq!(changed.visibility, Visibility::Propagated, "{step:?}");
            }
            Step::Rotate { node, session, with_grace } => {
                let grace = if with_grace { GRACE } else { Duration::ZERO };
                let rotated = self.nodes[node].rotate(&self.newest(session), grace).await;
                if self.before.sessions[session].ended {
                    assert!(matches!(rotated, Err(Error::NoSession)), "{step:?}: {rotated:?}");
                    return Ok(());
                }
                let rotated = rotated?;
                assert_eq!(rotated.visibility, Visibility::Propagated, "{step:?}");
                let token = rotated.value.token.reveal().to_owned();
                self.known[session].1.push(token);
            }
            Step::Revoke { node, session, token } => {
                let presented = self.known[session].1[token].clone();
                let revoked = self.nodes[node].revoke(&presented).await?;
                let was = &self.before.sessions[session];
                assert_eq!(revoked.value, u64::from(was.is_valid(token)), "{step:?}");
                let visibility = if was.is_named_by(token) {
                    Visibility::Propagated
                } else {
                    Visibility::Nothing
                };
                assert_eq!(revoked.visibility, visibility, "{step:?}");
            }
            Step::RevokeAll { node, user } => {
                let revoked = self.nodes[node].revoke(RevokeTarget::user(name(user))).await?;
                assert_eq!(revoked.value, self.before.alive(user), "{step:?}");
                let any = now.sessions.iter().any(|each| each.user == user);
                let visibility = if any { Visibility::Propagated } else { Visibility::Nothing };
                assert_eq!(revoked.visibility, visibility, "{step:?}");
            }
            Step::PlainSql { node, session } => self.end_by_hand(node, session).await?,
            Step::Bypass { node, on } => {
                self.nodes[node].set_mode(if on { CacheMode::Bypass } else { CacheMode::On });
            }
            Step::Flush => self.rig.redis.redis.flush_all().await?,
            Step::RestartRedis => {
                self.rig.redis.redis.kill().await?;
                // A node that does not unlink notices only when it checks its connections. Until
                // then it is registered with the server that was killed.
                for node in &self.nodes {
                    until_disconnected(node).await?;
                }
                self.rig.redis.redis.restart().await?;
                self.until_ready().await?;
            }
        }
        Ok(())
    }

    fn newest(&self, session: usize) -> String {
        self.known[session].1.last().expect("a session has a token").clone()
    }

    async fn look(
        &self,
        now: &Reference,
        node: usize,
        session: usize,
        token: usize,
    ) -> Result<(), Failure> {
        let model = &now.sessions[session];
        let answer = self.nodes[node].validate(&self.known[session].1[token]).await;
        match answer {
            Validation::Valid(seen) => {
                assert!(model.is_valid(token), "session {session} was honoured after its end");
                assert_eq!(seen.id(), self.known[session].0);
                assert_eq!(seen.user_id(), name(model.user));
                assert_eq!(seen.data::<usize>()?, model.data, "old data of session {session}");
            }
            Validation::Invalid => {
                assert!(!model.is_valid(token), "session {session} was denied");
            }
            other => panic!("{other:?}, and both servers are there"),
        }
        Ok(())
    }

    /// Nobody unlinks its keys; but a node that has asked Postgres has seen to it that no other
    /// says "valid" after its "invalid".
    async fn end_by_hand(&self, node: usize, session: usize) -> Result<(), Failure> {
        let (id, tokens) = &self.known[session];
        let end = format!(
            "UPDATE {}.sessions SET revoked_at = now() WHERE id = '{id}'",
            self.sandbox.schema()
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(end))
            .execute(&mut self.rig.backends.postgres().connect().await?)
            .await?;
        let node = &self.nodes[node];
        let mode = node.mode();
        node.set_mode(CacheMode::Bypass);
        for token in tokens {
            let answer = node.validate(token).await;
            assert_eq!(word(&answer), "invalid", "ended by hand");
        }
        node.set_mode(mode);
        Ok(())
    }
}

fn name(user: u8) -> &'static str {
    ["ann", "bob"][usize::from(user)]
}

async fn node(rig: &Rig, sandbox: &Sandbox) -> Result<Sessions, Failure> {
    let broken = Broken::new(rig.mistake);
    let redis: RedisCache = cache_within(PATIENT, rig.redis.redis.url(), sandbox)?;
    let postgres: PostgresStore = store(sandbox).await?;
    Ok(built(
        BrokenCache { cache: redis, broken: broken.clone() },
        BrokenStore { store: Arc::new(postgres), broken },
    ))
}
