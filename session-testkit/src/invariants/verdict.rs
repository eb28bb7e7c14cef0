//! The verdicts of the checker.

use std::fmt;

use super::Invariant;
use crate::history::Entry;

/// The maximum number of violations per promise that are kept with their proof. Others are counted.
pub const MAX_SHOWN: usize = 10;

/// The verdict on one promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The promise holds in all examined cases.
    Holds {
        /// The number of examined cases, at least 1.
        examined: u64,
        /// The kind of the cases.
        of: &'static str,
    },
    /// The promise was broken.
    Broken {
        /// The number of examined cases.
        examined: u64,
        /// The kind of the cases.
        of: &'static str,
        /// The number of violations.
        found: u64,
        /// The first [`MAX_SHOWN`] violations, in no particular order.
        violations: Vec<Violation>,
    },
    /// No violation was found, but the evidence is insufficient.
    Inconclusive {
        /// The number of examined cases.
        examined: u64,
        /// The kind of the cases.
        of: &'static str,
        /// The reasons why the evidence is insufficient.
        reasons: Vec<String>,
    },
}

impl Verdict {
    /// Returns the outcome without the details.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Holds { .. } => Outcome::Holds,
            Self::Broken { .. } => Outcome::Broken,
            Self::Inconclusive { .. } => Outcome::Inconclusive,
        }
    }

    /// Returns the number of examined cases.
    pub fn examined(&self) -> u64 {
        match self {
            Self::Holds { examined, .. }
            | Self::Broken { examined, .. }
            | Self::Inconclusive { examined, .. } => *examined,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds { examined, of } => write!(f, "holds ({examined} {of})"),
            Self::Broken { examined, of, found, .. } => {
                write!(f, "BROKEN {found} times ({examined} {of})")
            }
            Self::Inconclusive { examined, of, reasons } => {
                match examined {
                    0 => f.write_str("not exercised")?,
                    _ => write!(f, "inconclusive ({examined} {of})")?,
                }
                reasons.iter().try_for_each(|why| write!(f, ": {why}"))
            }
        }
    }
}

/// A verdict without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The promise holds.
    Holds,
    /// The promise was broken.
    Broken,
    /// The evidence is insufficient.
    Inconclusive,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Holds => "holds",
            Self::Broken => "broken",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// A violation of a promise, with the few entries of the history that prove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The promise.
    pub invariant: Invariant,
    /// A sentence that describes the violation.
    pub what: String,
    /// The entries that prove it, sorted by time.
    pub proof: Vec<Entry>,
}

impl fmt::Display for Violation {
    /// Writes the sentence, and a line for each entry of the proof.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)?;
        for entry in &self.proof {
            write!(f, "\n    {entry}")?;
        }
        Ok(())
    }
}

/// The verdicts on all promises, and doubts about the whole run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdicts {
    each: Vec<(Invariant, Verdict)>,
    doubts: Vec<String>,
}

impl Verdicts {
    pub(super) fn new(each: Vec<(Invariant, Verdict)>, doubts: Vec<String>) -> Self {
        Self { each, doubts }
    }

    /// Returns each promise with its verdict, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Invariant, &Verdict)> + Clone {
        self.each.iter().map(|(invariant, verdict)| (*invariant, verdict))
    }

    /// Returns the verdict on one promise.
    ///
    /// # Panics
    /// Never, because every promise has a verdict.
    pub fn of(&self, invariant: Invariant) -> &Verdict {
        self.iter()
            .find_map(|(each, verdict)| (each == invariant).then_some(verdict))
            .unwrap_or_else(|| unreachable!("every invariant has a verdict"))
    }

    /// Returns why the whole run is inconclusive: due requests were not sent, or a fault had no
    /// effect.
    pub fn doubts(&self) -> &[String] {
        &self.doubts
    }

    /// Returns the outcome of the run. It is broken if any promise was, required or not. It is
    /// inconclusive if a required promise is, or if there are [`doubts`](Self::doubts).
    pub fn overall(&self, required: &[Invariant]) -> Outcome {
        let mut outcomes = self.iter().map(|(invariant, verdict)| (invariant, verdict.outcome()));
        if outcomes.clone().any(|(_, outcome)| outcome == Outcome::Broken) {
            return Outcome::Broken;
        }
        let open = outcomes.any(|(invariant, outcome)| {
            outcome == Outcome::Inconclusive && required.contains(&invariant)
        });
        if open || !self.doubts.is_empty() { Outcome::Inconclusive } else { Outcome::Holds }
    }
}

impl fmt::Display for Verdicts {
    /// Writes a line per promise, then the proof of each violation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (invariant, verdict) in self.iter() {
            writeln!(f, "{invariant:<4} {}: {verdict}", invariant.promise())?;
        }
        for doubt in &self.doubts {
            writeln!(f, "     the run is inconclusive: {doubt}")?;
        }
        for (_, verdict) in self.iter() {
            if let Verdict::Broken { violations, found, .. } = verdict {
                for violation in violations {
                    writeln!(f, "\n{violation}")?;
                }
                let more = found.saturating_sub(violations.len() as u64);
                if more > 0 {
                    writeln!(f, "\n… and {more} more")?;
                }
            }
        }
        Ok(())
    }
}
