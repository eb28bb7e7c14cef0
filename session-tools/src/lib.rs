//! What the commands `sessionctl` and `session-testkit` share: the connection [`check`] of a
//! deployment with its [`Finding`](check::Finding)s, blocks of [`html`] pages and, with the feature
//! `cli`, output, progress, signals and values of flags.
//!
//! This crate is outside of semantic versioning. Any release may change it.

pub mod check;
pub mod html;
#[cfg(feature = "cli")]
pub mod interrupts;
#[cfg(feature = "cli")]
pub mod output;
#[cfg(feature = "cli")]
pub mod progress;
#[cfg(feature = "cli")]
pub mod values;

use std::{error::Error, process::ExitCode};

/// The exit code of a command that could not run, for example because of bad arguments.
pub const COULD_NOT_RUN: u8 = 2;

/// The reason why a command could not run.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The end of a command. An error means that it could not run.
pub type Ended = Result<ExitCode, Failure>;

/// Returns the exit code of a command that has judged: 0, or 1 if something was not well.
#[must_use]
pub fn exit_code(ok: bool) -> ExitCode {
    ExitCode::from(u8::from(!ok))
}

/// Formats an error with all its causes on one line.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many libraries print their cause themselves.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
