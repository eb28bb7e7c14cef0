//! A history that was written before, judged again.

use std::{fs::File, io::BufReader, path::Path};

use serde_json::json;

use super::Refusal;
use crate::{
    cli::output,
    history::{History, HistoryError},
    invariants::{self, Outcome},
    trial::promises,
};

/// What is said of this history. Which promises it must have examined is not known here, so none has to.
pub(super) fn judge(path: &Path, json: bool) -> Result<Outcome, Refusal> {
    let read = File::open(path)
        .map_err(HistoryError::from)
        .and_then(|file| History::read(BufReader::new(file)));
    let history = read.map_err(|source| Refusal::Read {
        path: path.to_owned(),
        source,
    })?;
    let verdicts = invariants::check(&history);
    let outcome = verdicts.overall(&[]);
    output::tell(json, format_args!("{verdicts}verdict: {outcome}"));
    if json {
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
