//! One run, and what is expected of it.

use std::time::Duration;

use crate::explore::{Found, Limits, Model, Order, explore};

/// Promises or marks by their bits.
pub(crate) type Names = &'static [(u32, &'static str)];

impl Default for Limits {
    /// Far more than the largest run needs.
    fn default() -> Self {
        Self {
            states: 60_000_000,
            seed: 0,
        }
    }
}

/// One configuration, with the way it is expected to turn out.
pub struct Run {
    name: &'static str,
    about: &'static str,
    promises: Names,
    marks: Names,
    holds: u32,
    breaks: u32,
    reaches: u32,
    goal: u32,
    slow: bool,
    explore: Box<dyn Fn(Order) -> Found + Send + Sync>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Run {
    pub(crate) fn new<M>(
        name: &'static str,
        about: &'static str,
        (promises, marks): (Names, Names),
        model: M,
    ) -> Self
    where
        M: Model + Send + Sync + 'static,
    {
        Self {
            name,
            about,
            promises,
            marks,
            holds: 0,
            breaks: 0,
            reaches: 0,
            goal: 0,
            slow: false,
            explore: Box::new(move |order| explore(&model, order)),
        }
    }

    /// These promises must hold, everywhere.
    pub(crate) fn holds(self, holds: u32) -> Self {
        Self { holds, ..self }
    }

    /// These promises must be broken somewhere: a mutant, or a limit that is known.
    pub(crate) fn breaks(self, breaks: u32) -> Self {
        Self { breaks, ..self }
    }

    /// These marks must be reached, else the run means nothing.
    pub(crate) fn reaches(self, reaches: u32) -> Self {
        Self { reaches, ..self }
    }

    /// This mark must stay reachable, without further faults, from every state before the change.
    pub(crate) fn heals(self, goal: u32) -> Self {
        Self { goal, ..self }
    }

    /// Not in the quick subset.
    pub(crate) fn slow(self) -> Self {
        Self { slow: true, ..self }
    }

    /// What it is called. The letters in DESIGN and in README.md are the beginnings of names.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What is explored.
    #[must_use]
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// Does it belong to the subset that is part of the test command?
    #[must_use]
    pub fn is_quick(&self) -> bool {
        !self.slow
    }

    /// Is it there to be caught?
    #[must_use]
    pub fn is_mutant(&self) -> bool {
        self.holds == 0
    }

    /// Explores it.
    #[must_use]
    pub fn explore(&self, limits: Limits) -> Outcome<'_> {
        let found = (self.explore)(Order {
            limits,
            // A mutant is done once it is caught.
            stop_on: if self.is_mutant() { self.breaks } else { 0 },
            goal: self.goal,
        });
        Outcome { run: self, found }
    }
}

/// How a run turned out.
pub struct Outcome<'a> {
    run: &'a Run,
    found: Found,
}

impl std::fmt::Debug for Outcome<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outcome")
            .field("run", &self.run.name)
            .field("surprises", &self.surprises())
            .finish_non_exhaustive()
    }
}

impl Outcome<'_> {
    /// Where it differs from what is expected. Empty: all as expected.
    #[must_use]
    pub fn surprises(&self) -> Vec<String> {
        let (run, found) = (self.run, &self.found);
        let broken = self.broken();
        let mut surprises = Vec::new();
        let mut say = |bits: u32, names, what: &str| {
            if bits != 0 {
                surprises.push(format!("{what}: {}", list(bits, names)));
            }
        };
        say(run.holds & broken, run.promises, "BROKEN");
        say(run.breaks & !broken, run.promises, "NOT CAUGHT");
        say(run.reaches & !found.reached, run.marks, "NEVER REACHED");
        if run.holds != 0 && !found.complete {
            surprises.push("INCOMPLETE: the limit on states was reached".to_owned());
        }
        if let Some(stuck) = found.stuck.filter(|stuck| *stuck > 0) {
            surprises.push(format!("{stuck} STATES CANNOT HEAL"));
        }
        surprises
    }

    fn broken(&self) -> u32 {
        self.found
            .broken
            .iter()
            .fold(0, |all, (bits, _)| all | bits)
    }

    /// The promises that were explored to the end and hold.
    #[must_use]
    pub fn held(&self) -> String {
        if self.found.complete {
            list(self.run.holds & !self.broken(), self.run.promises)
        } else {
            "-".to_owned()
        }
    }

    /// The promises that are broken, each with a shortest way to break it.
    pub fn traces(&self) -> impl Iterator<Item = (String, &[String])> {
        let named = |bits| list(bits, self.run.promises);
        let all = self.found.broken.iter();
        all.map(move |(bits, trace)| (named(*bits), trace.as_slice()))
    }

    /// How many distinct states were met.
    #[must_use]
    pub fn states(&self) -> usize {
        self.found.states
    }

    /// How many steps led from state to state.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.found.steps
    }

    /// How many steps the farthest state is away.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.found.depth
    }

    /// Was everything explored? A mutant's run stops where it is caught.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.found.complete
    }

    /// Was it asked whether every state heals, and does it?
    #[must_use]
    pub fn heals(&self) -> bool {
        self.found.stuck == Some(0)
    }

    /// How long it took.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.found.took
    }
}

fn list(bits: u32, names: Names) -> String {
    let named: Vec<_> = names
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    if named.is_empty() {
        "-".to_owned()
    } else {
        named.join(", ")
    }
}
