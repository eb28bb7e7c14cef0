//! Operations of the subject with their times and responses.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LineError, Nanos, whole_millis};
use crate::subject::{Failed, Seen, Visibility};

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// The node that executed it.
    pub node: u32,
    /// The time of the call.
    pub call: Nanos,
    /// The time of the response. `None` if there was none and the operation ends at infinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Nanos>,
    /// The time when the caller dropped the operation's future.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Nanos>,
    /// The operation and its response.
    #[serde(rename = "do")]
    pub op: Op,
}

impl Operation {
    /// Returns the end, which is infinity without a response.
    pub fn end(&self) -> Nanos {
        self.ret.unwrap_or(Nanos::MAX)
    }

    /// Checks that the operation is possible.
    pub(super) fn check(&self, nodes: u32) -> Result<(), LineError> {
        if self.node >= nodes {
            return Err(LineError::NoSuchNode { node: self.node, nodes });
        }
        if self.end() < self.call || self.dropped.is_some_and(|at| at < self.call) {
            return Err(LineError::EndsBeforeItBegins);
        }
        if self.ret.is_some() != self.op.is_answered() {
            return Err(LineError::AnswerAndTime);
        }
        if self.ret.is_some() && self.dropped.is_some() {
            return Err(LineError::AnsweredAndDropped);
        }
        Ok(())
    }
}

/// An operation with its response. `answer` is `None` without a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// A login.
    Create {
        /// The session's number in this history.
        session: u32,
        /// The user of the session.
        user: String,
        /// The data of the session.
        data: String,
        /// The time when the login had certainly begun, if it is known. A revoke-all called later
        /// ends the session. Defaults to the call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        began: Option<Nanos>,
        /// The absolute timeout, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lifetime_ms: Option<u64>,
        /// The idle timeout, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idle_ms: Option<u64>,
        /// The response.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Creation>,
    },
    /// A validation of an issued token.
    Validate {
        /// The session.
        session: u32,
        /// The number of the token. Defaults to 0, the first.
        #[serde(default, skip_serializing_if = "is_first")]
        token: u32,
        /// The response.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Seen>,
    },
    /// A validation of a well-formed token that was never issued.
    ValidateRandom {
        /// The response.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Seen>,
    },
    /// New data for a session.
    Update {
        /// The session.
        session: u32,
        /// The number of the supplied token. Defaults to 0.
        #[serde(default, skip_serializing_if = "is_first")]
        token: u32,
        /// The new data.
        data: String,
        /// The response.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Change>,
    },
    /// The end of a session.
    Revoke {
        /// The session.
        session: u32,
        /// The number of the supplied token. Defaults to 0.
        #[serde(default, skip_serializing_if = "is_first")]
        token: u32,
        /// The response.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Change>,
    },
    /// The end of all of a user's sessions.
    RevokeAll {
        /// The user.
        user: String,
        /// The response.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Change>,
    },
    /// A new token for a session.
    Rotate {
        /// The session.
        session: u32,
        /// The number of the supplied token, which is replaced. Defaults to 0.
        #[serde(default, skip_serializing_if = "is_first")]
        token: u32,
        /// The number of the new token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new_token: Option<u32>,
        /// The grace: how long the old token remains valid.
        grace_ms: u64,
        /// The response.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Change>,
    },
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_first(token: &u32) -> bool {
    *token == 0
}

impl Op {
    /// Returns the session of the operation, if it has one.
    pub fn session(&self) -> Option<u32> {
        match self {
            Self::Create { session, .. }
            | Self::Validate { session, .. }
            | Self::Update { session, .. }
            | Self::Revoke { session, .. }
            | Self::Rotate { session, .. } => Some(*session),
            Self::ValidateRandom { .. } | Self::RevokeAll { .. } => None,
        }
    }

    /// Returns the response of a validation.
    pub fn seen(&self) -> Option<&Seen> {
        match self {
            Self::Validate { answer, .. } | Self::ValidateRandom { answer } => answer.as_ref(),
            _ => None,
        }
    }

    /// Returns whether this is a validation.
    pub fn is_validation(&self) -> bool {
        matches!(self, Self::Validate { .. } | Self::ValidateRandom { .. })
    }

    /// Returns the response of an update, a revoke, a revoke-all or a rotation.
    pub fn change(&self) -> Option<&Change> {
        match self {
            Self::Update { answer, .. }
            | Self::Revoke { answer, .. }
            | Self::RevokeAll { answer, .. }
            | Self::Rotate { answer, .. } => answer.as_ref(),
            _ => None,
        }
    }

    fn is_answered(&self) -> bool {
        matches!(self, Self::Create { answer: Some(_), .. })
            || self.seen().is_some()
            || self.change().is_some()
    }
}

/// The response to a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Creation {
    /// The session was created.
    Created,
    /// No session was created, for this reason.
    Refused(String),
    /// A session may exist, but no client has its token.
    Unknown(String),
}

impl Creation {
    /// Converts a response. Returns `None` for an unsupported operation, because nothing was sent.
    pub fn of<T>(answer: &Result<T, Failed>) -> Option<Self> {
        Some(match answer {
            Ok(_) => Self::Created,
            Err(Failed::Refused(why)) => Self::Refused(why.clone()),
            Err(Failed::Unknown(why)) => Self::Unknown(why.clone()),
            Err(Failed::Unsupported) => return None,
        })
    }
}

/// The response to a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// The change holds on every node.
    Propagated,
    /// The change holds after these spans.
    Committed {
        /// The span on connected nodes.
        within_ms: u64,
        /// The span on every node.
        at_most_ms: u64,
    },
    /// There was nothing to change.
    Nothing,
    /// Nothing was changed, for this reason.
    Refused(String),
    /// The result is unknown.
    Unknown(String),
}

impl Change {
    /// Converts a response. Returns `None` for an unsupported operation, because nothing was sent.
    pub fn of(answer: &Result<Visibility, Failed>) -> Option<Self> {
        Some(match answer {
            Ok(Visibility::Propagated) => Self::Propagated,
            Ok(Visibility::Committed { within, at_most }) => Self::Committed {
                within_ms: whole_millis(*within),
                at_most_ms: whole_millis(*at_most),
            },
            Ok(Visibility::Nothing) => Self::Nothing,
            Err(Failed::Refused(why)) => Self::Refused(why.clone()),
            Err(Failed::Unknown(why)) => Self::Unknown(why.clone()),
            Err(Failed::Unsupported) => return None,
        })
    }

    /// Returns how soon a certain change holds on connected nodes and on every node.
    pub fn reach(&self) -> Option<(Duration, Duration)> {
        match self {
            Self::Propagated => Some((Duration::ZERO, Duration::ZERO)),
            Self::Committed { within_ms, at_most_ms } => {
                Some((Duration::from_millis(*within_ms), Duration::from_millis(*at_most_ms)))
            }
            Self::Nothing | Self::Refused(_) | Self::Unknown(_) => None,
        }
    }

    /// Returns whether nothing was changed for certain.
    pub fn without_effect(&self) -> bool {
        matches!(self, Self::Nothing | Self::Refused(_))
    }
}
