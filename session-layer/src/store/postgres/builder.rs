//! A pool of our own.

use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::connection::Connections;
use super::read::JOURNAL_AT_MOST;
use super::{CHANGE_DEADLINE, PostgresStore, READ_DEADLINE};
use crate::deadline::LONGEST_DEADLINE;
use crate::error::{StoreError, StoreErrorKind};

/// How many connections a pool of our own has unless told otherwise: 10. One that is not waiting for
/// locks serves about a thousand reads a second, and Postgres allows 100 in all by default.
const MAX_CONNECTIONS: u32 = 10;

/// A [`PostgresStore`] with a pool of its own, before it is built.
#[derive(Clone)]
#[must_use]
pub struct PostgresStoreBuilder {
    url: String,
    schema: String,
    max_connections: u32,
    read_deadline: Duration,
    change_deadline: Duration,
    pooled: bool,
}

impl std::fmt::Debug for PostgresStoreBuilder {
    /// Without the URL, which may contain a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStoreBuilder")
            .field("schema", &self.schema)
            .field("max_connections", &self.max_connections)
            .field("read_deadline", &self.read_deadline)
            .field("change_deadline", &self.change_deadline)
            .field("pooled", &self.pooled)
            .finish_non_exhaustive()
    }
}

impl PostgresStoreBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            schema: "session_layer".to_owned(),
            max_connections: MAX_CONNECTIONS,
            read_deadline: READ_DEADLINE,
            change_deadline: CHANGE_DEADLINE,
            pooled: false,
        }
    }

    /// Which schema our tables are in: `[a-z_][a-z0-9_]{0,62}`, checked when the store is built.
    /// Defaults to `session_layer`.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = name.into();
        self
    }

    /// Connections at most; at least 1. Half of them are for validations and their touches, one is for the journal, the rest for
    /// everything else. Defaults to 10.
    pub fn max_connections(mut self, most: u32) -> Self {
        self.max_connections = most.max(1);
        self
    }

    /// How long a validation's read waits for a connection, and once it is sent for the answer. At most a minute; defaults to [`READ_DEADLINE`]. (The request waits no longer than its
    /// budget.) Postgres itself ends a validation's a little earlier (`statement_timeout` at nine tenths of it): what
    /// nobody waits for any more must not go on there, beside the next ones.
    pub fn read_deadline(mut self, deadline: Duration) -> Self {
        self.read_deadline = deadline.min(LONGEST_DEADLINE);
        self
    }

    /// How long a change may take, waiting for a connection included; at most a minute. Defaults to
    /// [`CHANGE_DEADLINE`]. Its first statement is sent in the first 45 % of it or not at all, and Postgres itself gives up a
    /// little before us (`statement_timeout` at three quarters, `lock_timeout` at half of it): then it is certain that
    /// nothing was changed, and nothing is left behind there. A list of a user's sessions has as long.
    pub fn change_deadline(mut self, deadline: Duration) -> Self {
        self.change_deadline = deadline.min(LONGEST_DEADLINE);
        self
    }

    /// Set it behind a pooler in transaction mode, such as `PgBouncer`: no prepared statements are
    /// kept, each statement has a transaction of its own (three more round trips), and no settings are
    /// sent with the connection; set `statement_timeout`, `lock_timeout` and `row_security=off` on the
    /// role instead. Defaults to `false`.
    pub fn pooled(mut self, pooled: bool) -> Self {
        self.pooled = pooled;
        self
    }

    /// The store. It connects when it is first used, so that an application can start while Postgres
    /// is down. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// [`StoreError`] for a URL that is none of Postgres', or a schema name that is not allowed.
    pub fn connect_lazy(self) -> Result<PostgresStore, StoreError> {
        let schema = self.schema.parse()?;
        let reading = self.max_connections / 2;
        // With two or fewer, all is done over the same.
        let journal = u32::from(self.max_connections > 2);
        let (change, read) = (
            self.change_deadline.as_millis(),
            self.read_deadline.as_millis(),
        );
        let connections = self.connections(
            self.max_connections - reading - journal,
            (change * 3 / 4, change / 2),
        )?;
        let mut store = PostgresStore {
            read_deadline: self.read_deadline,
            change_deadline: self.change_deadline,
            pooled: self.pooled,
            ..PostgresStore::over(connections, schema)
        };
        if reading > 0 {
            // The lock's first, so that it is named.
            let (ends, lock) = ((read * 9 / 10).max(1), (read * 8 / 10).max(1));
            store.reading = self.connections(reading, (ends, lock))?;
            // One is for the touch that may be under way.
            let reads = reading.saturating_sub(1).max(1);
            store.reads_at_once = usize::try_from(reads).unwrap_or(usize::MAX);
        }
        if journal > 0 {
            let timeouts = (JOURNAL_AT_MOST.as_millis(), change / 2);
            store.journal = self.connections(journal, timeouts)?;
        }
        Ok(store)
    }

    fn connections(&self, most: u32, timeouts: (u128, u128)) -> Result<Connections, StoreError> {
        let pool = PgPoolOptions::new()
            .max_connections(most)
            // The deadlines bound every wait; this one is for those who open on behalf of callers
            // that have gone.
            .acquire_timeout(self.change_deadline.max(self.read_deadline))
            // A dead one is found by using it: no ping before each read.
            .test_before_acquire(false)
            .connect_lazy_with(self.connect_options(timeouts)?);
        Ok(Connections::new(pool, true))
    }

    /// `statement` and `lock`: after how many ms Postgres gives up.
    fn connect_options(
        &self,
        (statement, lock): (u128, u128),
    ) -> Result<PgConnectOptions, StoreError> {
        // What the URL was is not repeated: it may contain a password.
        let bad = |message: &str| StoreError::new(StoreErrorKind::Other, message);
        if !self.url.starts_with("postgres://") && !self.url.starts_with("postgresql://") {
            return Err(bad(
                "not a URL of Postgres: it starts with postgres:// or postgresql://",
            ));
        }
        if let Some(unknown) = unknown_parameter(&self.url) {
            return Err(bad(&format!(
                "the Postgres URL has a parameter `{unknown}` that nobody knows"
            )));
        }
        // Its own words may repeat parts of the URL.
        let mut options = PgConnectOptions::from_str(&self.url)
            .map_err(|_its_words| bad("the Postgres URL cannot be read"))?
            .disable_statement_logging();
        if options.get_application_name().is_none() {
            options = options.application_name("session-layer");
        }
        if self.pooled {
            // PgBouncer refuses every startup option that it does not know, and sqlx sends this one by itself.
            // We read no floats.
            let options = options.extra_float_digits(None);
            return Ok(options.statement_cache_capacity(0));
        }
        let change = self.change_deadline.as_millis();
        Ok(options.options([
            ("statement_timeout", statement.to_string()),
            ("lock_timeout", lock.to_string()),
            // A process that stops in the middle of a change must not hold its locks for ever.
            (
                "idle_in_transaction_session_timeout",
                (change * 2).to_string(),
            ),
            ("row_security", "off".to_owned()),
            // Nothing of ours runs long enough to be worth compiling.
            ("jit", "off".to_owned()),
            ("default_transaction_isolation", "read committed".to_owned()),
        ]))
    }
}

