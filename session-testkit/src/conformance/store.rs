//! What every [`SessionStore`] must do, whatever it keeps its sessions in.

mod changes;
mod ends;
mod housekeeping;
mod journal;
mod reads;

use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::store::{Change, Creation, Loaded, Revoked, Row, SessionStore, Target};
use session_layer::{CheckedSession, NewSession, Session, SessionId, TokenDigest};
use tokio::time::{Instant, sleep};

use super::check::{Check, Failure, Outcome, PATIENCE, answer, ensure};

const HOUR: Duration = Duration::from_secs(3600);
/// How often a condition is looked at.
const TICK: Duration = Duration::from_millis(10);

/// All checks of a store.
#[must_use]
pub fn store_checks<S: SessionStore>() -> Vec<Check<S>> {
    [
        reads::checks(),
        changes::checks(),
        ends::checks(),
        journal::checks(),
        housekeeping::checks(),
    ]
    .concat()
}

/// A store, with tokens and users that no other check has.
struct Case<'a, S> {
    store: &'a S,
    id: uuid::Uuid,
}

impl<'a, S: SessionStore> Case<'a, S> {
    fn of(store: &'a S) -> Self {
        let id = uuid::Uuid::new_v4();
        Self { store, id }
    }

    /// A digest that stands for the token of this name.
    fn token(&self, name: &str) -> TokenDigest {
        TokenDigest::of(&format!("{} {name}", self.id))
    }

    fn tokens<const N: usize>(&self, names: [&str; N]) -> Vec<TokenDigest> {
        let mut digests = names.map(|name| self.token(name)).to_vec();
        digests.sort();
        digests
    }

    /// The id of the user of this name.
    fn user(&self, name: &str) -> String {
        format!("{name} {}", self.id)
    }

    fn new_session(&self, user: &str) -> Outcome<CheckedSession> {
        checked(NewSession::new(self.user(user)))
    }

    /// A session of this user that may be used for so long; what no application may ask for.
    fn short(&self, user: &str, lifetime: Duration) -> Outcome<CheckedSession> {
        let mut short = self.new_session(user)?;
        short.lifetime = lifetime;
        Ok(short)
    }

    /// A session id that nobody has.
    fn unknown_id(&self) -> SessionId {
        SessionId::from_bytes(*self.id.as_bytes())
    }

    async fn create(&self, name: &str, new: &CheckedSession) -> Outcome<Creation> {
        answer("create", self.store.create(self.token(name), new)).await
    }

    /// Creates a session of `user` under the token `name`.
    async fn login(&self, name: &str, user: &str) -> Outcome<Session> {
        self.login_as(name, &self.new_session(user)?).await
    }

    async fn login_as(&self, name: &str, new: &CheckedSession) -> Outcome<Session> {
        match self.create(name, new).await? {
            Creation::Created(session) => Ok(session),
            other => Err(Failure::new(format!(
                "`create` of a session under a new token was answered {other:?}"
            ))),
        }
    }

    async fn load_all(&self, digests: &[TokenDigest]) -> Outcome<Loaded> {
        let loaded = answer("load", self.store.load(digests)).await?;
        let (rows, asked) = (loaded.rows.len(), digests.len());
        ensure!(rows == asked, "`load` of {asked} digests gave {rows} rows");
        Ok(loaded)
    }

    async fn load(&self, name: &str) -> Outcome<Row> {
        let mut loaded = self.load_all(&[self.token(name)]).await?;
        let row = loaded.rows.pop();
        row.ok_or_else(|| Failure::new("`load` gave no row"))
    }

    async fn alive(&self, name: &str) -> Outcome<Session> {
        match self.load(name).await? {
            Row::Alive { session, .. } => Ok(session),
            other => Err(Failure::new(format!(
                "the session under the token {name:?} is {other:?}, and should be alive"
            ))),
        }
    }

    async fn revoked(&self, name: &str) -> Outcome {
        match self.load(name).await? {
            Row::Revoked => Ok(()),
            other => Err(Failure::new(format!(
                "the session under the token {name:?} is {other:?}, and should be revoked"
            ))),
        }
    }

    async fn absent(&self, name: &str) -> Outcome {
        match self.load(name).await? {
            Row::Absent => Ok(()),
            other => Err(Failure::new(format!(
                "under the token {name:?} is {other:?}, and there should be nothing"
            ))),
        }
    }

    /// Waits until it is no longer alive.
    async fn until_over(&self, name: &str) -> Outcome {
        let end = Instant::now() + PATIENCE;
        while matches!(self.load(name).await?, Row::Alive { .. }) {
            ensure!(
                Instant::now() < end,
                "the session under the token {name:?} is still alive {PATIENCE:?} after its time"
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
        let mut revoked = answer("revoke", self.store.revoke(target, "test")).await?;
        revoked.digests.sort();
        Ok(revoked)
    }

    fn by_token(&self, name: &str) -> Target {
        Target::Token(self.token(name))
    }

    fn all_of(&self, user: &str, keep: Option<SessionId>) -> Target {
        Target::User {
            user_id: self.user(user),
            keep,
        }
    }

    fn owned_by(&self, id: SessionId, user: &str) -> Target {
        Target::OwnedBy(id, self.user(user))
    }
}

fn failed<T>(what: String) -> Outcome<T> {
    Err(Failure::new(what))
}

/// What a change made of a session, with its digests in ascending order.
type Made = (Session, Vec<TokenDigest>);

fn made(operation: &str, change: Change) -> Outcome<Made> {
    match change {
        Change::Made {
            session,
            mut digests,
        } => {
            // Their order means nothing.
            digests.sort();
            Ok((session, digests))
        }
        other => Err(Failure::new(format!(
            "`{operation}` of a session that is alive was answered {other:?}"
        ))),
    }
}

/// The change must have been refused because of one that came first.
fn conflict(operation: &str, change: &Change) -> Outcome {
    ensure!(
        matches!(change, Change::Conflict),
        "`{operation}` was answered {change:?}, and should be a conflict"
    );
    Ok(())
}

fn checked(new: NewSession) -> Outcome<CheckedSession> {
    new.check().map_err(|error| Failure::new(error.to_string()))
}

fn json(text: &str) -> Outcome<Box<RawValue>> {
    RawValue::from_string(text.to_owned()).map_err(|error| Failure::new(error.to_string()))
}

/// The session's data as a value: a store may keep it as another text.
fn data(session: &Session) -> Outcome<serde_json::Value> {
    session
        .data()
        .map_err(|error| Failure::new(format!("the data that came back are no JSON: {error}")))
}
