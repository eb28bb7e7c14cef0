//! The name of the schema that contains our tables.

use std::fmt;
use std::str::FromStr;

use super::rows::quoted;
use crate::store::is_schema_name;

/// A schema name that has no other meaning in SQL: `[a-z_][a-z0-9_]{0,62}`.
///
/// It is the only external text that becomes part of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SchemaName(String);

/// The text does not fulfil [`is_schema_name`].
#[derive(Debug)]
pub(super) struct NotASchemaName;

impl SchemaName {
    /// Returns the name without quotes.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name in quotes, because it may be a keyword.
    pub(super) fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

/// Returns the SQL that grants the application's role its rights, for the owner of the tables to
/// run. A role that has migrated the tables itself owns them and needs no more.
///
/// None of these rights permits writing the journal or deleting an active session.
///
/// ```
/// let sql = session_layer::store::grants("session_layer", "app");
/// assert!(sql.starts_with(r#"GRANT USAGE ON SCHEMA "session_layer" TO "app";"#));
/// ```
#[must_use]
pub fn grants(schema: &str, role: &str) -> String {
    let (schema, role) = (quoted(schema), quoted(role));
    format!(
        "GRANT USAGE ON SCHEMA {schema} TO {role}; \
         GRANT SELECT, INSERT, UPDATE ON {schema}.sessions, {schema}.session_users TO {role}; \
         GRANT SELECT ON {schema}.session_journal, {schema}.session_nodes TO {role}; \
         GRANT EXECUTE ON FUNCTION {schema}.this_life(), {schema}.begin_life(), \
         {schema}.journal_page(pg_snapshot, xid8, bigint, bigint), \
         {schema}.purge_journal(interval), {schema}.sweep_sessions(interval, integer), \
         {schema}.erase_sessions(text, integer), \
         {schema}.sweep_users(interval, text, integer), {schema}.register_node(uuid, bytea, \
         interval), {schema}.forget_node(uuid) TO {role};"
    )
}

impl FromStr for SchemaName {
    type Err = NotASchemaName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if is_schema_name(name) { Ok(Self(name.to_owned())) } else { Err(NotASchemaName) }
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;

    #[test]
    fn schema_name_with_other_characters_is_rejected() {
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
