//! The configuration of a [`PostgresStore`].

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgPool};
use tokio::runtime::Handle;

use super::connection::Connections;
use super::hosts::Hosts;
use super::pool::{Pool, Rules};
use super::read::JOURNAL_PAGE_DEADLINE;
use super::schema::SchemaName;
use super::tls;
use super::{DEFAULT_CHANGE_DEADLINE, DEFAULT_READ_DEADLINE, PostgresStore};
use crate::model::credentials::Credentials;
use crate::model::error::ConfigError;
use crate::model::server_url::{PGBOUNCER, ServerUrl, ServerUrlError};
use crate::model::tls::TlsSettings;
use crate::store::{DEFAULT_SCHEMA, LONGEST_DEADLINE, SCHEMA_NAME};

/// The maximum number of connections, unless set otherwise: 10. A connection that waits for no
/// locks serves about a thousand reads a second, and Postgres accepts 100 in all by default.
pub const DEFAULT_MAX_CONNECTIONS: u32 = 10;

/// The fewest connections with which validations, changes and the journal each have their own.
const FEWEST_APART: u32 = 3;
/// The warning in the log and in the health document.
pub(super) const SHARED: &str = "fewer than 3 connections to Postgres: validations, changes and \
     reads of the journal wait for each other, so a single held lock can make all of them fail. \
     Set SESSION_DB_POOL_SIZE (PostgresStoreBuilder::max_connections) to 3 or more";

/// A connection for reads that was idle for longer is pinged before its use. A read that finds it
/// broken is sent again, but one that gets no reply has used its deadline.
const CHECK_READS_AFTER: Duration = Duration::from_secs(10);
/// A connection for changes that was idle for longer is pinged before its use. A change that gets
/// no reply may have been committed, and is reported as uncertain. Within this span, the second
/// statement of a change follows the first one.
const CHECK_CHANGES_AFTER: Duration = Duration::from_millis(50);

/// The allowed deadlines. Postgres' own timeouts are fractions of them in whole ms, of which none
/// may become 0, which stands for "no timeout". The engine cancels a call after 90 s and must not
/// do it before the store itself reports what is certain.
const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(10)..=LONGEST_DEADLINE;
const DEADLINES_MAY_BE: &str = "10 ms to 60 s";

/// The configuration of a [`PostgresStore`]. [`PostgresStore::builder`] creates it for a pool that
/// the store opens itself, and [`PostgresStore::from_pool`] for a pool of the application.
#[derive(Clone)]
#[must_use]
pub struct PostgresStoreBuilder {
    origin: ConnectionSource,
    schema: String,
    /// `None`: the default of a pool of our own.
    max_connections: Option<u32>,
    read_deadline: Duration,
    change_deadline: Duration,
    pooled: bool,
    credentials: Option<Arc<dyn Credentials>>,
    tls: TlsSettings,
}

/// Where the connections come from.
#[derive(Clone)]
enum ConnectionSource {
    /// A pool of our own. The URL's error is returned when the store is built.
    Own(Result<ServerUrl, ServerUrlError>),
    OfTheApplication(PgPool),
}

impl std::fmt::Debug for PostgresStoreBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("PostgresStoreBuilder");
        match &self.origin {
            ConnectionSource::Own(Ok(url)) => shown.field("url", &format_args!("{url}")),
            ConnectionSource::Own(Err(error)) => shown.field("url", error),
            ConnectionSource::OfTheApplication(_) => shown.field("pool", &"of the application"),
        };
        shown
            .field("schema", &self.schema)
            .field("max_connections", &self.max_connections)
            .field("read_deadline", &self.read_deadline)
            .field("change_deadline", &self.change_deadline)
            .field("pooled", &self.pooled)
            .field("credentials", &self.credentials.is_some())
            .field("tls", &self.tls)
            .finish()
    }
}

impl PostgresStore {
    /// Returns the builder of a store that opens a pool of its own at `url`
    /// (`postgres://user:password@host/database`).
    pub fn builder(url: impl AsRef<str>) -> PostgresStoreBuilder {
        PostgresStoreBuilder::at(url.as_ref().parse())
    }

    /// Returns the builder of a store that uses the application's own pool, in the schema
    /// `session_layer`.
    ///
    /// The pool keeps its settings. Set `statement_timeout` and `lock_timeout` there, below
    /// [`DEFAULT_CHANGE_DEADLINE`], so that Postgres stops a statement when the store stops
    /// waiting for it. Set `plan_cache_mode=force_generic_plan` and `enable_seqscan=off` as well,
    /// or Postgres plans each read anew. [`close`](crate::store::SessionStore::close) leaves the
    /// pool open.
    pub fn from_pool(pool: PgPool) -> PostgresStoreBuilder {
        PostgresStoreBuilder::new(ConnectionSource::OfTheApplication(pool))
    }
}

