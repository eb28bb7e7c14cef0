//! The errors of a measurement.

use std::fmt;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// The error of a measurement: what failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing}")]
pub(crate) struct Error {
    doing: String,
    #[source]
    source: Option<Source>,
}

impl Error {
    /// Creates an error without a further reason: `could not …`.
    pub(crate) fn new(doing: impl Into<String>) -> Self {
        Self { doing: doing.into(), source: None }
    }

    /// Creates an error with a reason.
    pub(crate) fn because(doing: impl Into<String>, source: impl Into<Source>) -> Self {
        Self { doing: doing.into(), source: Some(source.into()) }
    }
}

/// Adds to an error what was being done.
pub(crate) trait Doing<T> {
    /// Adds what was being done, as in `could not read the file`.
    fn doing<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T, Error>;
}

impl<T, E: Into<Source>> Doing<T> for Result<T, E> {
    fn doing<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T, Error> {
        self.map_err(|source| Error::because(what(), source))
    }
}

/// An error with all its reasons in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_printed_with_every_reason() {
        let refused = std::io::Error::other("refused");
        let error = Err::<(), _>(refused).doing(|| "connect").doing(|| "start node 1").unwrap_err();
        let text = Chain(&error).to_string();
        assert_eq!(text, "could not start node 1: could not connect: refused");
    }
}
