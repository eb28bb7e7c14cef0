//! `session-testkit faults reached`

use std::{fmt::Write as _, path::PathBuf};

use serde_json::json;

use super::{FaultsError, reports::summarize};
use crate::{
    cli::output,
    fault_run::{Reached, State},
    invariants::Outcome,
    schedule::Event,
};

/// Adds up what runs have reached, and names what none did.
///
/// Each file is one that `faults --reached` wrote. The table has a line for each fault, with how
/// often each kind of work was under way when the fault began. A pair at zero is a gap: no run
/// shows what the fault does to that work. A fault that no run injected with an effect is a gap
/// too. Exit code 0: each fault was judged, and there is no gap. 1: there are gaps. 2: there is no
/// gap, but a fault had too few injections to be judged, or a file could not be read.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  session-testkit faults reached --at-least 7 week/*/reached.json
  session-testkit faults reached --fault redis-kill,postgres-kill reached.json")]
pub(super) struct Arguments {
    /// The files of all runs.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The number of injections from which on a fault is judged. A few say little.
    #[arg(long, default_value_t = 3, value_name = "N")]
    at_least: u64,

    /// The faults that must have been injected, separated by commas. Defaults to all that
    /// `faults --list` prints.
    #[arg(long, value_delimiter = ',', value_name = "FAULT,FAULT")]
    fault: Vec<Event>,

    /// Print one JSON document on standard output, and the rest on standard error.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(&self) -> Result<Outcome, FaultsError> {
        let mut sum = Reached::default();
        for path in &self.files {
            let text = std::fs::read(path).map_err(FaultsError::file("read", path))?;
            let read = serde_json::from_slice::<Reached>(&text);
            sum.add(&read.map_err(FaultsError::file("read", path))?);
        }
        let expected = match self.fault.as_slice() {
            [] => Event::all().collect(),
            some => some.to_vec(),
        };
        let gaps = sum.gaps(expected.iter().copied(), self.at_least);
        let unjudged = sum.unjudged(expected, self.at_least);
        let mut text = table(&sum);
        text.push('\n');
        for gap in &gaps {
            let _ = writeln!(text, "- {gap}");
        }
        for (fault, injected) in &unjudged {
            let _ =
                writeln!(text, "- not judged, because {injected} injections are too few: {fault}");
        }
        let never = gaps.iter().filter(|gap| gap.state.is_none()).count();
        let injected = sum.0.values().filter(|fault| fault.injected > 0);
        let judged = injected.clone().filter(|fault| fault.injected >= self.at_least).count();
        let _ = write!(
            text,
            "\n{} gaps. {judged} of {} faults had at least {} injections, {never} had none",
            gaps.len(),
            injected.count() + never,
            self.at_least
        );
        output::tell(self.json, &text);
        summarize(&format!("### What the runs have reached\n\n{text}\n"))?;
        if self.json {
            let document = json!({ "reached": sum, "gaps": gaps, "unjudged": unjudged });
            output::say(format_args!("{document:#}"));
        }
        Ok(match (gaps.is_empty(), unjudged.is_empty()) {
            (false, _) => Outcome::Broken,
            (true, false) => Outcome::Inconclusive,
            (true, true) => Outcome::Holds,
        })
    }
}

/// Returns the counts as a Markdown table, with a line for each fault.
pub(super) fn table(reached: &Reached) -> String {
    let mut text = "| fault | injected |".to_owned();
    for state in State::ALL {
        let _ = write!(text, " {} |", state.name());
    }
    text += "\n|---|---|";
    text += &"---|".repeat(State::ALL.len());
    text.push('\n');
    for (name, fault) in &reached.0 {
        let _ = write!(text, "| {name} | {} |", fault.injected);
        for state in State::ALL {
            let _ = match (state, fault.with_near_caches) {
                (State::NearHit, 0) => write!(text, " – |"),
                _ => write!(text, " {} |", fault.count(*state)),
            };
        }
        text.push('\n');
    }
    text
}
