//! Two nodes on real servers, which execute the steps beside the model.

use std::sync::Arc;
use std::time::Duration;

use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use session_layer::{
    CacheMode, Created, Error, NewSession, RevokeTarget, SessionId, Sessions, Validation,
    Visibility,
};
use session_testkit::wait;
use tokio::runtime::Handle;

use super::reference::{Reference, Step};
use crate::harness::Failure;
use crate::mutants::{Broken, BrokenCache, BrokenStore, Mistake};
use crate::support::{
    SOON, Servers, built, cache_within, until_connected, until_disconnected, word,
};

const GRACE: Duration = Duration::from_secs(3600);
/// A deadline that a busy machine does not exceed.
const PATIENT: Duration = Duration::from_secs(4);

/// The servers of all sequences: a Redis that they restart, and the shared Postgres.
pub(crate) struct Harness {
    pub(super) servers: Servers,
    pub(super) runtime: Handle,
    pub(super) mistake: Option<Mistake>,
}

/// Two nodes, in the sandbox of one sequence.
pub(crate) struct Subject {
    harness: Arc<Harness>,
    servers: Servers,
    nodes: [Sessions; 2],
    /// Each session's id and tokens.
    known: Vec<(SessionId, Vec<String>)>,
    /// The model before the step.
    before: Reference,
}

impl StateMachineTest for Subject {
    type SystemUnderTest = Self;
    type Reference = Reference;

    fn init_test(reference: &Reference) -> Self {
        let harness = Arc::clone(reference.harness.as_ref().expect("a harness"));
        let runtime = harness.runtime.clone();
        let started = runtime.block_on(Self::start(harness, reference.clone()));
        started.unwrap_or_else(|failure| match failure {})
    }

    fn apply(mut subject: Self, reference: &Reference, step: Step) -> Self {
        let runtime = subject.harness.runtime.clone();
        let done = runtime.block_on(subject.step(reference, &step));
        done.unwrap_or_else(|failure| match failure {});
        subject.before = <Reference as ReferenceStateMachine>::apply(subject.before, &step);
        subject
    }

    fn teardown(subject: Self, _reference: Reference) {
        let runtime = subject.harness.runtime.clone();
        runtime.block_on(async {
            for node in &subject.nodes {
                node.shutdown(SOON).await.expect("nothing is under way");
            }
            subject.servers.sandbox.cleanup().await.expect("the sandbox is removed");
        });
    }
}

impl Subject {
    async fn start(harness: Arc<Harness>, before: Reference) -> Result<Self, Failure> {
        let servers = Servers {
            redis: harness.servers.redis.clone(),
            ..Servers::on(Arc::clone(&harness.servers.backends))
        };
        let nodes = [node(&harness, &servers).await?, node(&harness, &servers).await?];
        let subject = Self { harness, servers, nodes, known: Vec::new(), before };
        subject.until_ready().await?;
        Ok(subject)
    }

    /// Waits until both nodes use Redis, and revocations are propagated.
    async fn until_ready(&self) -> Result<(), Failure> {
        for node in &self.nodes {
            until_connected(node).await?;
            let ready = async || {
                let created = node.create(NewSession::new("carol")).await;
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

    /// Executes the step and compares. `now` is the model after it.
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
                let sent = self.known[session].1[token].clone();
                let revoked = self.nodes[node].revoke(&sent).await?;
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
            Step::PlainSql { node, session } => self.end_by_sql(node, session).await?,
            Step::Bypass { node, on } => {
                self.nodes[node].set_mode(if on { CacheMode::Bypass } else { CacheMode::On });
            }
            Step::Flush => self.servers.redis.flush_all().await?,
            Step::RestartRedis => {
                self.servers.redis.kill().await?;
                // A node that does not unlink observes the end of its connections later. Until then
                // it is registered with the killed server.
                for node in &self.nodes {
                    until_disconnected(node).await?;
                }
                self.servers.redis.restart().await?;
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
                assert!(model.is_valid(token), "session {session} is valid after its end");
                assert_eq!(seen.id(), self.known[session].0);
                assert_eq!(seen.user_id(), name(model.user));
                assert_eq!(seen.data::<usize>()?, model.data, "old data of session {session}");
            }
            Validation::Invalid => {
                assert!(!model.is_valid(token), "session {session} is invalid before its end");
            }
            other => panic!("{other:?}, but both servers are up"),
        }
        Ok(())
    }

    /// Ends a session by direct SQL. Its entries remain, but once a node has returned "invalid", no
    /// node returns "valid".
    async fn end_by_sql(&self, node: usize, session: usize) -> Result<(), Failure> {
        let (id, tokens) = &self.known[session];
        let end = format!("UPDATE sessions SET revoked_at = now() WHERE id = '{id}'");
        self.servers.sql(end).await?;
        let node = &self.nodes[node];
        let mode = node.mode();
        node.set_mode(CacheMode::Bypass);
        for token in tokens {
            assert_eq!(word(&node.validate(token).await), "invalid", "ended by SQL");
        }
        node.set_mode(mode);
        Ok(())
    }
}

fn name(user: u8) -> &'static str {
    ["ann", "bob"][usize::from(user)]
}

async fn node(harness: &Harness, servers: &Servers) -> Result<Sessions, Failure> {
    let broken = Broken::new(harness.mistake);
    let cache = cache_within(PATIENT, servers.redis.url(), &servers.sandbox)?;
    let store = Arc::new(servers.store().await?);
    Ok(built(BrokenCache { cache, broken: broken.clone() }, BrokenStore { store, broken }))
}