impl PostgresStoreBuilder {
    pub(crate) fn at(url: Result<ServerUrl, ServerUrlError>) -> Self {
        Self::new(ConnectionSource::Own(url))
    }

    fn new(origin: ConnectionSource) -> Self {
        Self {
            origin,
            schema: DEFAULT_SCHEMA.to_owned(),
            max_connections: None,
            read_deadline: DEFAULT_READ_DEADLINE,
            change_deadline: DEFAULT_CHANGE_DEADLINE,
            pooled: false,
            credentials: None,
            tls: TlsSettings::new(),
        }
    }

    /// Returns the address of a pool of the store's own, if it is one.
    pub(crate) fn url(&self) -> Option<&ServerUrl> {
        match &self.origin {
            ConnectionSource::Own(url) => url.as_ref().ok(),
            ConnectionSource::OfTheApplication(_) => None,
        }
    }

    /// Sets the schema of our tables: 1 to 63 of `a-z`, `0-9` and `_`. It begins with neither a
    /// digit nor `pg_`. Postgres cuts longer names and reserves `pg_`. Defaults to `session_layer`.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = name.into();
        self
    }

    /// Sets the maximum number of connections of a pool that the store opens: 1 to 1,000. It
    /// cannot be set for a pool of the application. Defaults to [`DEFAULT_MAX_CONNECTIONS`].
    ///
    /// Half of them are for validations and their touches, one is for the journal, the rest for
    /// everything else. With fewer than 3, parts share connections, and one that waits for a lock
    /// delays the others. Log and health warn then. If Postgres accepts fewer for our
    /// role, the first is for validations. With three, each of these parts has one.
    pub fn max_connections(mut self, most: u32) -> Self {
        self.max_connections = Some(most);
        self
    }

    /// Sets how long a validation's read waits for a connection, and again for the reply once it
    /// is sent: 10 ms to 60 s. A request waits no longer than its budget. Defaults to
    /// [`DEFAULT_READ_DEADLINE`].
    ///
    /// In a pool of its own the store sets `statement_timeout` to nine tenths of it, so that
    /// Postgres ends a read that no request waits for.
    pub fn read_deadline(mut self, deadline: Duration) -> Self {
        self.read_deadline = deadline;
        self
    }

    /// Sets how long a change may take, waiting for a connection included: 10 ms to 60 s. A list
    /// of a user's sessions has as long. Defaults to [`DEFAULT_CHANGE_DEADLINE`].
    ///
    /// Its first statement is sent in the first 45 % of it or not at all. In a pool of its own the
    /// store sets `statement_timeout` to three quarters and `lock_timeout` to half of it. It is
    /// then certain that nothing was changed, and nothing is left behind in Postgres.
    pub fn change_deadline(mut self, deadline: Duration) -> Self {
        self.change_deadline = deadline;
        self
    }

    /// Sets whether a pooler in transaction mode, such as `PgBouncer`, is in front of Postgres.
    /// Each statement then has a transaction of its own, which costs three more round trips.
    /// Defaults to `false`.
    ///
    /// A pool of the store's own then keeps no prepared statements and sends no settings with the
    /// connection: set `statement_timeout`, `lock_timeout` and `row_security=off` on the role. A
    /// pool of the application needs `statement_cache_capacity(0)`.
    pub fn pooled(mut self, pooled: bool) -> Self {
        self.pooled = pooled;
        self
    }

    /// Sets the source of the password, and of the user if it names one. It is called for new
    /// connections, at most once a second for each of the three pools. Postgres ends no open
    /// connection when a password or a token ends. It goes with a URL without a password, and not
    /// with a pool of the application. Defaults to the password of the URL.
    pub fn credentials(mut self, credentials: impl Credentials) -> Self {
        self.credentials = Some(Arc::new(credentials));
        self
    }

    /// Sets whom a connection trusts, and the certificate of this client. With any setting, TLS is
    /// required, and the certificate must name the host of the URL. The CAs of the system remain
    /// trusted beside the one that is set, because sqlx adds them. Therefore the host is always
    /// verified, and `sslmode=verify-ca` is refused. [`TlsSettings::server_name`] is refused too.
    /// Not for a pool of the application. Defaults to what the URL says (`sslmode`, `sslrootcert`,
    /// `sslcert`, `sslkey`).
    pub fn tls(mut self, tls: TlsSettings) -> Self {
        self.tls = tls;
        self
    }

    /// Returns the store. It connects when it is first used, so that an application can start
    /// while Postgres is down. It does not look at our tables: see
    /// [`migrate`](PostgresStore::migrate).
    ///
    /// # Errors
    /// [`ConfigError`] names a setting that is not allowed. It also reports a URL that is not one
    /// of Postgres ([`ServerUrlError`] lists the reasons), and a call outside of a Tokio runtime.
    pub fn build(self) -> Result<PostgresStore, ConfigError> {
        let Ok(schema) = self.schema.parse() else {
            let name = "PostgresStoreBuilder::schema";
            return Err(ConfigError::bad(name, self.schema, SCHEMA_NAME));
        };
        let name = "PostgresStoreBuilder::read_deadline";
        ConfigError::check_range(name, self.read_deadline, &DEADLINES, DEADLINES_MAY_BE)?;
        let name = "PostgresStoreBuilder::change_deadline";
        ConfigError::check_range(name, self.change_deadline, &DEADLINES, DEADLINES_MAY_BE)?;
        let runtime = Handle::try_current().map_err(|_none| ConfigError::NoRuntime)?;
        let store = match &self.origin {
            ConnectionSource::Own(Ok(url)) => self.over_own_pool(url, schema, &runtime)?,
            ConnectionSource::Own(Err(error)) => {
                return Err(ConfigError::postgres_url(error.clone()));
            }
            ConnectionSource::OfTheApplication(_) if self.max_connections.is_some() => {
                return Err(ConfigError::Combination(
                    "PostgresStoreBuilder::max_connections has no effect on a pool of the \
                     application: set it where the pool is made",
                ));
            }
            ConnectionSource::OfTheApplication(_) if self.credentials.is_some() => {
                return Err(ConfigError::Combination(
                    "PostgresStoreBuilder::credentials has no effect on a pool of the application: \
                     set the password where the pool is made",
                ));
            }
            ConnectionSource::OfTheApplication(_) if self.tls != TlsSettings::new() => {
                return Err(ConfigError::Combination(
                    "PostgresStoreBuilder::tls has no effect on a pool of the application: set it \
                     where the pool is made",
                ));
            }
            ConnectionSource::OfTheApplication(pool) => PostgresStore {
                tls_remark: tls::remark(&pool.connect_options(), &self.tls),
                ..PostgresStore::over(Connections::of_the_application(pool.clone()), schema)
            },
        };
        if let Some(remark) = store.tls_remark {
            tracing::warn!("{remark}");
        }
        Ok(PostgresStore {
            read_deadline: self.read_deadline,
            change_deadline: self.change_deadline,
            pooled: self.is_pooled(),
            ..store
        })
    }

    fn over_own_pool(
        &self,
        url: &ServerUrl,
        schema: SchemaName,
        runtime: &Handle,
    ) -> Result<PostgresStore, ConfigError> {
        let max_connections = self.max_connections.unwrap_or(DEFAULT_MAX_CONNECTIONS);
        let name = "PostgresStoreBuilder::max_connections";
        ConfigError::check_range(name, max_connections, &(1..=1_000), "1 to 1000")?;
        if self.credentials.is_some() && has_password(url) {
            return Err(ConfigError::Combination(
                "DATABASE_URL has a password, and DATABASE_PASSWORD_FILE \
                 (PostgresStoreBuilder::credentials) names another: remove one of them",
            ));
        }
        let mut hosts = Hosts::of(url).map_err(ConfigError::postgres_url)?;
        #[cfg(feature = "tls")]
        tls::check_ca(&self.tls, url)?;
        if self.tls != TlsSettings::new() {
            hosts = hosts.try_map(|options| tls::add(options, &self.tls, url))?;
        }
        let shared = max_connections < FEWEST_APART;
        if shared {
            tracing::warn!("{SHARED}");
        }
        let tls_remark = hosts.tls_remark(&self.tls);
        // The timeouts are Postgres' own, in ms, for a statement and for a lock.
        let pool = |max_connections, timeouts, check_after, patience| {
            let rules = Rules { max_connections, check_after, patience };
            let hosts = hosts.map(|options| self.with_settings(options, timeouts));
            Pool::new(hosts, self.credentials.clone(), rules, runtime.clone())
        };
        let reading = max_connections / 2;
        let journal = u32::from(!shared);
        let changing = max_connections - reading - journal;
        let (change, read) = (self.change_deadline.as_millis(), self.read_deadline.as_millis());
        let ping = self.change_deadline / 10;
        let changes = pool(changing, (change * 3 / 4, change / 2), CHECK_CHANGES_AFTER, ping);
        let mut reads = None;
        if reading > 0 {
            // The lock's first, so that it is named.
            let timeouts = (read * 9 / 10, read * 8 / 10);
            let pool = pool(reading, timeouts, CHECK_READS_AFTER, self.read_deadline / 2);
            // A role, or a server, may have fewer connections left than the pools may open.
            // Validations come first. Of the others, each pool has one.
            pool.take_from(&changes, 0);
            changes.take_from(&pool, 1);
            reads = Some(pool);
        }
        let journal = (journal > 0).then(|| {
            let timeouts = (JOURNAL_PAGE_DEADLINE.as_millis() * 9 / 10, change / 4);
            let pool = pool(journal, timeouts, CHECK_READS_AFTER, JOURNAL_PAGE_DEADLINE / 2);
            pool.take_from(&changes, 1);
            pool
        });
        let mut store = PostgresStore {
            max_concurrent_changes: all_but_one(changing),
            shared,
            tls_remark,
            ..PostgresStore::over(Connections::Own(changes), schema)
        };
        if let Some(reads) = reads {
            store.reading = Connections::Own(reads);
            // One connection is for a touch.
            store.max_concurrent_reads = all_but_one(reading);
        }
        if let Some(journal) = journal {
            store.journal = Connections::Own(journal);
        }
        Ok(store)
    }

    /// Returns whether a pooler is in between, by the setting or by the URL.
    fn is_pooled(&self) -> bool {
        let in_url =
            |url: &ServerUrl| url.expose().query_pairs().any(|(name, _)| name == PGBOUNCER);
        self.pooled || matches!(&self.origin, ConnectionSource::Own(Ok(url)) if in_url(url))
    }

    /// Adds the settings of each connection. `statement` and `lock` are the timeouts of Postgres,
    /// in milliseconds.
    fn with_settings(
        &self,
        options: PgConnectOptions,
        (statement, lock): (u128, u128),
    ) -> PgConnectOptions {
        let mut options = options.disable_statement_logging();
        if options.get_application_name().is_none() {
            options = options.application_name("session-layer");
        }
        if self.is_pooled() {
            // PgBouncer rejects every startup option that it does not know, and sqlx sends this one
            // by default. We read no floats.
            let options = options.extra_float_digits(None);
            return options.statement_cache_capacity(0);
        }
        let change = self.change_deadline.as_millis();
        options.options([
            ("statement_timeout", statement.to_string()),
            ("lock_timeout", lock.to_string()),
            // A process that stops during a change must not hold its locks for ever.
            ("idle_in_transaction_session_timeout", (change * 2).to_string()),
            ("row_security", "off".to_owned()),
            // A load balancer or NAT drops flows without packets. Over a socket it has no effect.
            ("tcp_keepalives_idle", "60".to_owned()),
            ("tcp_keepalives_interval", "10".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            // Our statements are too short to be worth compiling.
            ("jit", "off".to_owned()),
            // Planning a read takes ten times as long as its execution. Every look-up has an index.
            // A plan that was made while a table was empty must use it too.
            ("plan_cache_mode", "force_generic_plan".to_owned()),
            ("enable_seqscan", "off".to_owned()),
            ("default_transaction_isolation", "read committed".to_owned()),
            // Operators and functions of a schema that other roles may write to must not replace
            // those of Postgres.
            ("search_path", "pg_catalog,pg_temp".to_owned()),
        ])
    }
}

