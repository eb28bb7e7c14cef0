//! Checks of a [`SessionStore`], whatever its storage.

mod changes;
mod housekeeping;
mod journal;
mod nodes;
mod reads;
mod revocations;

use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::store::ValidatedSession;
use session_layer::store::{Change, Creation, ReadResult, Revoked, Row, SessionStore, Target};
use session_layer::{NewSession, Session, SessionId, TokenDigest};
use tokio::time::{Instant, sleep};

use super::check::{Check, Failure, Outcome, PATIENCE, answer, ensure};

const HOUR: Duration = Duration::from_secs(3600);
const TICK: Duration = Duration::from_millis(10);

/// Returns all checks of a store.
pub fn store_checks<S: SessionStore>() -> Vec<Check<S>> {
    [
        reads::checks(),
        changes::checks(),
        revocations::checks(),
        journal::checks(),
        housekeeping::checks(),
        nodes::checks(),
    ]
    .concat()
}

/// A store with tokens and users that no other check uses.
struct Case<'a, S> {
    store: &'a S,
    id: uuid::Uuid,
}

impl<'a, S: SessionStore> Case<'a, S> {
    fn of(store: &'a S) -> Self {
        let id = uuid::Uuid::new_v4();
        Self { store, id }
    }

    fn token(&self, name: &str) -> TokenDigest {
        TokenDigest::of(&format!("{} {name}", self.id))
    }

    fn tokens<const N: usize>(&self, names: [&str; N]) -> Vec<TokenDigest> {
        let mut digests = names.map(|name| self.token(name)).to_vec();
        digests.sort();
        digests
    }

    fn user(&self, name: &str) -> String {
        format!("{name} {}", self.id)
    }

    fn new_session(&self, user: &str) -> Outcome<ValidatedSession> {
        checked(NewSession::new(self.user(user)))
    }

    /// Returns a session with this lifetime, which is shorter than an application may set.
    fn short(&self, user: &str, lifetime: Duration) -> Outcome<ValidatedSession> {
        let mut short = self.new_session(user)?;
        short.lifetime = lifetime;
        Ok(short)
    }

    fn unknown_id(&self) -> SessionId {
        SessionId::from_bytes(*self.id.as_bytes())
    }

    async fn create(&self, name: &str, new: &ValidatedSession) -> Outcome<Creation> {
        answer("create", self.store.create(self.token(name), new)).await
    }

    /// Creates a session of `user` under the token `name`.
    async fn login(&self, name: &str, user: &str) -> Outcome<Session> {
        self.login_as(name, &self.new_session(user)?).await
    }

    async fn login_as(&self, name: &str, new: &ValidatedSession) -> Outcome<Session> {
        match self.create(name, new).await? {
            Creation::Created(session) => Ok(session),
            other => failed(format!("`create` of a session under a new token returned {other:?}")),
        }
    }

    async fn load_all(&self, digests: &[TokenDigest]) -> Outcome<ReadResult> {
        let loaded = answer("load", self.store.load(digests)).await?;
        let (rows, requested) = (loaded.rows.len(), digests.len());
        ensure!(rows == requested, "`load` of {requested} digests returned {rows} rows");
        Ok(loaded)
    }

    async fn load(&self, name: &str) -> Outcome<Row> {
        let mut loaded = self.load_all(&[self.token(name)]).await?;
        loaded.rows.pop().ok_or_else(|| Failure::new("`load` returned no row"))
    }

    async fn alive(&self, name: &str) -> Outcome<Session> {
        match self.load(name).await? {
            Row::Alive { session, .. } => Ok(session),
            other => unexpected(name, &other, "an active session"),
        }
    }

    async fn revoked(&self, name: &str) -> Outcome {
        match self.load(name).await? {
            Row::Revoked => Ok(()),
            other => unexpected(name, &other, "a revoked session"),
        }
    }

    async fn absent(&self, name: &str) -> Outcome {
        match self.load(name).await? {
            Row::Absent => Ok(()),
            other => unexpected(name, &other, "no session"),
        }
    }

    async fn until_ended(&self, name: &str) -> Outcome {
        let end = Instant::now() + PATIENCE;
        while matches!(self.load(name).await?, Row::Alive { .. }) {
            ensure!(
                Instant::now() < end,
                "the session of the token {name:?} is still active {PATIENCE:?} after its end"
            );
            sleep(TICK).await;
        }
        Ok(())
    }

    async fn update(&self, id: SessionId, version: i64, data: &str) -> Outcome<Change> {
        let data = json(data)?;
        answer("update", self.store.update(id, version, &data)).await
    }

    async fn rotate(&self, old: &str, new: &str, grace: Duration) -> Outcome<Change> {
        let (old, new) = (self.token(old), self.token(new));
        answer("rotate", self.store.rotate(old, new, grace)).await
    }

    async fn rotated(&self, old: &str, new: &str, grace: Duration) -> Outcome<Made> {
        made("rotate", self.rotate(old, new, grace).await?)
    }

    async fn touch(&self, id: SessionId, granularity: Duration) -> Outcome<Change> {
        answer("touch", self.store.touch(id, granularity)).await
    }

    async fn revoke(&self, target: &Target) -> Outcome<Revoked> {
        let mut revoked = answer("revoke", self.store.revoke(target, &"test".into())).await?;
        revoked.digests.sort();
        Ok(revoked)
    }

    fn by_token(&self, name: &str) -> Target {
        Target::Token(self.token(name))
    }

    fn all_of(&self, user: &str, keep: Option<SessionId>) -> Target {
        Target::User { user_id: self.user(user), keep }
    }

    fn owned_by(&self, id: SessionId, user: &str) -> Target {
        Target::OwnedBy(id, self.user(user))
    }
}

fn unexpected<T>(name: &str, row: &Row, expected: &str) -> Outcome<T> {
    failed(format!("the row of the token {name:?} is {row:?} instead of {expected}"))
}

fn failed<T>(what: String) -> Outcome<T> {
    Err(Failure::new(what))
}

/// A changed session and its digests in ascending order.
type Made = (Session, Vec<TokenDigest>);

fn made(operation: &str, change: Change) -> Outcome<Made> {
    match change {
        Change::Made { session, mut digests } => {
            // The order of the digests has no meaning.
            digests.sort();
            Ok((session, digests))
        }
        other => failed(format!("`{operation}` of an active session returned {other:?}")),
    }
}

/// Checks that an earlier change made this one a conflict.
fn conflict(operation: &str, change: &Change) -> Outcome {
    ensure!(
        matches!(change, Change::Conflict),
        "`{operation}` returned {change:?} instead of a conflict"
    );
    Ok(())
}

fn checked(new: NewSession) -> Outcome<ValidatedSession> {
    new.check().map_err(|error| Failure::new(error.to_string()))
}

fn json(text: &str) -> Outcome<Box<RawValue>> {
    RawValue::from_string(text.to_owned()).map_err(|error| Failure::new(error.to_string()))
}

/// Returns the session's data as a value, because a store may keep them as another text.
fn data(session: &Session) -> Outcome<serde_json::Value> {
    session.data().map_err(|error| Failure::new(format!("the returned data are no JSON: {error}")))
}
