//! Standard output.
//!
//! A closed pipe (`| head`) is no error, because the exit code reports the outcome.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde::Serialize;

/// Prints a line and flushes it.
pub(super) fn say(text: impl Display) {
    line(io::stdout().lock(), text);
}

/// Prints a line, on standard error if standard output is reserved for one JSON document.
pub(super) fn tell(json: bool, text: impl Display) {
    if json {
        line(io::stderr().lock(), text);
    } else {
        say(text);
    }
}

/// Prints the JSON document.
pub(super) fn document(document: &impl Serialize) -> Result<(), serde_json::Error> {
    say(serde_json::to_string_pretty(document)?);
    Ok(())
}

/// The replacement of an argument that may contain a password.
pub(super) const OMITTED: &str = "(not repeated because it looks like a URL)";

/// Returns whether an argument may contain a password, as a URL or a part of one does.
pub(super) fn may_be_url(argument: &str) -> bool {
    argument.contains("://") || argument.contains('@')
}

/// Returns an argument, or its replacement if it may contain a password.
pub(super) fn shown(argument: &str) -> &str {
    if may_be_url(argument) { OMITTED } else { argument }
}

fn line(mut out: impl Write, text: impl Display) {
    let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
}
