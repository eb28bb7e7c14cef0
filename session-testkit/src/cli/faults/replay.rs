//! `session-testkit faults replay`

use std::{
    fs::{self, File},
    io::BufReader,
    path::PathBuf,
};

use serde_json::json;

use super::{FaultsError, picture::Picture};
use crate::{
    cli::output,
    fault_run::promises,
    history::{History, HistoryError},
    invariants::{self, Outcome},
};

/// Judges a recorded history again, without servers.
///
/// The history is a file that `faults --history` wrote. It does not record which promises had to be
/// examined, therefore the verdict requires none. Exit code 0: every promise held. 1: a promise was
/// broken. 2: the file could not be read.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  session-testkit faults replay run.jsonl")]
pub(super) struct Arguments {
    /// The history.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Write a page with the nodes, the faults and the load over time, and with the operations that
    /// prove a violation.
    #[arg(long, value_name = "HTML")]
    html: Option<PathBuf>,

    /// Print one JSON document on standard output, and the rest on standard error.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(&self) -> Result<Outcome, FaultsError> {
        let opened = File::open(&self.file).map_err(HistoryError::from);
        let history = opened.and_then(|file| History::read(BufReader::new(file)));
        let history = history.map_err(FaultsError::file("judge", &self.file))?;
        let verdicts = invariants::check(&history);
        let outcome = verdicts.overall(&[]);
        output::tell(self.json, format_args!("{verdicts}verdict: {outcome}"));
        if let Some(path) = &self.html {
            let name = self.file.file_stem().unwrap_or_default().to_string_lossy();
            let picture = Picture {
                name: &name,
                outcome,
                notes: verdicts.doubts(),
                machine: None,
                availability: None,
                history: &history,
                verdicts: &verdicts,
            };
            fs::write(path, picture.page()).map_err(FaultsError::file("write", path))?;
        }
        if self.json {
            let document = json!({
                "seed": history.header.seed,
                "outcome": outcome.to_string(),
                "doubts": verdicts.doubts(),
                "promises": promises(&verdicts, &[]),
            });
            output::say(format_args!("{document:#}"));
        }
        Ok(outcome)
    }
}
