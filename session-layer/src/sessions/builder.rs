//! Building [`Sessions`].

use std::num::NonZero;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::SessionCache;
use crate::engine::Engine;
use crate::engine::breaker::DEFAULT_SLOW_LOOKUP_THRESHOLD;
use crate::engine::cache_mode::CacheMode;
use crate::engine::housekeeping::DEFAULT_RETENTION;
use crate::engine::settings::Settings;
use crate::engine::staleness::{DEFAULT_JOURNAL_INTERVAL, JournalTiming, PartitionPolicy};
use crate::model::clock::A_DAY;
use crate::model::error::ConfigError;
use crate::model::session::MAX_LIFETIME;
use crate::model::token::{OpaqueTokens, TokenScheme};
use crate::sessions::Sessions;
use crate::store::SessionStore;

/// How long an entry may be served by default: 5 minutes. It bounds how long a revoked session
/// remains valid if Redis did not acknowledge its invalidation, against how often Postgres is read.
pub const DEFAULT_TTL: Duration = Duration::from_secs(300);
/// How long a validation may take in all by default: 250 ms. It leaves room for a slow Redis (50
/// ms) and a read of Postgres under load (15–25 ms, and more if reads queue).
pub const DEFAULT_VALIDATION_TIMEOUT: Duration = Duration::from_millis(250);

/// How long a login, a change or a list of sessions may wait for its turn by default: 400 ms. At
/// most 0.9 s for a connection and 1.1 s for the reply of Postgres follow. A change takes two such
/// steps, and therefore ends within about 5 s.
pub const DEFAULT_CHANGE_WAIT: Duration = Duration::from_millis(400);

/// The sizes that a near cache may have. A smaller one would not hold one large session.
const NEAR_CACHE: RangeInclusive<usize> = 1 << 20..=usize::MAX;

/// The least time without a request after which a node may pause.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// The configuration of [`Sessions`]. [`Sessions::builder`] creates it.
#[must_use]
pub struct SessionsBuilder<C, S> {
    cache: C,
    store: S,
    settings: Settings,
    near_cache: usize,
    pause_after: Duration,
    mode: CacheMode,
    scheme: Arc<dyn TokenScheme>,
}

impl Sessions {
    /// Returns a builder of sessions over this cache and this store, with defaults for everything
    /// else.
    pub fn builder<C: SessionCache, S: SessionStore>(cache: C, store: S) -> SessionsBuilder<C, S> {
        SessionsBuilder {
            cache,
            store,
            settings: Settings {
                ttl: DEFAULT_TTL,
                validation_timeout: DEFAULT_VALIDATION_TIMEOUT,
                slow_lookup_threshold: DEFAULT_SLOW_LOOKUP_THRESHOLD,
                max_concurrent_reads: None,
                near_cache_bytes: None,
                change_wait: DEFAULT_CHANGE_WAIT,
                journal: JournalTiming {
                    interval: DEFAULT_JOURNAL_INTERVAL,
                    policy: PartitionPolicy::default(),
                },
                retention: Some(DEFAULT_RETENTION),
                pause_after: None,
                trace_ids: false,
            },
            near_cache: 0,
            pause_after: Duration::ZERO,
            mode: CacheMode::On,
            scheme: Arc::new(OpaqueTokens),
        }
    }
}

