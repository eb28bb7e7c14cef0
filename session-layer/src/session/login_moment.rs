//! When a login began.

use std::fmt;
use std::str::FromStr;

/// Where a store stood when a login began (Postgres: a snapshot): what was committed by then. Only the
/// store that said it can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginMoment(Box<str>);

/// A text that is no [`LoginMoment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the moment of a login, as `LoginMoment` prints it")]
pub struct NoLoginMoment;

impl LoginMoment {
    /// A moment as it is printed: digits, colons and commas.
    ///
    /// # Errors
    /// [`NoLoginMoment`] for anything else.
    pub fn new(text: impl Into<Box<str>>) -> Result<Self, NoLoginMoment> {
        let text = text.into();
        let plain = |b: u8| b.is_ascii_digit() || matches!(b, b':' | b',');
        if text.is_empty() || !text.bytes().all(plain) {
            return Err(NoLoginMoment);
        }
        Ok(Self(text))
    }

    /// As it is printed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LoginMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LoginMoment {
    type Err = NoLoginMoment;

    fn from_str(text: &str) -> Result<Self, NoLoginMoment> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_store_prints_is_a_moment() {
        for text in ["750:752:750,751", "12"] {
            assert_eq!(
                text.parse::<LoginMoment>().map(|it| it.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in ["", "1:2:3'", "-1", "now()"] {
            assert_eq!(text.parse::<LoginMoment>(), Err(NoLoginMoment));
        }
    }
}
