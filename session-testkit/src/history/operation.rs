//! Operations: what was asked of the subject, when, and what it answered.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LineError, Nanos, whole_millis};
use crate::subject::{Failed, Reach, Seen};

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// The node that was asked.
    pub node: u32,
    /// When it was asked.
    pub call: Nanos,
    /// When it answered; `None`: it did not, and ends at infinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Nanos>,
    /// When the caller dropped the operation's future, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Nanos>,
    /// What was asked, and the answer.
    #[serde(rename = "do")]
    pub op: Op,
}

impl Operation {
    /// When it ended: infinity where there was no answer.
    #[must_use]
    pub fn end(&self) -> Nanos {
        self.ret.unwrap_or(Nanos::MAX)
    }

    /// Can this have happened?
    pub(super) fn check(&self, nodes: u32) -> Result<(), LineError> {
        if self.node >= nodes {
            return Err(LineError::NoSuchNode {
                node: self.node,
                nodes,
            });
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

/// What was asked. `answer` is `None` where there was none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// A login.
    Create {
        /// The session's number in this history.
        session: u32,
        /// Whose it is.
        user: String,
        /// What was put into it.
        data: String,
        /// When the login had begun for certain, where that is known: a revoke-all called later than this ends it.
        /// Defaults to the call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        began: Option<Nanos>,
        /// The absolute timeout, if one was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lifetime_ms: Option<u64>,
        /// The idle timeout, if one was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idle_ms: Option<u64>,
        /// What came of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Creation>,
    },
    /// A validation of a token that was given out.
    Validate {
        /// The session.
        session: u32,
        /// Which of its tokens. Defaults to 0, the first.
        #[serde(default, skip_serializing_if = "is_first")]
        token: u32,
        /// What came of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Seen>,
    },
    /// A validation of a well-formed token that nobody gave out.
    ValidateRandom {
        /// What came of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Seen>,
    },
    /// New data for a session.
    Update {
        /// The session.
        session: u32,
        /// Which of its tokens was presented. Defaults to 0.
        #[serde(default, skip_serializing_if = "is_first")]
        token: u32,
        /// The new data.
        data: String,
        /// What came of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Change>,
    },
    /// The end of a session.
    Revoke {
        /// The session.
        session: u32,
        /// Which of its tokens was presented. Defaults to 0.
        #[serde(default, skip_serializing_if = "is_first")]
        token: u32,
        /// What came of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Change>,
    },
    /// The end of all of a user's sessions.
    RevokeAll {
        /// The user.
        user: String,
        /// What came of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Change>,
    },
    /// A new token for a session.
    Rotate {
        /// The session.
        session: u32,
        /// Which of its tokens was presented, and ends. Defaults to 0.
        #[serde(default, skip_serializing_if = "is_first")]
        token: u32,
        /// The token that was given out for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new_token: Option<u32>,
        /// How long the old token is good still.
        grace_ms: u64,
        /// What came of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Change>,
    },
}

// serde's `skip_serializing_if` passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_first(token: &u32) -> bool {
    *token == 0
}

impl Op {
    /// The session that it is about, if it is about one.
    #[must_use]
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

    /// The answer, where this is a validation that has one.
    #[must_use]
    pub fn seen(&self) -> Option<&Seen> {
        match self {
            Self::Validate { answer, .. } | Self::ValidateRandom { answer } => answer.as_ref(),
            _ => None,
        }
    }

    /// Is it a validation?
    #[must_use]
    pub fn is_validation(&self) -> bool {
        matches!(self, Self::Validate { .. } | Self::ValidateRandom { .. })
    }

    fn is_answered(&self) -> bool {
        match self {
            Self::Create { answer, .. } => answer.is_some(),
            Self::Validate { answer, .. } | Self::ValidateRandom { answer } => answer.is_some(),
            Self::Update { answer, .. }
            | Self::Revoke { answer, .. }
            | Self::RevokeAll { answer, .. }
            | Self::Rotate { answer, .. } => answer.is_some(),
        }
    }
}

/// What came of a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Creation {
    /// There is a session.
    Created,
    /// There is none, for this reason.
    Refused(String),
    /// There may be one, of which nobody has the token.
    Unknown(String),
}

impl Creation {
    /// `None` for what is not supported: nothing was asked then.
    #[must_use]
    pub fn of<T>(answer: &Result<T, Failed>) -> Option<Self> {
        Some(match answer {
            Ok(_) => Self::Created,
            Err(Failed::Refused(why)) => Self::Refused(why.clone()),
            Err(Failed::Unknown(why)) => Self::Unknown(why.clone()),
            Err(Failed::Unsupported) => return None,
        })
    }
}

/// What came of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// It holds on every node.
    Propagated,
    /// It holds after these spans.
    Committed {
        /// On nodes in touch with Postgres.
        within_ms: u64,
        /// On every node.
        at_most_ms: u64,
    },
    /// There was nothing to change.
    Nothing,
    /// Nothing was changed, for this reason.
    Refused(String),
    /// It may have been changed or not.
    Unknown(String),
}

impl Change {
    /// `None` for what is not supported: nothing was asked then.
    #[must_use]
    pub fn of(answer: &Result<Reach, Failed>) -> Option<Self> {
        Some(match answer {
            Ok(Reach::Propagated) => Self::Propagated,
            Ok(Reach::Committed { within, at_most }) => Self::Committed {
                within_ms: whole_millis(*within),
                at_most_ms: whole_millis(*at_most),
            },
            Ok(Reach::Nothing) => Self::Nothing,
            Err(Failed::Refused(why)) => Self::Refused(why.clone()),
            Err(Failed::Unknown(why)) => Self::Unknown(why.clone()),
            Err(Failed::Unsupported) => return None,
        })
    }

    /// How far it reaches on (nodes in touch with Postgres, every node), if it was made for certain.
    #[must_use]
    pub fn reach(&self) -> Option<(Duration, Duration)> {
        match self {
            Self::Propagated => Some((Duration::ZERO, Duration::ZERO)),
            Self::Committed {
                within_ms,
                at_most_ms,
            } => Some((
                Duration::from_millis(*within_ms),
                Duration::from_millis(*at_most_ms),
            )),
            Self::Nothing | Self::Refused(_) | Self::Unknown(_) => None,
        }
    }

    /// Was nothing changed for certain?
    #[must_use]
    pub fn without_effect(&self) -> bool {
        matches!(self, Self::Nothing | Self::Refused(_))
    }
}