impl<C: SessionCache, S: SessionStore> SessionsBuilder<C, S> {
    /// Sets how long an entry may be served: 1 s to 24 hours. Defaults to [`DEFAULT_TTL`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = ttl;
        self
    }

    /// Sets how long a validation may take in all: 1 ms to 24 hours. The cache gets at most half
    /// of it. Defaults to [`DEFAULT_VALIDATION_TIMEOUT`].
    pub fn validation_timeout(mut self, budget: Duration) -> Self {
        self.settings.validation_timeout = budget;
        self
    }

    /// Sets from which duration on a look-up in the cache is slow: more than zero. If most
    /// look-ups are slow or fail, the breaker opens and the cache is not queried for a while. With
    /// the cache's own deadline or more, only failures count. Defaults to
    /// [`DEFAULT_SLOW_LOOKUP_THRESHOLD`].
    pub fn slow_lookup_threshold(mut self, slow: Duration) -> Self {
        self.settings.slow_lookup_threshold = slow;
        self
    }

    /// Sets how many bytes of entries this process keeps itself, in front of the cache: 0, or at
    /// least 1 MiB. An entry counts as 240 bytes plus the user id and the data. Defaults to 0:
    /// there is no near cache. Size it for the sessions that this node serves within a TTL.
    ///
    /// A hit in the near cache costs no round trip, and needs neither Redis nor Postgres. The
    /// journal of changes bounds how old it may be, as it bounds every entry: a node that reaches
    /// Postgres honors another node's change within D
    /// ([`journal_interval`](Self::journal_interval): 2 s), and a partitioned one within the TTL,
    /// or not at all under [`FailClosed`](PartitionPolicy::FailClosed). On the node that makes it,
    /// a change is visible at once.
    ///
    /// While any node has a near cache and there are several nodes, every change is
    /// [`Committed`](crate::Visibility::Committed) with `within` = D, and never `Propagated`. The
    /// nodes find this out by themselves. In bypass it is empty, and the node stays registered as
    /// one that has it. Over a store that only one process uses (SQLite), and without a cache,
    /// there is none, and a warning is logged.
    pub fn near_cache(mut self, bytes: usize) -> Self {
        self.near_cache = bytes;
        self
    }

    /// Sets how many reads of the store may be in flight at once for validations: 1 to 1,000.
    /// Validations that wait meanwhile share the next read. A validation that would wait beyond
    /// the budget is `Unavailable` at once (load shed).
    ///
    /// Defaults to what the store advises ([`SessionStore::max_concurrent_reads`]). For a pool of
    /// `PostgresStore`'s own that is half of the connections less one for touches, and at least
    /// one: 4 of 10. For a pool of the application it is half of the connections. Changes and the
    /// application's own statements need connections too. The limit of 1,000 is ten times the
    /// connections that Postgres accepts by default.
    pub fn max_concurrent_reads(mut self, reads: usize) -> Self {
        self.settings.max_concurrent_reads = Some(reads);
        self
    }

    /// Sets how long a login, a change (an update, a rotation, a revocation) or a list of sessions
    /// may wait for its turn: zero to 24 hours. Each kind has as many turns at once as the store
    /// advises ([`SessionStore::max_concurrent_changes`]), and users take turns with each other.
    ///
    /// A call that would wait longer fails at once, with an error of the kind
    /// [`Shed`](crate::error::StoreErrorKind::Shed), and nothing was changed. Defaults to
    /// [`DEFAULT_CHANGE_WAIT`].
    pub fn change_wait(mut self, wait: Duration) -> Self {
        self.settings.change_wait = wait;
        self
    }

    /// Sets what a node does while it is cut off from Postgres. All nodes need the same policy,
    /// because the node that makes a change states the bound for all. Defaults to
    /// [`PartitionPolicy::Available`].
    pub fn policy(mut self, policy: PartitionPolicy) -> Self {
        self.settings.journal.policy = policy;
        self
    }

    /// Sets how often the journal of changes is read: every 10 ms to every 24 hours. Four
    /// intervals are D, the `within` of [`Visibility::Committed`](crate::Visibility::Committed).
    /// All nodes need the same interval. Reading more often than every 10 ms would cost Postgres
    /// over 100 statements a second per node. Defaults to [`DEFAULT_JOURNAL_INTERVAL`].
    pub fn journal_interval(mut self, interval: Duration) -> Self {
        self.settings.journal.interval = interval;
        self
    }

    /// Sets how long sessions that are revoked or expired stay in the store before they are
    /// deleted, a few hundred at a time: zero to 50 years, the longest lifetime of a session.
    /// With `None` they are never deleted. Defaults to [`DEFAULT_RETENTION`].
    pub fn retention(mut self, retention: Option<Duration>) -> Self {
        self.settings.retention = retention;
        self
    }

    /// Sets the time without a request after which this node pauses: zero, or 1 s to 24 hours. With
    /// zero it never does, which is the default. It is for a Postgres that scales to zero (Neon,
    /// Aurora Serverless), which two reads of the journal a second would keep awake.
    ///
    /// A paused node sends nothing to Postgres by itself, and closes its idle connections. It reads
    /// no journal, renews no registration, and deletes no old rows. Health checks and metrics send
    /// nothing to Postgres meanwhile, unless the last health check could not reach it. The pause
    /// begins up to 2 s after this time. Validations, logins, changes and lists count as requests.
    ///
    /// The next request ends the pause. Postgres serves it, and every other one until this node has
    /// registered and read the journal again. Every promise holds as before: what was changed
    /// during the pause is honored by the first request after it, under either policy. While
    /// Postgres wakes up, requests get 503, unless the
    /// [`validation_timeout`](Self::validation_timeout) and the
    /// [`read_deadline`](crate::store::PostgresStoreBuilder::read_deadline) are longer than that.
    ///
    /// An application that supplies its own pool closes its idle connections itself. Over a store
    /// that only one process uses (SQLite), this has no effect.
    pub fn pause_without_traffic(mut self, after: Duration) -> Self {
        self.pause_after = after;
        self
    }

    /// Sets whether the [spans](crate::traces) have the ids of users and sessions (`enduser.id` and
    /// `session.id`). The system that keeps the traces then has personal data. No span ever has a
    /// token or a digest. Defaults to `false`.
    pub fn trace_ids(mut self, traced: bool) -> Self {
        self.settings.trace_ids = traced;
        self
    }

    /// Sets whether to start with the cache on. Defaults to [`CacheMode::On`].
    pub fn mode(mut self, mode: CacheMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets how tokens look. Defaults to [`OpaqueTokens`], those that this crate issues.
    pub fn token_scheme(mut self, scheme: impl TokenScheme) -> Self {
        self.scheme = Arc::new(scheme);
        self
    }

    /// Returns the handle, and starts its background tasks. It connects to neither cache nor
    /// store, so an application starts without them and uses them once they are there.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] names a setting that is not allowed.
    /// [`ConfigError::NoRuntime`] reports a call outside of a Tokio runtime.
    pub fn build(mut self) -> Result<Sessions, ConfigError> {
        check(&self.settings)?;
        if self.near_cache > 0 {
            let name = "SessionsBuilder::near_cache";
            ConfigError::check_range(name, self.near_cache, &NEAR_CACHE, "0, or at least 1 MiB")?;
        }
        self.settings.near_cache_bytes = NonZero::new(self.near_cache);
        if !self.pause_after.is_zero() {
            let (name, allowed) = ("SessionsBuilder::pause_without_traffic", LEAST_PAUSE..=A_DAY);
            ConfigError::check_range(name, self.pause_after, &allowed, "0, or 1 s to 24 hours")?;
            self.settings.pause_after = Some(self.pause_after);
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::NoRuntime);
        }
        let engine = Engine::new(self.cache, self.store, self.settings, self.mode);
        Ok(Sessions::new(engine, self.scheme))
    }
}