/// The parameters that sqlx knows. Of any other it logs name and value, and the value of a misspelt
/// one may be a password.
const PARAMETERS: [&str; 19] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "passfile",
];

/// The name, never the value, of a parameter that is none of those.
fn unknown_parameter(url: &str) -> Option<&str> {
    let (_, query) = url.split_once('?')?;
    let names = query
        .split(['&', '#'])
        .filter_map(|pair| pair.split('=').next());
    names
        .filter(|name| !name.is_empty())
        .find(|name| !PARAMETERS.contains(name) && !name.starts_with("options["))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let builder = PostgresStore::builder("postgres://u:secret@h/d");
        assert!(!format!("{builder:?}").contains("secret"));
        for bad in [
            "mysql://u:secret@h/d",
            "postgres://u:secret@h:port/d",
            "postgres://h/d?pasword=secret",
            "postgres://h/d?sslmode=secret",
        ] {
            let error = PostgresStore::builder(bad).connect_lazy().unwrap_err();
            assert!(!format!("{error:?} {error}").contains("secret"));
        }
    }

    #[test]
    fn a_bad_schema_name_says_what_one_may_be() {
        let error = PostgresStore::builder("postgres://h/d")
            .schema("Robert'); DROP TABLE")
            .connect_lazy()
            .unwrap_err();
        assert!(error.to_string().contains("session_layer"), "{error}");
    }
}
