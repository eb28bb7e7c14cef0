//! The name of the schema our tables are in.

use std::fmt;
use std::str::FromStr;

use crate::error::{StoreError, StoreErrorKind};
use crate::store::is_schema_name;

/// A schema name that cannot mean anything else in SQL: `[a-z_][a-z0-9_]{0,62}`.
///
/// It is the only text from outside that ever becomes part of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SchemaName(String);

/// A text that may not name the schema of our tables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} may not name a schema: 1 to 63 of a-z, 0-9 and _, and no digit first (default: session_layer)"
)]
pub struct InvalidSchemaName(String);

impl SchemaName {
    /// As it is, without quotes.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// As SQL writes it: in quotes, for it may be a keyword.
    pub(super) fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

impl Default for SchemaName {
    fn default() -> Self {
        Self("session_layer".to_owned())
    }
}

impl FromStr for SchemaName {
    type Err = InvalidSchemaName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if is_schema_name(name) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidSchemaName(name.to_owned()))
        }
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<InvalidSchemaName> for StoreError {
    fn from(error: InvalidSchemaName) -> Self {
        Self::new(StoreErrorKind::Schema, error.to_string()).with_source(error)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_taken() {
        for good in ["session_layer", "_", "a1", "select", &"a".repeat(63)] {
            assert!(good.parse::<SchemaName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "1a",
            "A",
            "a-b",
            "a\"b",
            "a b",
            "é",
            "a;drop table x",
            "pg_catalog",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<SchemaName>().is_err(), "{bad}");
        }
    }
}
