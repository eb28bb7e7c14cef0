//! [`RevokeTarget`] and [`Revocation`]: the sessions that end, the reason, and the wait.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::change::Applied;
use crate::model::error::{Error, InputError};
use crate::model::session::{
    Session, SessionId, check_actor, check_reason, check_revoked_ids, check_user_id,
};
use crate::model::token::SessionToken;
use crate::sessions::erased::AnyEngine;
use crate::sessions::{Boxed, Sessions};
use crate::store::{RevocationNote, Target};

/// The sessions that [`Sessions::revoke`] ends.
///
/// | from | ends | reason by default |
/// |---|---|---|
/// | `&str`, `&String`, [`&SessionToken`](SessionToken) | the session with this token | `revoked` |
/// | [`SessionId`] | the session with this id, of any user | `revoked` |
/// | [`ids`](Self::ids) | the sessions with these ids, of any user | `revoked` |
/// | [`owned`](Self::owned) | the session with this id, if it belongs to this user | `revoked` |
/// | [`user`](Self::user) | all of this user's sessions | `revoked all` |
/// | [`others_of`](Self::others_of) | all other sessions of the same user | `revoked all others` |
///
/// `Debug` does not show the token.
#[derive(Clone, Copy)]
pub struct RevokeTarget<'a>(Of<'a>);

#[derive(Clone, Copy)]
enum Of<'a> {
    Token(&'a str),
    Id(SessionId),
    Ids(&'a [SessionId]),
    Owned { user_id: &'a str, id: SessionId },
    User(&'a str),
    AllBut(&'a Session),
}

impl<'a> RevokeTarget<'a> {
    /// Creates a target of the session with this id, if it belongs to this user. Use it for an id
    /// that comes from a request. For another user's session and for an unknown one, the result is
    /// the same: [`Visibility::Nothing`](crate::Visibility::Nothing).
    #[must_use]
    pub const fn owned(user_id: &'a str, id: SessionId) -> Self {
        Self(Of::Owned { user_id, id })
    }

    /// Creates a target of the sessions with these ids, of any user, in one transaction: at most
    /// [`MAX_REVOKED_IDS`](crate::limits::MAX_REVOKED_IDS). It is for operators' tools. Those that
    /// are unknown or have ended are left out of the count.
    #[must_use]
    pub const fn ids(ids: &'a [SessionId]) -> Self {
        Self(Of::Ids(ids))
    }

    /// Creates a target of all of this user's sessions, and of the logins that are under way.
    #[must_use]
    pub const fn user(user_id: &'a str) -> Self {
        Self(Of::User(user_id))
    }

    /// Creates a target of all sessions of the same user but this one ("log me out everywhere
    /// else").
    #[must_use]
    pub const fn others_of(session: &'a Session) -> Self {
        Self(Of::AllBut(session))
    }

    /// Returns the sessions that the store must revoke, and the default reason.
    fn resolve(self, sessions: &Sessions) -> Result<(Target, &'static str), Error> {
        Ok(match self.0 {
            Of::Token(token) => (Target::Token(sessions.digest(token)?), "revoked"),
            Of::Id(id) => (Target::Id(id), "revoked"),
            Of::Ids(ids) => {
                check_revoked_ids(ids)?;
                (Target::Ids(ids.to_vec()), "revoked")
            }
            Of::Owned { user_id, id } => {
                check_user_id(user_id)?;
                (Target::OwnedBy(id, user_id.to_owned()), "revoked")
            }
            Of::User(user_id) => {
                check_user_id(user_id)?;
                (Target::User { user_id: user_id.to_owned(), keep: None }, "revoked all")
            }
            Of::AllBut(session) => {
                let (user_id, keep) = (session.user_id().to_owned(), Some(session.id()));
                (Target::User { user_id, keep }, "revoked all others")
            }
        })
    }
}

impl<'a> From<&'a str> for RevokeTarget<'a> {
    fn from(token: &'a str) -> Self {
        Self(Of::Token(token))
    }
}

impl<'a> From<&'a String> for RevokeTarget<'a> {
    fn from(token: &'a String) -> Self {
        Self(Of::Token(token))
    }
}

impl<'a> From<&'a SessionToken> for RevokeTarget<'a> {
    fn from(token: &'a SessionToken) -> Self {
        Self(Of::Token(token.reveal()))
    }
}

impl From<SessionId> for RevokeTarget<'_> {
    fn from(id: SessionId) -> Self {
        Self(Of::Id(id))
    }
}

impl fmt::Debug for RevokeTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Of::Token(_) => f.write_str("RevokeTarget(token redacted)"),
            Of::Id(id) => write!(f, "RevokeTarget({id})"),
            Of::Ids(ids) => write!(f, "RevokeTarget({} sessions)", ids.len()),
            Of::Owned { user_id, id } => write!(f, "RevokeTarget({id} of {user_id:?})"),
            Of::User(user_id) => write!(f, "RevokeTarget(all of {user_id:?})"),
            Of::AllBut(session) => {
                write!(f, "RevokeTarget(all of {:?} but {})", session.user_id(), session.id())
            }
        }
    }
}

