//! The result of a validation.

use smallvec::SmallVec;

use crate::model::session::{Session, SessionId};
use crate::model::token::TokenDigest;

/// The result of the validation of a token.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Validation {
    /// An active session, which the request may use.
    Valid(Session),
    /// No active session, as Postgres has replied: there is none, or it has ended.
    Invalid,
    /// An unknown result, because neither the cache nor Postgres could decide. Respond with 503,
    /// never with 401.
    Unavailable,
}

/// The source of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The near cache of this process ([`near_cache`](crate::SessionsBuilder::near_cache)).
    Near,
    /// The cache alone.
    Cache,
    /// The store.
    Store,
    /// Neither could answer.
    None,
}

impl Source {
    /// Returns `near`, `hit`, `store` or `unavailable`, as in the `Server-Timing` header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Cache => "hit",
            Self::Store => "store",
            Self::None => "unavailable",
        }
    }
}

impl Source {
    /// Returns the name that metrics and traces have.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Cache => "cache",
            Self::Store => "store",
            Self::None => "none",
        }
    }
}

/// The name that metrics and traces have for a valid result.
pub(crate) const VALID: &str = "valid";
/// The name that they have for an invalid result.
pub(crate) const INVALID: &str = "invalid";
/// The name that they have for an unknown result.
pub(crate) const UNAVAILABLE: &str = "unavailable";

/// The answers to one look-up of one or several digests.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    /// One answer per digest, in order.
    pub(crate) validations: SmallVec<[Validation; 1]>,
    /// The source of the answers.
    pub(crate) source: Source,
    /// Whether the cache should have been queried and failed.
    pub(crate) degraded: bool,
    /// The sessions whose cookie is to be renewed, and the digests that they were found under. A
    /// digest that a rotation has replaced is never among them.
    pub(crate) renewals: Vec<(SessionId, TokenDigest)>,
}

impl Answers {
    /// Creates answers from this source, to which the answer on each digest is added.
    pub(crate) fn of(source: Source) -> Self {
        Self { validations: SmallVec::new(), source, degraded: false, renewals: Vec::new() }
    }

    /// Returns the result of all of them: [`VALID`] if one token is valid, otherwise
    /// [`UNAVAILABLE`] if one result is unknown.
    pub(crate) fn result(&self) -> &'static str {
        let is_there = |of: fn(&Validation) -> bool| self.validations.iter().any(of);
        if is_there(|it| matches!(it, Validation::Valid(_))) {
            VALID
        } else if is_there(|it| matches!(it, Validation::Unavailable)) {
            UNAVAILABLE
        } else {
            INVALID
        }
    }
}
