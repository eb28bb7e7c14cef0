//! Building [`Sessions`].

use std::sync::Arc;
use std::time::Duration;

use crate::breaker::DEFAULT_SLOW_CALL;
use crate::cache::SessionCache;
use crate::clock::A_DAY;
use crate::driver::{Driver, Settings};
use crate::housekeeping::DEFAULT_RETENTION;
use crate::journal::{DEFAULT_JOURNAL_INTERVAL, Policy, Timing};
use crate::sessions::{Mode, Sessions};
use crate::store::SessionStore;
use crate::token::{OpaqueTokens, TokenScheme};

/// How long an entry may be served, unless set otherwise: 5 minutes. It bounds how long a revoked
/// session can live on where Redis could not be told, against how often Postgres is asked.
pub const DEFAULT_TTL: Duration = Duration::from_secs(300);
/// How long a validation may take in all, unless set otherwise: 250 ms, which leaves room for a slow
/// Redis (50 ms) and a read of Postgres under load (15–25 ms, more where it queues).
pub const DEFAULT_BUDGET: Duration = Duration::from_millis(250);

/// Configures [`Sessions`]. Made by [`Sessions::builder`].
#[must_use]
pub struct SessionsBuilder<C, S> {
    cache: C,
    store: S,
    settings: Settings,
    mode: Mode,
    scheme: Arc<dyn TokenScheme>,
}

impl Sessions {
    /// Sessions over this cache and this store, with defaults for everything else.
    pub fn builder<C: SessionCache, S: SessionStore>(cache: C, store: S) -> SessionsBuilder<C, S> {
        SessionsBuilder {
            cache,
            store,
            settings: Settings {
                ttl: DEFAULT_TTL,
                budget: DEFAULT_BUDGET,
                slow_call: DEFAULT_SLOW_CALL,
                reads_at_once: None,
                journal: Timing {
                    interval: DEFAULT_JOURNAL_INTERVAL,
                    policy: Policy::default(),
                },
                retention: Some(DEFAULT_RETENTION),
            },
            mode: Mode::On,
            scheme: Arc::new(OpaqueTokens),
        }
    }
}

impl<C: SessionCache, S: SessionStore> SessionsBuilder<C, S> {
    /// How long an entry may be served. At least 1 s, less is raised to it; at most a day, more is lowered
    /// to it. Defaults to [`DEFAULT_TTL`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = ttl.clamp(Duration::from_secs(1), A_DAY);
        self
    }

    /// How long a validation may take in all, of which the cache gets half at most. At most a day, more is
    /// lowered to it. Defaults to [`DEFAULT_BUDGET`].
    pub fn budget(mut self, budget: Duration) -> Self {
        self.settings.budget = budget.min(A_DAY);
        self
    }

    /// A look-up in the cache that takes longer is slow, and when most of them are slow or fail, the cache
    /// is not asked for a while (the breaker opens). Defaults to [`DEFAULT_SLOW_CALL`]; the cache's own
    /// deadline or more turns that off, and only failures count.
    pub fn slow_call(mut self, slow: Duration) -> Self {
        self.settings.slow_call = slow;
        self
    }

    /// How many reads of the store may be in flight at once for validations; at least 1. What has to wait
    /// meanwhile goes into the next one together, and what would wait beyond the budget is answered with
    /// "unavailable" at once (load shed). Defaults to what the store advises
    /// ([`SessionStore::reads_at_once`]): half of the connections of a pool of Postgres, so that changes
    /// and the application's own statements find one too.
    pub fn reads_at_once(mut self, reads: usize) -> Self {
        self.settings.reads_at_once = Some(reads.max(1));
        self
    }

    /// What a node does that has lost touch with Postgres. Defaults to [`Policy::Available`]. All nodes
    /// should have the same, for a bound is stated by the node that makes a change.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.settings.journal.policy = policy;
        self
    }

    /// How often the journal of changes is read; at least 10 ms, less is raised to it, and at most a day, more
    /// is lowered to it. Defaults to [`DEFAULT_JOURNAL_INTERVAL`]. Four of it are D, the `within` of
    /// [`Reach::Committed`](crate::Reach::Committed). All nodes should have the same.
    pub fn journal_interval(mut self, interval: Duration) -> Self {
        self.settings.journal.interval = interval.clamp(Duration::from_millis(10), A_DAY);
        self
    }

    /// How long sessions that ended or expired stay in the store before they are deleted, a few hundred
    /// at a time; `None`: for ever. Defaults to [`DEFAULT_RETENTION`].
    pub fn retention(mut self, retention: Option<Duration>) -> Self {
        self.settings.retention = retention;
        self
    }

    /// Whether to start with the cache on. Defaults to [`Mode::On`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// How tokens look. Defaults to [`OpaqueTokens`]: those that this crate issues.
    pub fn token_scheme(mut self, scheme: impl TokenScheme) -> Self {
        self.scheme = Arc::new(scheme);
        self
    }

    /// The handle. Nothing is asked of cache or store yet: an application starts without them and uses
    /// them when they come.
    #[must_use]
    pub fn build(self) -> Sessions {
        let driver = Driver::new(self.cache, self.store, self.settings, self.mode);
        Sessions::new(driver, self.scheme)
    }
}

impl<C, S> std::fmt::Debug for SessionsBuilder<C, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionsBuilder")
            .field("settings", &self.settings)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
