//! The state of the store at which a login began.

use std::fmt;
use std::str::FromStr;

/// The state of a store when a login began (Postgres: a snapshot), which shows all earlier commits.
/// Only the store that returned it can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginSnapshot(Box<str>);

/// An error for a text that is no [`LoginSnapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the snapshot of a login: pass the text of a `LoginSnapshot` as it was printed")]
pub struct LoginSnapshotError;

impl LoginSnapshot {
    /// Reads a printed snapshot: hexadecimal digits, hyphens, colons and commas.
    ///
    /// # Errors
    /// [`LoginSnapshotError`] for any other text.
    pub fn new(text: impl Into<Box<str>>) -> Result<Self, LoginSnapshotError> {
        let text = text.into();
        let plain = |b: u8| b.is_ascii_hexdigit() || matches!(b, b'-' | b':' | b',');
        if text.is_empty() || !text.bytes().all(plain) {
            return Err(LoginSnapshotError);
        }
        Ok(Self(text))
    }

    /// Returns the text that [`new`](Self::new) reads.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LoginSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LoginSnapshot {
    type Err = LoginSnapshotError;

    fn from_str(text: &str) -> Result<Self, LoginSnapshotError> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_no_store_prints_is_rejected() {
        for text in ["750:752:750,751", "12", "3f1c0e5a-6d1f:750:752:"] {
            assert_eq!(text.parse::<LoginSnapshot>().map(|it| it.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "1:2:3'", "now()"] {
            assert_eq!(text.parse::<LoginSnapshot>(), Err(LoginSnapshotError));
        }
    }
}
