//! What goes to standard output. That whoever read it has left (`| head`) is no error of ours: the exit code says
//! how it ended.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde::Serialize;

/// A line, seen at once, also in a pipe.
pub(super) fn say(text: impl Display) {
    line(io::stdout().lock(), text);
}

/// A line for people: to standard error where standard output is for one JSON document.
pub(super) fn tell(json: bool, text: impl Display) {
    if json {
        line(io::stderr().lock(), text);
    } else {
        say(text);
    }
}

/// The one JSON document.
pub(super) fn document(document: &impl Serialize) -> Result<(), serde_json::Error> {
    say(serde_json::to_string_pretty(document)?);
    Ok(())
}

fn line(mut out: impl Write, text: impl Display) {
    let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
}
