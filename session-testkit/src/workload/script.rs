//! A workload whose order the test itself determines, to force a race.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    Recorder,
    perform::{Pending, changed, create_op, log_in, set_creation, set_seen},
};
use crate::{
    history::{End, Entry, Header, History, Op, Parameters},
    subject::{Failed, Login, Seen, Subject, Token, Visibility},
};

/// A subject whose operations the caller starts, in sequence or concurrently, and their record.
///
/// ```
/// # async fn example(cache: impl session_testkit::subject::Subject)
/// # -> Result<(), session_testkit::subject::Failed> {
/// use session_testkit::{history::Parameters, invariants, subject::Login, workload::Script};
///
/// let script = Script::new(cache, 42, Parameters::default());
/// let session = script.create(0, &Login::new("ann", "a")).await?;
/// let (_, _) = tokio::join!(script.validate(0, &session), script.revoke(1, &session));
/// println!("{}", invariants::check(&script.finish()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Script<S> {
    subject: S,
    recorder: Recorder,
    patience: Duration,
    sessions: AtomicU32,
    operations: AtomicU64,
}

/// A token that the subject issued in a [`Script`], with its number in the history.
#[derive(Debug, Clone)]
pub struct Issued {
    session: u32,
    token: Token,
}

impl Issued {
    /// Returns the session's number in the history.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// Returns the secret.
    pub fn token(&self) -> &Token {
        &self.token
    }
}

impl<S: Subject> Script<S> {
    /// Creates a script for this subject, and starts the history's clock. `seed` is the caller's
    /// own. It is recorded in the history's header.
    pub fn new(subject: S, seed: u64, parameters: Parameters) -> Self {
        let mut header = Header::new(seed, subject.nodes());
        header.parameters = parameters;
        Self {
            subject,
            recorder: Recorder::new(header),
            patience: Duration::from_secs(10),
            sessions: AtomicU32::new(0),
            operations: AtomicU64::new(0),
        }
    }

    /// Sets the timeout of an operation, which is then recorded without a result. Defaults to 10 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Returns the subject.
    pub fn subject(&self) -> &S {
        &self.subject
    }

    /// Logs in. The checker identifies writes by their data, which should therefore be unique.
    ///
    /// # Errors
    /// The subject's error, or [`Failed::Unknown`] after a timeout.
    pub async fn create(&self, node: u32, login: &Login) -> Result<Issued, Failed> {
        let session = self.sessions.fetch_add(1, Relaxed);
        let op = create_op(session, login);
        let logged_in = log_in(&self.subject, self.recorder.clock(), node, login.clone());
        let created = self.begin(node, op).run(logged_in, set_creation);
        let (token, _began) = created.await.unwrap_or_else(no_answer)?;
        Ok(Issued { session, token })
    }

    /// Validates a token. Returns `None` after a timeout.
    pub async fn validate(&self, node: u32, issued: &Issued) -> Option<Seen> {
        let op = Op::Validate { session: issued.session, token: 0, answer: None };
        let call = self.subject.validate(node, &issued.token);
        self.begin(node, op).run(call, set_seen).await
    }

    /// Updates a session with data that should be unique.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn update(
        &self,
        node: u32,
        issued: &Issued,
        data: &str,
    ) -> Result<Visibility, Failed> {
        let op =
            Op::Update { session: issued.session, token: 0, data: data.to_owned(), answer: None };
        let call = self.subject.update(node, &issued.token, data);
        self.begin(node, op).run(call, changed).await.unwrap_or_else(no_answer)
    }

    /// Revokes a session.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn revoke(&self, node: u32, issued: &Issued) -> Result<Visibility, Failed> {
        let op = Op::Revoke { session: issued.session, token: 0, answer: None };
        let call = self.subject.revoke(node, &issued.token);
        self.begin(node, op).run(call, changed).await.unwrap_or_else(no_answer)
    }

    /// Returns the recorder, for observations beside the operations.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Returns the history. No operation is in flight, because operations borrow the script.
    pub fn finish(self) -> History {
        let (mut history, _) = self.recorder.take();
        let count = self.operations.load(Relaxed);
        history.push(Entry::End(End { at: self.recorder.clock().now(), due: count, sent: count }));
        history
    }

    fn begin(&self, node: u32, op: Op) -> Pending<'_> {
        self.operations.fetch_add(1, Relaxed);
        Pending::begin(&self.recorder, self.patience, node, op)
    }
}

fn no_answer<T>() -> Result<T, Failed> {
    Err(Failed::unknown("no result within the timeout"))
}
