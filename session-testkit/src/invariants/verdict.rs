//! What the checker says.

use std::fmt;

use super::Invariant;
use crate::history::Entry;

/// How many violations of one promise are kept with their proof. The rest is counted.
pub const MAX_SHOWN: usize = 10;

/// What is said of one promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that was examined breaks it.
    Holds {
        /// How much was examined; at least 1.
        examined: u64,
        /// Of what.
        of: &'static str,
    },
    /// It was broken.
    Broken {
        /// How much was examined.
        examined: u64,
        /// Of what.
        of: &'static str,
        /// How often it was broken.
        found: u64,
        /// The first [`MAX_SHOWN`] of them, in no particular order of time.
        violations: Vec<Violation>,
    },
    /// Nothing was seen to break it, but that means little.
    Inconclusive {
        /// How much was examined.
        examined: u64,
        /// Of what.
        of: &'static str,
        /// Why it means little.
        reasons: Vec<String>,
    },
}

impl Verdict {
    /// In a word.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Holds { .. } => Outcome::Holds,
            Self::Broken { .. } => Outcome::Broken,
            Self::Inconclusive { .. } => Outcome::Inconclusive,
        }
    }

    /// How much was examined.
    #[must_use]
    pub fn examined(&self) -> u64 {
        match self {
            Self::Holds { examined, .. }
            | Self::Broken { examined, .. }
            | Self::Inconclusive { examined, .. } => *examined,
        }
    }

    /// Inconclusive where it holds but fewer than `least` were examined.
    #[must_use]
    pub fn at_least(self, least: u64) -> Self {
        match self {
            Self::Holds { examined, of } if examined < least => Self::Inconclusive {
                examined,
                of,
                reasons: vec![format!("only {examined} {of}; {least} were wanted")],
            },
            other => other,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds { examined, of } => write!(f, "holds ({examined} {of})"),
            Self::Broken {
                examined,
                of,
                found,
                ..
            } => write!(f, "BROKEN {found} times ({examined} {of})"),
            Self::Inconclusive {
                examined,
                of,
                reasons,
            } => {
                write!(f, "inconclusive ({examined} {of})")?;
                reasons.iter().try_for_each(|why| write!(f, ": {why}"))
            }
        }
    }
}

/// A verdict in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Green.
    Holds,
    /// Red.
    Broken,
    /// Neither: what was examined means little.
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

/// A promise that was broken, with the few entries of the history that prove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub invariant: Invariant,
    /// What happened, in one sentence.
    pub what: String,
    /// What proves it, in the order of time.
    pub proof: Vec<Entry>,
}

impl fmt::Display for Violation {
    /// The sentence, and a line for each entry of the proof.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)?;
        for entry in &self.proof {
            write!(f, "\n    {entry}")?;
        }
        Ok(())
    }
}

/// What is said of every promise, and of the run as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdicts {
    each: Vec<(Invariant, Verdict)>,
    doubts: Vec<String>,
}

impl Verdicts {
    pub(super) fn new(each: Vec<(Invariant, Verdict)>, doubts: Vec<String>) -> Self {
        Self { each, doubts }
    }

    /// Each promise with its verdict, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Invariant, &Verdict)> {
        self.each
            .iter()
            .map(|(invariant, verdict)| (*invariant, verdict))
    }

    /// What is said of one promise.
    ///
    /// # Panics
    /// Never: there is a verdict for each.
    #[must_use]
    pub fn of(&self, wanted: Invariant) -> &Verdict {
        self.iter()
            .find_map(|(invariant, verdict)| (invariant == wanted).then_some(verdict))
            .unwrap_or_else(|| unreachable!("every invariant has a verdict"))
    }

    /// Why the whole run means little: requests that were due were not sent, a fault touched nothing.
    #[must_use]
    pub fn doubts(&self) -> &[String] {
        &self.doubts
    }

    /// Asks for at least so many examined cases of a promise, instead of 1.
    #[must_use]
    pub fn at_least(mut self, wanted: Invariant, least: u64) -> Self {
        for (invariant, verdict) in &mut self.each {
            if *invariant == wanted {
                *verdict = verdict.clone().at_least(least);
            }
        }
        self
    }

    /// The verdict on the run: broken if any promise was, also one that is not `required`;
    /// inconclusive if a required one is, or if there are [`doubts`](Self::doubts); else it holds.
    #[must_use]
    pub fn overall(&self, required: &[Invariant]) -> Outcome {
        let is = |outcome| move |(_, verdict): &(Invariant, &Verdict)| verdict.outcome() == outcome;
        if self.iter().any(|each| is(Outcome::Broken)(&each)) {
            return Outcome::Broken;
        }
        let open = self
            .iter()
            .filter(is(Outcome::Inconclusive))
            .any(|(invariant, _)| required.contains(&invariant));
        if open || !self.doubts.is_empty() {
            return Outcome::Inconclusive;
        }
        Outcome::Holds
    }
}

impl fmt::Display for Verdicts {
    /// A line per promise, then the proof of each violation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (invariant, verdict) in self.iter() {
            writeln!(f, "{invariant:<4} {}: {verdict}", invariant.promise())?;
        }
        for doubt in &self.doubts {
            writeln!(f, "     the run is inconclusive: {doubt}")?;
        }
        for (_, verdict) in self.iter() {
            if let Verdict::Broken {
                violations, found, ..
            } = verdict
            {
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