fn has_password(url: &ServerUrl) -> bool {
    let url = url.expose();
    url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password")
}

fn all_but_one(connections: u32) -> usize {
    usize::try_from(connections.saturating_sub(1).max(1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;
    use crate::store::SessionStore as _;

    fn builder() -> PostgresStoreBuilder {
        PostgresStore::builder("postgres://h/d")
    }

    fn on_application_pool() -> PostgresStoreBuilder {
        PostgresStore::from_pool(PgPool::connect_lazy("postgres://h/d").unwrap())
    }

    fn error(builder: PostgresStoreBuilder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[tokio::test]
    async fn bad_setting_is_named_with_its_value_and_range() {
        for builder in [builder, on_application_pool] {
            let injected = "Robert'); DROP TABLE";
            for name in ["", "1a", "A", "pg_x", injected, &"a".repeat(64)] {
                let start = format!("PostgresStoreBuilder::schema is `{name}`: it may be 1 to 63");
                let error = error(builder().schema(name));
                assert!(error.starts_with(&start), "{error}");
            }
            let short = Duration::from_millis(9);
            let range = "it may be 10 ms to 60 s";
            assert_eq!(
                error(builder().read_deadline(short)),
                format!("PostgresStoreBuilder::read_deadline is `9ms`: {range}")
            );
            let long = Duration::from_millis(60_001);
            assert_eq!(
                error(builder().change_deadline(long)),
                format!("PostgresStoreBuilder::change_deadline is `60.001s`: {range}")
            );
            for deadline in [short + Duration::from_millis(1), LONGEST_DEADLINE] {
                assert!(builder().read_deadline(deadline).build().is_ok());
                assert!(builder().change_deadline(deadline).build().is_ok());
            }
        }
        for most in [0, 1_001] {
            let expected =
                format!("PostgresStoreBuilder::max_connections is `{most}`: it may be 1 to 1000");
            assert_eq!(error(builder().max_connections(most)), expected);
        }
        for (most, remarks) in [(1, 1), (2, 1), (3, 0), (1_000, 0)] {
            let local = PostgresStore::builder("postgres://localhost/d");
            let store = local.max_connections(most).build().unwrap();
            assert_eq!(store.remarks().len(), remarks, "{most}");
        }
    }

    #[tokio::test]
    async fn application_pool_has_its_own_number_of_connections() {
        let refused = on_application_pool().max_connections(5).build();
        assert!(matches!(refused, Err(ConfigError::Combination(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn bad_url_is_refused_without_repeating_it() {
        for url in ["redis://u:hunter2@h", "hunter2", ""] {
            let refused = PostgresStore::builder(url).build().unwrap_err();
            assert!(matches!(refused, ConfigError::BadUrl { .. }), "{refused:?}");
            assert!(!format!("{refused} {refused:?}").contains("hunter2"));
        }
    }

    #[tokio::test]
    async fn connection_that_is_not_verified_is_remarked() {
        for builder in
            [builder(), on_application_pool(), PostgresStore::builder("postgres://a,b/d")]
        {
            assert_eq!(builder.build().unwrap().remarks(), [tls::UNVERIFIED]);
        }
    }

    #[test]
    fn store_needs_a_runtime() {
        assert!(matches!(builder().build(), Err(ConfigError::NoRuntime)));
    }

    #[tokio::test]
    async fn no_timeout_of_the_shortest_deadline_is_zero() {
        let shortest = *DEADLINES.start();
        let ms = shortest.as_millis();
        let builder = builder().read_deadline(shortest).change_deadline(shortest);
        let options = PgConnectOptions::new();
        for timeouts in [(ms * 3 / 4, ms / 2), (ms * 9 / 10, ms * 8 / 10), (1_000, ms / 4)] {
            let options = builder.with_settings(options.clone(), timeouts);
            let sent = options.get_options().unwrap().to_owned();
            assert!(!sent.contains("timeout=0"), "{sent}");
        }
    }

    #[tokio::test]
    async fn one_password_goes_with_one_source() {
        let file = || crate::model::credentials::PasswordFile::new("/run/secrets/postgres");
        assert!(builder().credentials(file()).build().is_ok());
        for url in ["postgres://u:hunter2@h/d", "postgres://h/d?password=hunter2"] {
            let both = error(PostgresStore::builder(url).credentials(file()));
            assert!(both.contains("DATABASE_PASSWORD_FILE") && !both.contains("hunter2"), "{both}");
        }
        assert!(
            error(on_application_pool().credentials(file())).contains("pool of the application")
        );
        let tls = TlsSettings::new().insecure(true);
        assert!(error(on_application_pool().tls(tls)).contains("pool of the application"));
    }

    // Without them Postgres plans each read anew, which takes longer than its execution.
    #[test]
    fn statements_are_planned_once_and_use_their_indexes() {
        let options = builder().with_settings(PgConnectOptions::new(), (1, 1));
        let sent = options.get_options().unwrap();
        for setting in ["plan_cache_mode=force_generic_plan", "enable_seqscan=off", "jit=off"] {
            assert!(sent.contains(setting), "{sent}");
        }
    }

    #[cfg(feature = "metrics")]
    #[tokio::test]
    async fn pool_that_is_shared_counts_once() {
        for (connections, pools) in [(10, 3), (2, 2), (1, 1)] {
            let store = builder().max_connections(connections).build().unwrap();
            let status = store.pools();
            assert_eq!(status.len(), pools, "{status:?}");
            assert_eq!(status.iter().map(|pool| pool.max).sum::<u32>(), connections, "{status:?}");
        }
    }
}
