//! One run, its expected result, and its outcome.

use std::time::Duration;

use crate::explore::{Found, Limits, Model, Order, explore};

/// Names of promises or marks, by their bits.
pub(crate) type Names = &'static [(u32, &'static str)];

/// One configuration, with its expected result.
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
        f.debug_struct("Run").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Run {
    pub(crate) fn new<M: Model + Send + Sync + 'static>(
        name: &'static str,
        about: &'static str,
        (promises, marks): (Names, Names),
        model: M,
    ) -> Self {
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

    /// Expects that these promises hold in every state.
    pub(crate) fn holds(self, holds: u32) -> Self {
        Self { holds, ..self }
    }

    /// Expects that these promises are broken: by a mutant, or by a known limit.
    pub(crate) fn breaks(self, breaks: u32) -> Self {
        Self { breaks, ..self }
    }

    /// Expects that these marks are reached. Otherwise the run proves nothing.
    pub(crate) fn reaches(self, reaches: u32) -> Self {
        Self { reaches, ..self }
    }

    /// Expects that this mark stays reachable without faults from every state before the change.
    pub(crate) fn heals(self, goal: u32) -> Self {
        Self { goal, ..self }
    }

    /// Excludes the run from the quick subset.
    pub(crate) fn slow(self) -> Self {
        Self { slow: true, ..self }
    }

    /// Returns the name by which `docs/protocol.md` and README.md refer to the run.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns what is explored.
    #[must_use]
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// Returns whether the run belongs to the quick subset, which the tests explore.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        !self.slow
    }

    /// Returns whether the run only has to break a promise.
    #[must_use]
    pub fn is_mutant(&self) -> bool {
        self.holds == 0
    }

    /// Explores the run. A mutant's exploration stops once it is caught.
    #[must_use]
    pub fn explore(&self, limits: Limits) -> Outcome<'_> {
        let stop_on = if self.is_mutant() { self.breaks } else { 0 };
        let found = (self.explore)(Order { limits, stop_on, goal: self.goal });
        Outcome { run: self, found }
    }
}

/// The result of a run.
pub struct Outcome<'a> {
    run: &'a Run,
    found: Found,
}

impl std::fmt::Debug for Outcome<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut outcome = f.debug_struct("Outcome");
        outcome.field("run", &self.run.name).field("surprises", &self.surprises());
        outcome.finish_non_exhaustive()
    }
}

impl Outcome<'_> {
    /// Lists how the result differs from the expected one.
    #[must_use]
    pub fn surprises(&self) -> Vec<String> {
        let (run, found) = (self.run, &self.found);
        let broken = self.broken();
        let differences = [
            (run.holds & broken, run.promises, "BROKEN"),
            (run.breaks & !broken, run.promises, "NOT CAUGHT"),
            (run.reaches & !found.reached, run.marks, "NEVER REACHED"),
        ];
        let differences = differences.iter().filter(|(bits, ..)| *bits != 0);
        let mut surprises: Vec<_> = differences
            .map(|(bits, names, what)| format!("{what}: {}", list(*bits, names)))
            .collect();
        if run.holds != 0 && !found.complete {
            surprises.push("INCOMPLETE: the limit on states was reached".to_owned());
        }
        if let Some(stuck) = found.stuck.filter(|stuck| *stuck > 0) {
            surprises.push(format!("{stuck} STATES CANNOT HEAL"));
        }
        surprises
    }

    fn broken(&self) -> u32 {
        self.found.broken.iter().fold(0, |all, (bits, _)| all | bits)
    }

    /// Returns whether every state was explored.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.found.complete
    }

    /// Lists the promises that are broken, each with a shortest trace.
    pub fn traces(&self) -> impl Iterator<Item = (String, &[String])> {
        let all = self.found.broken.iter();
        all.map(|(bits, trace)| (list(*bits, self.run.promises), trace.as_slice()))
    }

    /// Returns the number of states, of steps, and the depth.
    #[must_use]
    pub fn counts(&self) -> (usize, u64, usize) {
        (self.found.states, self.found.steps, self.found.depth)
    }

    /// Returns how long the exploration took.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.found.took
    }
}

impl std::fmt::Display for Outcome<'_> {
    /// Formats the row of a table, which README.md explains.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run { name, about, promises, .. } = self.run;
        let Found { states, steps, depth, complete, .. } = self.found;
        let holds = if complete { self.run.holds & !self.broken() } else { 0 };
        let broken: Vec<String> =
            self.traces().map(|(names, trace)| format!("{names} ({})", trace.len())).collect();
        let broken = if broken.is_empty() { "-".to_owned() } else { broken.join(", ") };
        let verdict = match (self.surprises(), self.found.stuck) {
            (surprises, _) if !surprises.is_empty() => surprises.join("; "),
            (_, Some(0)) => "as expected; every state heals".to_owned(),
            _ => "as expected".to_owned(),
        };
        write!(f, "| {name} | {about} | {} | {broken} | ", list(holds, promises))?;
        write!(f, "{states}{} | {steps} | {depth} | ", if complete { "" } else { "+" })?;
        write!(f, "{:.1} | {verdict} |", self.took().as_secs_f64())
    }
}

fn list(bits: u32, names: Names) -> String {
    let named = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name);
    let named: Vec<_> = named.collect();
    if named.is_empty() { "-".to_owned() } else { named.join(", ") }
}
