//! Standard output and standard error.
//!
//! A closed pipe (`| head`) is no error, because the exit code reports the outcome. Texts of
//! clients and servers are printed too. Therefore control characters are replaced, except tabs and
//! the ends of lines.

use std::{
    borrow::Cow,
    fmt::Display,
    fmt::Write as _,
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

/// Prints a line on standard error.
pub fn complain(text: impl Display) {
    line(io::stderr().lock(), text);
}

/// Prints the JSON document.
///
/// # Errors
/// If the document cannot be serialized.
pub fn document(document: &impl Serialize) -> Result<(), serde_json::Error> {
    say(escaped(&serde_json::to_string_pretty(document)?));
    Ok(())
}

/// Escapes the control characters that JSON allows in a string: U+007F to U+009F.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for it in json.chars() {
        if it.is_control() && it != '\n' {
            let _infallible = write!(escaped, "\\u{:04x}", u32::from(it));
        } else {
            escaped.push(it);
        }
    }
    escaped
}

/// Replaces control characters, with which a client could move the cursor of an operator's
/// terminal, and ends of lines, with which it could forge one.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    replaced(text, char::is_control)
}

/// Replaces control characters, except tabs and the ends of lines.
#[must_use]
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    replaced(text, |it| it.is_control() && !matches!(it, '\t' | '\n'))
}

fn replaced(text: &str, is_bad: impl Fn(char) -> bool + Copy) -> Cow<'_, str> {
    if text.contains(is_bad) { text.replace(is_bad, "\u{fffd}").into() } else { text.into() }
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
    let text = text.to_string();
    let _closed = writeln!(out, "{}", visible_lines(&text)).and_then(|()| out.flush());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_reach_no_terminal() {
        assert_eq!(visible("a\u{1b}[2Jb\n\u{9b}"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}");
        assert_eq!(visible_lines("a\r\nb\u{7f}"), "a\u{fffd}\nb\u{fffd}");
        let mut printed = Vec::new();
        line(&mut printed, "✅ a\u{1b}]0;x\u{7}\nb");
        assert_eq!(printed, "✅ a\u{fffd}]0;x\u{fffd}\nb\n".as_bytes());
    }

    #[test]
    fn json_keeps_control_characters_as_escapes() {
        let text = "\u{1b}\u{7f}\u{9b}é\n";
        let json = escaped(&serde_json::to_string_pretty(&[text]).unwrap());
        assert!(!json.contains(|it: char| it.is_control() && it != '\n'), "{json:?}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&json).unwrap(), [text]);
    }
}
