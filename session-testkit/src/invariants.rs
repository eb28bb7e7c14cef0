//! R1–R13 as checks of a recorded [`History`].
//!
//! No solver is needed. A token goes from absent to valid to ended and never back. Each promise
//! therefore only compares which of two operations ended before the other began. Each check is a
//! pure function of the history and takes O(n log n).
//!
//! An operation without a result ends at infinity. A fault takes effect at an unknown moment
//! between two times. The subject gets the benefit of such doubts: a violation is one in every
//! order that fits the times.
//!
//! A check counts what it examined. A check that examined nothing is [`Verdict::Inconclusive`].
//!
//! ```
//! use session_testkit::{history::History, invariants::{self, Invariant, Outcome}};
//!
//! let lines = concat!(
//!     r#"{"header":{"version":1,"seed":7,"nodes":2,"parameters":{}}}"#, "\n",
//!     r#"{"op":{"node":0,"call":0,"ret":1000000,"do":{"create":{"#,
//!     r#""session":1,"user":"ann","data":"a","answer":"created"}}}}"#, "\n",
//!     r#"{"op":{"node":0,"call":2000000,"ret":3000000,"do":{"revoke":{"#,
//!     r#""session":1,"answer":"propagated"}}}}"#, "\n",
//!     r#"{"op":{"node":1,"call":4000000,"ret":5000000,"do":{"validate":{"#,
//!     r#""session":1,"answer":{"valid":{"user":"ann","data":"a"}}}}}}"#,
//! );
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
mod format;
mod index;
mod issued;
mod monotone;
mod positive;
mod revoked;
mod secrecy;
mod spans;
mod verdict;

use std::{fmt, str::FromStr};

pub use self::verdict::{MAX_SHOWN, Outcome, Verdict, Verdicts, Violation};
use self::{findings::Findings, index::Index};
use crate::history::History;

/// Declares the invariants, each with its name, its promise as one line, and its check.
macro_rules! invariants {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal $promise:literal $check:path;)+) => {
        /// A promise of `docs/protocol.md`, section Promises. Each check documents what it counts
        /// as a violation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Invariant {
            /// All invariants, in order.
            pub const ALL: [Self; 14] = [$(Self::$variant),+];

            /// Returns the name: `R1`, `R1Δ`, `R2`, …
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Returns the promise as one line for a report.
            pub const fn promise(self) -> &'static str {
                match self {
                    $(Self::$variant => $promise,)+
                }
            }

            fn findings(self, index: &Index<'_>) -> Findings {
                match self {
                    $(Self::$variant => $check(index),)+
                }
            }
        }
    };
}

invariants! {
    /// After a revoke returned `Propagated` at t, no validate that starts after t is Valid.
    R1 "R1" "a revoke that returned `Propagated` holds at once on every node" revoked::propagated;
    /// R1Δ: after a revoke returned `Committed` at t, the same holds from t + `within` on connected
    /// nodes, and from t + `at_most` on every node.
    R1Delta "R1Δ" "a revoke that returned `Committed` holds within its bounds" revoked::committed;
    /// After Invalid was returned, no validate that starts D later is Valid. On one Redis server
    /// whose UNLINKs are acknowledged, no later validate is Valid.
    R2 "R2" "a token that was Invalid does not become Valid again" monotone::check;
    /// From the success of create to the start of revoke, or to the expiry, no validate is Invalid.
    R3 "R3" "an active session is never Invalid" denied::check;
    /// A token that was not issued is never Valid, whatever Redis contains.
    R4 "R4" "a token that was not issued is never Valid" issued::check;
    /// Valid returns exactly that token's user and data. After `update`, R1 and R1Δ hold for the
    /// new data.
    R5 "R5" "Valid returns the token's user and data, and no old data after an update" data::check;
    /// No validate is Valid after the expiry, absolute or idle, beyond the documented skew.
    R6 "R6" "no validate is Valid after the expiry" expiry::check;
    /// Invalid rests on a reply that proves it. Every error is Unavailable.
    R7 "R7" "an outage never returns Invalid" positive::check;
    /// After healing and TTL + 2 s without requests, Redis has no valid entry of an ended session.
    R8 "R8" "no stale entry stays in Redis" copies::check;
    /// Every validate ends within its budget.
    R9 "R9" "every validate ends within its budget" budget::check;
    /// Postgres reads in flight never exceed the bulkhead.
    R10 "R10" "reads of Postgres in flight stay within the bulkhead" bulkhead::check;
    /// Pools, tasks and memory return to baseline after every fault.
    R11 "R11" "pools, tasks and memory return to their baseline" baseline::check;
    /// Raw tokens are in no log, metric, Postgres row, Redis value or Redis dump.
    R12 "R12" "no raw token is stored or logged" secrecy::check;
    /// Revoke-all ends every session whose login began before it committed.
    R13 "R13" "revoke-all ends every session whose login had begun" revoked::everywhere;
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error for a text that names no invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an invariant is one of R1, R1Δ (or R1D), R2 to R13")]
pub struct UnknownInvariant;

impl FromStr for Invariant {
    type Err = UnknownInvariant;

    fn from_str(name: &str) -> Result<Self, UnknownInvariant> {
        if name == "R1D" {
            return Ok(Self::R1Delta);
        }
        Self::ALL.into_iter().find(|invariant| invariant.name() == name).ok_or(UnknownInvariant)
    }
}

/// Checks every promise.
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
