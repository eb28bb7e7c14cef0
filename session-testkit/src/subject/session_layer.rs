//! session-layer as a [`Subject`]. Each node is a separate [`Sessions`] handle.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use session_layer::{
    Error, LoginSnapshot, NewSession, RevokeTarget, Session, Sessions, Validation,
};

use super::{Failed, Login, Seen, Subject, Token, Visibility};
use crate::backends::chain;

/// Several [`Sessions`] over the same servers, each with its own cache and store, like several
/// processes. Clones of one handle are one node. Clones of the subject are one subject.
#[derive(Debug, Clone)]
pub struct SessionLayerSubject {
    nodes: Arc<RwLock<Vec<Sessions>>>,
}

impl SessionLayerSubject {
    /// Creates a subject with one node per handle. Without a handle, every operation is refused.
    pub fn new(nodes: impl IntoIterator<Item = Sessions>) -> Self {
        Self { nodes: Arc::new(RwLock::new(nodes.into_iter().collect())) }
    }

    /// Returns the handle of one node, for its metrics or its shutdown.
    pub fn node(&self, node: u32) -> Option<Sessions> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(usize::try_from(node).ok()?).cloned()
    }

    /// Replaces a node's handle, as a restart does, and returns the old one, whose operations
    /// continue. Returns `None` if there is no such node.
    pub fn replace(&self, node: u32, with: Sessions) -> Option<Sessions> {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let place = nodes.get_mut(usize::try_from(node).ok()?)?;
        Some(std::mem::replace(place, with))
    }

    fn on(&self, node: u32) -> Result<Sessions, Failed> {
        self.node(node).ok_or_else(|| Failed::refused(format!("there is no node {node}")))
    }
}

impl Subject for SessionLayerSubject {
    fn nodes(&self) -> u32 {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        u32::try_from(nodes.len()).unwrap_or(u32::MAX)
    }

    async fn begin_login(&self, node: u32) -> Result<Option<String>, Failed> {
        let login = self.on(node)?.begin_login().await.map_err(failed)?;
        Ok(Some(login.snapshot().to_string()))
    }

    async fn create(&self, node: u32, login: &Login) -> Result<Token, Failed> {
        let mut new = NewSession::new(&login.user).data(&login.data);
        if let Some(lifetime) = login.lifetime {
            new = new.lifetime(lifetime);
        }
        if let Some(idle) = login.idle {
            new = new.idle_timeout(idle);
        }
        let sessions = self.on(node)?;
        let created = match &login.begun {
            Some(moment) => {
                let moment: LoginSnapshot = moment.parse().map_err(Failed::refused)?;
                sessions.resume_login(moment).create(new).await
            }
            None => sessions.create(new).await,
        };
        Ok(Token::new(created.map_err(failed)?.token.reveal()))
    }

    async fn validate(&self, node: u32, token: &Token) -> Seen {
        let Some(sessions) = self.node(node) else {
            return Seen::Unavailable;
        };
        match sessions.validate(token.reveal()).await {
            Validation::Valid(session) => {
                Seen::Valid { user: session.user_id().to_owned(), data: data_of(&session) }
            }
            Validation::Invalid => Seen::Invalid,
            _ => Seen::Unavailable,
        }
    }

    async fn revoke(&self, node: u32, token: &Token) -> Result<Visibility, Failed> {
        let changed = self.on(node)?.revoke(token.reveal()).await;
        Ok(visibility_of(changed.map_err(failed)?.visibility))
    }

    /// Updates as an application does: it reads the session, then compares and sets its version. An
    /// old entry or a race is refused.
    async fn update(&self, node: u32, token: &Token, data: &str) -> Result<Visibility, Failed> {
        let sessions = self.on(node)?;
        let session = match sessions.validate(token.reveal()).await {
            Validation::Valid(session) => session,
            Validation::Invalid => return Err(Failed::refused(Error::NoSession)),
            _ => return Err(Failed::refused("the session is unknown during an outage")),
        };
        let changed = sessions.update(&session, data).await.map_err(failed)?;
        Ok(visibility_of(changed.visibility))
    }

    async fn revoke_all(&self, node: u32, user: &str) -> Result<Visibility, Failed> {
        let changed = self.on(node)?.revoke(RevokeTarget::user(user)).await;
        Ok(visibility_of(changed.map_err(failed)?.visibility))
    }

