//! A subject in memory. It is correct by default, and has optional bugs.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::subject::{Failed, Login, Seen, Subject, Token, Visibility};

#[derive(Default)]
pub(super) struct InMemory {
    pub(super) sessions: Mutex<HashMap<String, Session>>,
    pub(super) epochs: Mutex<HashMap<String, u64>>,
    pub(super) next: AtomicU64,
    /// The duration of each of the two waits of an operation for its store.
    pub(super) takes: Duration,
    /// While it is true, no operation returns.
    pub(super) held: watch::Sender<bool>,
    /// Shared with faults.
    pub(super) down: std::sync::Arc<AtomicBool>,
    /// Whether node 1 has its own copies and misses revokes.
    pub(super) forgets_node_1: bool,
    pub(super) down_is_invalid: bool,
    pub(super) panics_on_update: bool,
    pub(super) hangs_on_rotate: bool,
    pub(super) without_rotation: bool,
}

#[derive(Clone)]
pub(super) struct Session {
    user: String,
    data: String,
    expires: Option<Instant>,
    ended: bool,
}

impl InMemory {
    async fn wait(&self) -> Result<(), Failed> {
        let released = self.held.subscribe().wait_for(|held| !held).await.is_ok();
        assert!(released, "the sender is in `self`");
        if !self.takes.is_zero() {
            sleep(self.takes).await;
        }
        if self.down.load(Ordering::Relaxed) {
            return Err(Failed::refused("down"));
        }
        Ok(())
    }

    fn change(
        &self,
        token: &Token,
        change: impl FnOnce(&mut Session),
    ) -> Result<Visibility, Failed> {
        match self.sessions.lock().unwrap().get_mut(token.reveal()) {
            Some(session) if !session.ended => {
                change(session);
                Ok(Visibility::Propagated)
            }
            Some(_) => Err(Failed::refused("ended")),
            None => Ok(Visibility::Nothing),
        }
    }
}

impl Subject for InMemory {
    fn nodes(&self) -> u32 {
        2
    }

    async fn create(&self, _node: u32, login: &Login) -> Result<Token, Failed> {
        let epoch = |user: &str| self.epochs.lock().unwrap().get(user).copied();
        let began = epoch(&login.user);
        self.wait().await?;
        if epoch(&login.user) != began {
            return Err(Failed::refused("superseded"));
        }
        let token = format!("t{}", self.next.fetch_add(1, Ordering::Relaxed));
        let session = Session {
            user: login.user.clone(),
            data: login.data.clone(),
            expires: login.lifetime.map(|lifetime| Instant::now() + lifetime),
            ended: false,
        };
        self.sessions.lock().unwrap().insert(token.clone(), session);
        self.wait().await.map_err(Failed::unknown)?;
        Ok(Token::new(token))
    }

    async fn validate(&self, node: u32, token: &Token) -> Seen {
        if self.wait().await.is_err() {
            return if self.down_is_invalid { Seen::Invalid } else { Seen::Unavailable };
        }
        let sessions = self.sessions.lock().unwrap();
        match sessions.get(token.reveal()) {
            Some(session) => {
                let expired = session.expires.is_some_and(|at| Instant::now() >= at);
                let ended = session.ended && !(self.forgets_node_1 && node == 1);
                if expired || ended {
                    return Seen::Invalid;
                }
                Seen::Valid { user: session.user.clone(), data: session.data.clone() }
            }
            None => Seen::Invalid,
        }
    }

    async fn revoke(&self, _node: u32, token: &Token) -> Result<Visibility, Failed> {
        self.wait().await?;
        let visibility = self.change(token, |session| session.ended = true);
        self.wait().await.map_err(Failed::unknown)?;
        visibility
    }

    async fn update(&self, _node: u32, token: &Token, data: &str) -> Result<Visibility, Failed> {
        self.wait().await?;
        assert!(!self.panics_on_update, "injected panic");
        self.change(token, |session| data.clone_into(&mut session.data))
    }

    async fn revoke_all(&self, _node: u32, user: &str) -> Result<Visibility, Failed> {
        self.wait().await?;
        *self.epochs.lock().unwrap().entry(user.to_owned()).or_default() += 1;
        let mut sessions = self.sessions.lock().unwrap();
        for session in sessions.values_mut().filter(|session| session.user == user) {
            session.ended = true;
        }
        Ok(Visibility::Propagated)
    }

    async fn rotate(
        &self,
        _node: u32,
        token: &Token,
        _grace: Duration,
    ) -> Result<(Token, Visibility), Failed> {
        if self.without_rotation {
            return Err(Failed::Unsupported);
        }
        if self.hangs_on_rotate {
            std::future::pending::<()>().await;
        }
        self.wait().await?;
        let sessions = self.sessions.lock().unwrap();
        match sessions.get(token.reveal()) {
            None => Err(Failed::refused("unknown")),
            Some(session) if session.ended => Err(Failed::refused("ended")),
            // For a grace, both tokens would have to share a session, which this subject does not
            // support.
            Some(session) => Err(Failed::refused(format!("{} keeps its token", session.user))),
        }
    }
}