/// A revocation, which runs when it is awaited. [`Sessions::revoke`] creates it.
///
/// The result states how many active sessions have ended, and from when on no node honors them.
/// After an error, call again, which is safe. A session that is already revoked is removed from the
/// cache all the same.
///
/// # Errors
/// - [`Error::NotAToken`] for a token that the scheme does not accept.
/// - [`Error::Input`] for a user id or a reason over the limits.
/// - [`Error::Unavailable`] in an outage of Postgres: nothing was changed.
/// - [`Error::Unknown`] if the reply of Postgres was lost: the sessions may have ended.
#[must_use = "a revocation does nothing until it is awaited"]
pub struct Revocation {
    engine: Arc<dyn AnyEngine>,
    target: Result<(Target, &'static str), Error>,
    reason: Option<Cow<'static, str>>,
    actor: Option<Cow<'static, str>>,
    wait: Option<Duration>,
}

impl Revocation {
    pub(super) fn new(sessions: &Sessions, target: RevokeTarget<'_>) -> Self {
        Self {
            engine: Arc::clone(&sessions.engine),
            target: target.resolve(sessions),
            reason: None,
            actor: None,
            wait: None,
        }
    }

    /// Sets the reason that the store keeps with the sessions (`ended_reason`), for operators: 1 to
    /// 200 characters. Defaults to `revoked`, `revoked all` or `revoked all others`, depending on
    /// the [target](RevokeTarget).
    pub fn reason(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Sets who ends the sessions, which the store keeps with them (`ended_by`), for operators: 1
    /// to 200 characters, such as the login of an administrator. Defaults to none.
    pub fn actor(mut self, actor: impl Into<Cow<'static, str>>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// Sets that the revocation waits until it holds, but no longer than `deadline`.
    /// `Duration::MAX` waits without a limit. The revocation holds once Redis acknowledges that the
    /// entries are gone. Otherwise it holds once every node that is connected to Postgres has read
    /// of it ([`within`](crate::Visibility::Committed), 2 s by default). In an outage, the
    /// revocation is tried again until it succeeds. Defaults to not waiting.
    ///
    /// After an attempt of unknown outcome, another attempt on all sessions of a user also ends the
    /// logins between the two. Its value then counts the sessions that this attempt ended.
    ///
    /// The visibility is then `Propagated`, or `Committed` with `within` at zero and `at_most` for
    /// partitioned nodes. At the deadline, the times are those that remain, or the result is the
    /// error of the last attempt.
    pub fn wait(mut self, deadline: Duration) -> Self {
        self.wait = Some(deadline);
        self
    }

    async fn run(self) -> Result<Applied<u64>, Error> {
        let (target, default) = self.target?;
        let reason = self.reason.unwrap_or(Cow::Borrowed(default));
        let note = note(reason, self.actor)?;
        match self.wait {
            None => self.engine.revoke(target, note).await,
            Some(deadline) => self.engine.revoke_and_wait(target, note, deadline).await,
        }
    }
}

/// Returns what the store keeps of a revocation, after a check of the limits.
fn note(
    reason: Cow<'static, str>,
    actor: Option<Cow<'static, str>>,
) -> Result<RevocationNote, InputError> {
    check_reason(&reason)?;
    if let Some(actor) = &actor {
        check_actor(actor)?;
    }
    let note = RevocationNote::new(reason);
    Ok(match actor {
        Some(actor) => note.by(actor),
        None => note,
    })
}

impl IntoFuture for Revocation {
    type Output = Result<Applied<u64>, Error>;
    type IntoFuture = Boxed<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation")
            .field("target", &self.target)
            .field("reason", &self.reason)
            .field("actor", &self.actor)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::Timestamp;
    use crate::model::session::SessionParts;

    #[test]
    fn every_conversion_names_its_sessions_and_no_token() {
        let id = SessionId::from_bytes([7; 16]);
        let at = Timestamp::from_micros(0);
        let session = Session::from(SessionParts::new(id, "alice", at));
        let token = SessionToken::generate().unwrap();
        let text = token.reveal().to_owned();
        let redacted = "RevokeTarget(token redacted)";
        let expected = "07070707-0707-0707-0707-070707070707";
        for (target, shown) in [
            (RevokeTarget::from(text.as_str()), redacted.to_owned()),
            (RevokeTarget::from(&text), redacted.to_owned()),
            (RevokeTarget::from(&token), redacted.to_owned()),
            (RevokeTarget::from(id), format!("RevokeTarget({expected})")),
            (RevokeTarget::owned("bob", id), format!("RevokeTarget({expected} of \"bob\")")),
            (RevokeTarget::user("bob"), "RevokeTarget(all of \"bob\")".to_owned()),
            (
                RevokeTarget::others_of(&session),
                format!("RevokeTarget(all of \"alice\" but {expected})"),
            ),
        ] {
            assert_eq!(format!("{target:?}"), shown);
            if let Of::Token(held) = target.0 {
                assert_eq!(held, text);
            }
        }
    }
}
