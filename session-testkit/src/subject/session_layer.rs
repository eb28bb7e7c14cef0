//! session-layer as a [`Subject`]: each node is a [`Sessions`] handle of its own.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use session_layer::{Error, LoginMoment, NewSession, Session, Sessions, Validation};

use super::{Failed, Login, Reach, Seen, Subject, Token};
use crate::backends::chain;

/// Several [`Sessions`] over the same servers, each with a cache and a store of its own: what several
/// processes are to each other. (Clones of one handle are one node.) Clones of the subject are one
/// subject.
#[derive(Debug, Clone)]
pub struct SessionLayerSubject {
    nodes: Arc<RwLock<Vec<Sessions>>>,
}

impl SessionLayerSubject {
    /// One node per handle. With none, every operation is refused.
    pub fn new(nodes: impl IntoIterator<Item = Sessions>) -> Self {
        Self {
            nodes: Arc::new(RwLock::new(nodes.into_iter().collect())),
        }
    }

    /// The handle of one node, to look at its metrics or to shut it down.
    #[must_use]
    pub fn node(&self, node: u32) -> Option<Sessions> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(usize::try_from(node).ok()?).cloned()
    }

    /// Puts another handle in a node's place, as a restart does, and gives back the old one: what is
    /// under way there goes on. `None` if there is no such node.
    pub fn replace(&self, node: u32, with: Sessions) -> Option<Sessions> {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let place = nodes.get_mut(usize::try_from(node).ok()?)?;
        Some(std::mem::replace(place, with))
    }

    fn on(&self, node: u32) -> Result<Sessions, Failed> {
        self.node(node)
            .ok_or_else(|| Failed::refused(format!("there is no node {node}")))
    }
}

impl Subject for SessionLayerSubject {
    fn nodes(&self) -> u32 {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        u32::try_from(nodes.len()).unwrap_or(u32::MAX)
    }

    async fn begin_login(&self, node: u32) -> Result<Option<String>, Failed> {
        let login = self.on(node)?.begin_login().await.map_err(failed)?;
        Ok(Some(login.moment().to_string()))
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
                let moment: LoginMoment = moment.parse().map_err(Failed::refused)?;
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
            Validation::Valid(session) => Seen::Valid {
                user: session.user_id().to_owned(),
                data: data_of(&session),
            },
            Validation::Invalid => Seen::Invalid,
            _ => Seen::Unavailable,
        }
    }

    async fn revoke(&self, node: u32, token: &Token) -> Result<Reach, Failed> {
        let changed = self.on(node)?.revoke(token.reveal()).await;
        Ok(reach(changed.map_err(failed)?.reach))
    }

    /// As an application does it: the copy of this request, then compare-and-set on its version. A copy
    /// that is old, or a race, is refused.
    async fn update(&self, node: u32, token: &Token, data: &str) -> Result<Reach, Failed> {
        let sessions = self.on(node)?;
        let session = match sessions.validate(token.reveal()).await {
            Validation::Valid(session) => session,
            Validation::Invalid => return Err(Failed::refused(Error::NoSession)),
            _ => return Err(Failed::refused("nobody could say whose session this is")),
        };
        let changed = sessions.update(&session, data).await.map_err(failed)?;
        Ok(reach(changed.reach))
    }

    async fn revoke_all(&self, node: u32, user: &str) -> Result<Reach, Failed> {
        let changed = self.on(node)?.revoke_all(user).await;
        Ok(reach(changed.map_err(failed)?.reach))
    }

    async fn rotate(
        &self,
        node: u32,
        token: &Token,
        grace: Duration,
    ) -> Result<(Token, Reach), Failed> {
        let changed = self.on(node)?.rotate(token.reveal(), grace).await;
        let changed = changed.map_err(failed)?;
        let token = Token::new(changed.value.token.reveal());
        Ok((token, reach(changed.reach)))
    }
}

/// What was written is a JSON string; anything else is shown as it is, for the checker to object to.
fn data_of(session: &Session) -> String {
    session
        .data::<String>()
        .unwrap_or_else(|_| session.data_json().to_owned())
}

fn reach(reach: session_layer::Reach) -> Reach {
    match reach {
        session_layer::Reach::Propagated => Reach::Propagated,
        session_layer::Reach::Committed { within, at_most } => Reach::Committed { within, at_most },
        // `Nothing`, and what a later version may add: it promises nothing that could be checked.
        _ => Reach::Nothing,
    }
}

/// Only [`Error::Unknown`] leaves open what happened.
fn failed(error: Error) -> Failed {
    match error {
        Error::Unknown(_) => Failed::unknown(chain(&error)),
        other => Failed::refused(chain(&other)),
    }
}

#[cfg(test)]
mod tests {
    use session_layer::{cache::MemoryCache, store::SqliteStore};

    use super::*;
    use crate::{
        invariants::{Invariant, Outcome, check},
        workload::{Runner, Settings},
    };

    async fn embedded() -> SessionLayerSubject {
        let store = SqliteStore::open(":memory:").await.unwrap();
        let builder = Sessions::builder(MemoryCache::new(10_000), store);
        // A budget for a busy machine: what is looked at here is the translation.
        let sessions = builder.budget(Duration::from_secs(5)).build();
        SessionLayerSubject::new([sessions])
    }

    #[tokio::test]
    async fn each_operation_goes_through_unchanged() {
        let subject = embedded().await;
        let login = Login::new("ann", "first");
        let token = subject.create(0, &login).await.unwrap();
        let valid = |data: &str| Seen::Valid {
            user: "ann".to_owned(),
            data: data.to_owned(),
        };
        assert_eq!(subject.validate(0, &token).await, valid("first"));
        let reach = subject.update(0, &token, "second").await;
        assert_eq!(reach, Ok(Reach::Propagated));
        assert_eq!(subject.validate(0, &token).await, valid("second"));

        let (next, _) = subject.rotate(0, &token, Duration::ZERO).await.unwrap();
        assert_eq!(subject.validate(0, &token).await, Seen::Invalid);
        assert_eq!(subject.validate(0, &next).await, valid("second"));
        assert_eq!(subject.revoke(0, &token).await, Ok(Reach::Nothing));
        assert_eq!(subject.revoke_all(0, "ann").await, Ok(Reach::Propagated));
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
    async fn the_embedded_pair_keeps_its_promises_under_load() {
        let mut settings = Settings::new(3);
        settings.rate = 400;
        settings.duration = Duration::from_secs(2);
        settings.sessions = 40;
        settings.parameters.single_server = true;
        let run = Runner::new(embedded().await, settings).run().await.unwrap();
        let verdicts = check(&run.history);
        for shown in [
            Invariant::R1,
            Invariant::R2,
            Invariant::R3,
            Invariant::R4,
            Invariant::R5,
        ] {
            let verdict = verdicts.of(shown);
            assert_eq!(
                verdict.outcome(),
                Outcome::Holds,
                "{verdicts}{}",
                run.report
            );
        }
    }
}
