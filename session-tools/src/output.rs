//! Standard output.
//!
//! A closed pipe (`| head`) is no error, because the exit code reports the outcome.

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use clap::error::{ContextKind, ContextValue};
use serde::Serialize;

/// Prints a line and flushes it.
pub fn say(text: impl Display) {
    line(io::stdout().lock(), text);
}

/// Prints a line, on standard error if standard output is reserved for one JSON document.
pub fn tell(json: bool, text: impl Display) {
    if json {
        line(io::stderr().lock(), text);
    } else {
        say(text);
    }
}

/// Prints the JSON document.
///
/// # Errors
/// If the document cannot be serialized.
pub fn document(document: &impl Serialize) -> Result<(), serde_json::Error> {
    say(serde_json::to_string_pretty(document)?);
    Ok(())
}

/// The replacement of an argument that may contain a password.
pub const OMITTED: &str = "(not repeated because it looks like a URL)";

/// Returns whether an argument may contain a password, as a URL or a part of one does.
pub fn may_be_url(argument: &str) -> bool {
    argument.contains("://") || argument.contains('@')
}

/// Returns an argument, or its replacement if it may contain a password.
pub fn shown(argument: &str) -> &str {
    if may_be_url(argument) { OMITTED } else { argument }
}

fn line(mut out: impl Write, text: impl Display) {
    let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints why the arguments are bad, or the requested help. Omits a URL in the wrong place.
#[must_use]
pub fn bad_arguments(mut error: clap::Error) -> ExitCode {
    let wrong =
        [ContextKind::InvalidArg, ContextKind::InvalidSubcommand, ContextKind::InvalidValue];
    for kind in wrong {
        if let Some(ContextValue::String(text)) = error.get(kind)
            && may_be_url(text)
        {
            error.insert(kind, ContextValue::String(OMITTED.to_owned()));
        }
    }
    let _closed = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(crate::COULD_NOT_RUN))
}