/// Checks the range of every setting. A day is beyond any use for a span that callers or entries
/// wait for, and far from where moments overflow.
fn check(settings: &Settings) -> Result<(), ConfigError> {
    const MS: Duration = Duration::from_millis(1);
    let span =
        |name, span, least, may_be| ConfigError::check_range(name, span, &(least..=A_DAY), may_be);
    span("SessionsBuilder::ttl", settings.ttl, 1_000 * MS, "1 s to 24 hours")?;
    let name = "SessionsBuilder::validation_timeout";
    span(name, settings.validation_timeout, MS, "1 ms to 24 hours")?;
    let name = "SessionsBuilder::change_wait";
    span(name, settings.change_wait, Duration::ZERO, "0 to 24 hours")?;
    let name = "SessionsBuilder::journal_interval";
    span(name, settings.journal.interval, 10 * MS, "10 ms to 24 hours")?;
    let name = "SessionsBuilder::slow_lookup_threshold";
    let allowed = Duration::from_nanos(1)..=Duration::MAX;
    ConfigError::check_range(name, settings.slow_lookup_threshold, &allowed, "more than 0")?;
    let name = "SessionsBuilder::max_concurrent_reads";
    let reads = settings.max_concurrent_reads.unwrap_or(1);
    ConfigError::check_range(name, reads, &(1..=1_000), "1 to 1000")?;
    let name = "SessionsBuilder::retention";
    let retention = settings.retention.unwrap_or_default();
    let allowed = Duration::ZERO..=MAX_LIFETIME;
    ConfigError::check_range(name, retention, &allowed, "None, or 0 to 50 years")
}

impl<C, S> std::fmt::Debug for SessionsBuilder<C, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionsBuilder")
            .field("settings", &self.settings)
            .field("near_cache", &self.near_cache)
            .field("pause_after", &self.pause_after)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
