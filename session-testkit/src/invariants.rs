//! Was a promise broken? R1–R13 as checks of a recorded [`History`].
//!
//! No solver is needed: a token goes absent → valid → ended, one way, so each promise is a question about
//! which of two operations ended before the other began. Each check is a pure function of the history
//! and takes O(n log n). Where the history leaves something open (an operation without an answer ends at
//! infinity, a fault is felt somewhere between two times) the doubt is the subject's; what is called
//! broken is broken in every order that fits the times.
//!
//! A check counts what it examined, and one that examined nothing is [`Verdict::Inconclusive`]: silence
//! is not green.
//!
//! ```
//! use session_testkit::{history::History, invariants::{self, Invariant, Outcome}};
//!
//! let lines = r#"{"header":{"version":1,"seed":7,"nodes":2,"parameters":{}}}
//! {"op":{"node":0,"call":0,"ret":1000000,"do":{"create":{"session":1,"user":"ann","data":"a","answer":"created"}}}}
//! {"op":{"node":0,"call":2000000,"ret":3000000,"do":{"revoke":{"session":1,"answer":"propagated"}}}}
//! {"op":{"node":1,"call":4000000,"ret":5000000,"do":{"validate":{"session":1,"answer":{"valid":{"user":"ann","data":"a"}}}}}}"#;
//! let history = History::read(lines.as_bytes())?;
//! let verdicts = invariants::check(&history);
//! assert_eq!(verdicts.overall(&[Invariant::R1]), Outcome::Broken);
//! println!("{verdicts}");
//! # Ok::<_, session_testkit::history::HistoryError>(())
//! ```

mod baseline;
mod bounds;
mod budget;
mod bulkhead;
mod copies;
mod data;
mod denied;
mod expiry;
mod findings;
mod index;
mod issued;
mod monotone;
mod positive;
mod revoked;
mod secrecy;
mod spans;
mod verdict;
mod words;

use std::{fmt, str::FromStr};

pub use self::verdict::{MAX_SHOWN, Outcome, Verdict, Verdicts, Violation};
use self::{findings::Findings, index::Index};
use crate::history::History;

/// A promise. Its words are those of the design; what counts as a violation is said at each check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Revoke answered `Propagated` at t: no validate that starts after t, on any node, is Valid.
    R1,
    /// R1Δ: revoke answered `Committed` at t: the same from t + `within` (nodes in touch with Postgres),
    /// t + `at_most` (any node).
    R1Delta,
    /// Monotone: once Invalid was answered, no validate that starts D later is Valid; on one server whose
    /// UNLINKs are acknowledged, none that starts later at all.
    R2,
    /// No false deny: between create's Ok and (revoke's start or expiry): Valid or Unavailable, never
    /// Invalid.
    R3,
    /// Never Valid for a token that was not issued, whatever Redis contains.
    R4,
    /// Valid gives exactly that token's user and data; after `update`, as R1 and R1Δ for the new data.
    R5,
    /// No Valid after expiry (absolute, idle) beyond the documented skew.
    R6,
    /// Invalid only on a positive answer; every error is Unavailable.
    R7,
    /// After healing and TTL + 2 s of quiet, no Redis entry says valid where Postgres says revoked.
    R8,
    /// Every validate ends within its budget.
    R9,
    /// Postgres reads in flight never exceed the bulkhead.
    R10,
    /// Pools, tasks and memory return to baseline after every fault.
    R11,
    /// Raw tokens are nowhere: logs, metrics, Postgres, Redis, its dump files.
    R12,
    /// Revoke-all ends every session whose login began before it committed.
    R13,
}

impl Invariant {
    /// All of them, in order.
    pub const ALL: [Self; 14] = [
        Self::R1,
        Self::R1Delta,
        Self::R2,
        Self::R3,
        Self::R4,
        Self::R5,
        Self::R6,
        Self::R7,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
    ];

    /// `R1`, `R1Δ`, `R2`, …
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::R1 => "R1",
            Self::R1Delta => "R1Δ",
            Self::R2 => "R2",
            Self::R3 => "R3",
            Self::R4 => "R4",
            Self::R5 => "R5",
            Self::R6 => "R6",
            Self::R7 => "R7",
            Self::R8 => "R8",
            Self::R9 => "R9",
            Self::R10 => "R10",
            Self::R11 => "R11",
            Self::R12 => "R12",
            Self::R13 => "R13",
        }
    }

    /// The promise in a few words, for a line of a report.
    #[must_use]
    pub const fn promise(self) -> &'static str {
        match self {
            Self::R1 => "a revoke that was answered `Propagated` holds at once on every node",
            Self::R1Delta => "a revoke that was answered `Committed` holds within its bounds",
            Self::R2 => "what was Invalid once does not become Valid again",
            Self::R3 => "a session in force is never denied",
            Self::R4 => "a token that was not issued is never Valid",
            Self::R5 => "Valid gives that token's user and data, and no old data after an update",
            Self::R6 => "nothing is Valid after its expiry",
            Self::R7 => "an outage is never taken for Invalid",
            Self::R8 => "no stale copy stays in Redis",
            Self::R9 => "every validate ends within its budget",
            Self::R10 => "reads of Postgres in flight stay within the bulkhead",
            Self::R11 => "pools, tasks and memory return to their baseline",
            Self::R12 => "raw tokens are nowhere",
            Self::R13 => "revoke-all ends every session whose login had begun",
        }
    }

    fn findings(self, index: &Index<'_>) -> Findings {
        match self {
            Self::R1 => revoked::propagated(index),
            Self::R1Delta => revoked::committed(index),
            Self::R2 => monotone::check(index),
            Self::R3 => denied::check(index),
            Self::R4 => issued::check(index),
            Self::R5 => data::check(index),
            Self::R6 => expiry::check(index),
            Self::R7 => positive::check(index),
            Self::R8 => copies::check(index),
            Self::R9 => budget::check(index),
            Self::R10 => bulkhead::check(index),
            Self::R11 => baseline::check(index),
            Self::R12 => secrecy::check(index),
            Self::R13 => revoked::everywhere(index),
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an invariant is one of R1, R1Δ (or R1D), R2 to R13")]
pub struct UnknownInvariant;

impl FromStr for Invariant {
    type Err = UnknownInvariant;

    fn from_str(name: &str) -> Result<Self, UnknownInvariant> {
        if name == "R1D" {
            return Ok(Self::R1Delta);
        }
        Self::ALL
            .into_iter()
            .find(|invariant| invariant.name() == name)
            .ok_or(UnknownInvariant)
    }
}

/// Checks every promise.
#[must_use]
pub fn check(history: &History) -> Verdicts {
    let index = Index::of(history);
    let each = Invariant::ALL.map(|invariant| {
        let verdict = invariant.findings(&index).verdict(invariant);
        (invariant, verdict)
    });
    Verdicts::new(each.into(), findings::doubts(history))
}

#[cfg(test)]
mod tests;
