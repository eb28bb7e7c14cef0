//! A workload written by hand: where a test itself says what comes first, to force a race rather than
//! hope for it.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    Recorder,
    perform::{Pending, changed, log_in, set_creation, set_seen},
};
use crate::{
    history::{End, Entry, Header, History, Op, Parameters},
    subject::{Failed, Login, Reach, Seen, Subject, Token},
};

/// A subject that is asked what the caller asks, one thing after the other or at once, and the record of it.
///
/// # Examples
///
/// ```
/// # use std::{collections::HashMap, sync::Mutex};
/// # use session_testkit::subject::{Failed, Login, Reach, Seen, Subject, Token};
/// # #[derive(Default)]
/// # struct MyCache(Mutex<HashMap<String, (String, String)>>);
/// # impl Subject for MyCache {
/// #     fn nodes(&self) -> u32 { 2 }
/// #     async fn create(&self, _node: u32, login: &Login) -> Result<Token, Failed> {
/// #         let session = (login.user.clone(), login.data.clone());
/// #         self.0.lock().map_err(Failed::unknown)?.insert("token".to_owned(), session);
/// #         Ok(Token::new("token"))
/// #     }
/// #     async fn validate(&self, _node: u32, token: &Token) -> Seen {
/// #         let Ok(sessions) = self.0.lock() else { return Seen::Unavailable };
/// #         match sessions.get(token.reveal()) {
/// #             Some((user, data)) => Seen::Valid { user: user.clone(), data: data.clone() },
/// #             None => Seen::Invalid,
/// #         }
/// #     }
/// #     async fn revoke(&self, _node: u32, token: &Token) -> Result<Reach, Failed> {
/// #         self.0.lock().map_err(Failed::unknown)?.remove(token.reveal());
/// #         Ok(Reach::Propagated)
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Failed> {
/// use session_testkit::{
///     history::Parameters,
///     invariants::{self, Invariant, Outcome},
///     workload::Script,
/// };
///
/// let script = Script::new(MyCache::default(), 42, Parameters::default());
/// let session = script.create(0, &Login::new("ann", "a")).await?;
/// let (_, _) = tokio::join!(script.validate(0, &session), script.revoke(1, &session));
/// assert_eq!(script.validate(0, &session).await, Some(Seen::Invalid));
/// let verdicts = invariants::check(&script.finish());
/// assert_eq!(verdicts.of(Invariant::R1).outcome(), Outcome::Holds);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Script<S> {
    subject: S,
    recorder: Recorder,
    patience: Duration,
    sessions: AtomicU32,
    asked: AtomicU64,
}

/// A token that the subject gave out in a [`Script`], with its place in the history.
#[derive(Debug, Clone)]
pub struct Issued {
    session: u32,
    token: Token,
}

impl Issued {
    /// The session's number in the history.
    #[must_use]
    pub fn session(&self) -> u32 {
        self.session
    }

    /// The secret.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }
}

impl<S: Subject> Script<S> {
    /// A script for this subject. The history's clock starts now. `seed` is of whatever the caller draws;
    /// it goes into the history's header.
    pub fn new(subject: S, seed: u64, parameters: Parameters) -> Self {
        let mut header = Header::new(seed, subject.nodes());
        header.parameters = parameters;
        Self {
            subject,
            recorder: Recorder::new(header),
            patience: Duration::from_secs(10),
            sessions: AtomicU32::new(0),
            asked: AtomicU64::new(0),
        }
    }

    /// After so long an operation is given up, as one without an answer. Defaults to 10 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The subject.
    #[must_use]
    pub fn subject(&self) -> &S {
        &self.subject
    }

    /// A login. The checker tells writes apart by their data, so it should be one of a kind.
    ///
    /// # Errors
    /// As the subject says; [`Failed::Unknown`] where it did not answer in time.
    pub async fn create(&self, node: u32, login: &Login) -> Result<Issued, Failed> {
        let session = self.sessions.fetch_add(1, Relaxed);
        let millis = |span: Duration| crate::history::nanos(span) / 1_000_000;
        let op = Op::Create {
            session,
            user: login.user.clone(),
            data: login.data.clone(),
            began: None,
            lifetime_ms: login.lifetime.map(millis),
            idle_ms: login.idle.map(millis),
            answer: None,
        };
        let logged_in = log_in(&self.subject, self.recorder.clock(), node, login.clone());
        let created = self.begin(node, op).ask(logged_in, set_creation);
        let (token, _began) = created.await.unwrap_or_else(no_answer)?;
        Ok(Issued { session, token })
    }

    /// A validate; `None` where it was not answered in time.
    pub async fn validate(&self, node: u32, issued: &Issued) -> Option<Seen> {
        let op = Op::Validate {
            session: issued.session,
            token: 0,
            answer: None,
        };
        let asked = self.subject.validate(node, &issued.token);
        self.begin(node, op)
            .ask(asked, |op, seen| set_seen(op, seen.clone()))
            .await
    }

    /// New data, which should be one of a kind.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn update(&self, node: u32, issued: &Issued, data: &str) -> Result<Reach, Failed> {
        let op = Op::Update {
            session: issued.session,
            token: 0,
            data: data.to_owned(),
            answer: None,
        };
        let asked = self.subject.update(node, &issued.token, data);
        let answer = self.begin(node, op).ask(asked, changed).await;
        answer.unwrap_or_else(no_answer)
    }

    /// The end of a session.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn revoke(&self, node: u32, issued: &Issued) -> Result<Reach, Failed> {
        let op = Op::Revoke {
            session: issued.session,
            token: 0,
            answer: None,
        };
        let asked = self.subject.revoke(node, &issued.token);
        let answer = self.begin(node, op).ask(asked, changed).await;
        answer.unwrap_or_else(no_answer)
    }

    /// To record what is observed beside the operations.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// What happened. Operations under way are over first: they borrow the script.
    #[must_use]
    pub fn finish(self) -> History {
        let (mut history, _) = self.recorder.take();
        let asked = self.asked.load(Relaxed);
        history.push(Entry::End(End {
            at: self.recorder.clock().now(),
            due: asked,
            sent: asked,
        }));
        history
    }

    fn begin(&self, node: u32, op: Op) -> Pending<'_> {
        self.asked.fetch_add(1, Relaxed);
        Pending::begin(&self.recorder, self.patience, node, op)
    }
}

fn no_answer<T>() -> Result<T, Failed> {
    Err(Failed::unknown("no answer in time"))
}