    async fn rotate(
        &self,
        node: u32,
        token: &Token,
        grace: Duration,
    ) -> Result<(Token, Visibility), Failed> {
        let changed = self.on(node)?.rotate(token.reveal(), grace).await;
        let changed = changed.map_err(failed)?;
        let token = Token::new(changed.value.token.reveal());
        Ok((token, visibility_of(changed.visibility)))
    }
}

/// Returns the session's data, which were written as a JSON string. Other data are returned as they
/// are, and the checker then reports them.
fn data_of(session: &Session) -> String {
    session.data::<String>().unwrap_or_else(|_| session.data_json().to_owned())
}

fn visibility_of(visibility: session_layer::Visibility) -> Visibility {
    match visibility {
        session_layer::Visibility::Propagated => Visibility::Propagated,
        session_layer::Visibility::Committed { within, at_most } => {
            Visibility::Committed { within, at_most }
        }
        // `Nothing`, and later variants, promise nothing that can be checked.
        _ => Visibility::Nothing,
    }
}

/// Converts the error. Only [`Error::Unknown`] leaves the result open.
fn failed(error: Error) -> Failed {
    match error {
        Error::Unknown(_) => Failed::unknown(chain(&error)),
        other => Failed::refused(chain(&other)),
    }
}

#[cfg(test)]
mod tests {
    use session_layer::cache::MemoryCache;
    use session_layer::store::SqliteStore;

    use super::*;
    use crate::{
        invariants::{Invariant, Outcome, check},
        workload::{Runner, Settings},
    };

    async fn embedded() -> SessionLayerSubject {
        let store = SqliteStore::open(":memory:").await.unwrap();
        let builder = Sessions::builder(MemoryCache::new(10_000), store);
        // The timeout fits a busy machine, because this test is about the translation.
        let sessions = builder.validation_timeout(Duration::from_secs(5)).build().unwrap();
        SessionLayerSubject::new([sessions])
    }

    #[tokio::test]
    async fn each_operation_is_translated_unchanged() {
        let subject = embedded().await;
        let login = Login::new("ann", "first");
        let token = subject.create(0, &login).await.unwrap();
        let valid = |data: &str| Seen::Valid { user: "ann".to_owned(), data: data.to_owned() };
        assert_eq!(subject.validate(0, &token).await, valid("first"));
        let visibility = subject.update(0, &token, "second").await;
        assert_eq!(visibility, Ok(Visibility::Propagated));
        assert_eq!(subject.validate(0, &token).await, valid("second"));

        let (next, _) = subject.rotate(0, &token, Duration::ZERO).await.unwrap();
        assert_eq!(subject.validate(0, &token).await, Seen::Invalid);
        assert_eq!(subject.validate(0, &next).await, valid("second"));
        assert_eq!(subject.revoke(0, &token).await, Ok(Visibility::Nothing));
        assert_eq!(subject.revoke_all(0, "ann").await, Ok(Visibility::Propagated));
        assert_eq!(subject.validate(0, &next).await, Seen::Invalid);
        let ended = subject.update(0, &next, "third").await;
        assert!(matches!(ended, Err(Failed::Refused(_))), "{ended:?}");

        let random = subject.random_token([7; 32]);
        assert_eq!(subject.validate(0, &random).await, Seen::Invalid);
        assert_eq!(subject.validate(1, &next).await, Seen::Unavailable);
        let nowhere = subject.revoke(1, &next).await;
        assert_eq!(nowhere, Err(Failed::refused("there is no node 1")));
    }

    #[tokio::test]
    async fn embedded_pair_under_load_keeps_its_promises() {
        let mut settings = Settings::new(3);
        settings.rate = 400;
        settings.duration = Duration::from_secs(2);
        settings.sessions = 40;
        settings.parameters.single_server = true;
        let run = Runner::new(embedded().await, settings).run().await.unwrap();
        let verdicts = check(&run.history);
        for shown in [Invariant::R1, Invariant::R2, Invariant::R3, Invariant::R4, Invariant::R5] {
            let verdict = verdicts.of(shown);
            assert_eq!(verdict.outcome(), Outcome::Holds, "{verdicts}{}", run.report);
        }
    }
}
