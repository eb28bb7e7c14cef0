//! Configuring a [`RedisCache`].

use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{AsyncConnectionConfig, IntoConnectionInfo};

use super::links::Links;
use super::{COMPARE_AND_SET, RedisCache};
use crate::cache::{NAMESPACE, is_namespace};
use crate::clock::A_DAY;
use crate::error::ConfigError;
use crate::seal::SealingKeys;

/// The prefix of every key, unless set otherwise.
pub const DEFAULT_NAMESPACE: &str = "session-layer";
/// Connections at most, unless set otherwise. Two are opened at first, more under load; each is
/// shared by many requests at once.
pub const DEFAULT_POOL_SIZE: usize = 10;
/// How long an operation may take, unless set otherwise, waiting for a connection included: 50 ms, ten
/// times what a healthy Redis needs, and little beside the fallback's read of Postgres.
pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(50);

/// How many commands may wait to be written on one connection. The library's 50 would hold callers
/// up at a few hundred concurrent requests.
const WRITE_QUEUE: usize = 1024;
/// An idle connection to a host that vanished is noticed by the kernel after this long.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What was sent and not acknowledged for this long breaks the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Configures a [`RedisCache`]. Made by [`RedisCache::builder`].
#[must_use]
pub struct RedisCacheBuilder {
    url: String,
    namespace: String,
    pool_size: usize,
    deadline: Duration,
    replicated: bool,
    keys: Option<SealingKeys>,
}

impl RedisCacheBuilder {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            namespace: DEFAULT_NAMESPACE.to_owned(),
            pool_size: DEFAULT_POOL_SIZE,
            deadline: DEFAULT_DEADLINE,
            replicated: false,
            keys: None,
        }
    }

    /// The prefix of every key: 1–100 characters, without spaces and braces. Defaults to
    /// [`DEFAULT_NAMESPACE`].
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Connections at most, 1 or more. Defaults to [`DEFAULT_POOL_SIZE`].
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections;
        self
    }

    /// How long an operation may take, waiting for a connection included. At most a day, more is lowered
    /// to it. Defaults to [`DEFAULT_DEADLINE`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(A_DAY);
        self
    }

    /// Whether Redis has replicas or may fail over. Then a revocation is answered with
    /// [`Reach::Committed`](crate::Reach::Committed), since a failover may bring a removed copy back.
    /// A server that reports replicas counts as replicated by itself. Defaults to false.
    pub fn replicated(mut self, replicated: bool) -> Self {
        self.replicated = replicated;
        self
    }

    /// Seals entries with these keys: whoever can write to Redis, but has none of them, can neither plant a
    /// session nor read one. Entries that are not sealed are misses from then on. Defaults to entries
    /// in the clear, which is said once in the log, by [`build`](Self::build).
    pub fn seal(mut self, keys: SealingKeys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// The cache. It connects in the background; Redis need not be there yet. Must be called within a
    /// Tokio runtime.
    ///
    /// For `rediss://` this makes ring the process' default provider of rustls, unless the application
    /// has installed one before: an application that wants another one installs it first.
    ///
    /// # Errors
    /// [`ConfigError`] for an address that is none, `rediss://` without the feature `tls`, a namespace
    /// or pool size out of bounds, or where there is no Tokio runtime.
    pub fn build(self) -> Result<RedisCache, ConfigError> {
        if !is_namespace(&self.namespace) {
            return Err(ConfigError::bad("namespace", &self.namespace, NAMESPACE));
        }
        if self.pool_size == 0 {
            return Err(ConfigError::bad("pool size", "0", "1 or more"));
        }
        if self.deadline.is_zero() {
            return Err(ConfigError::bad("deadline", "0", "more than zero"));
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::NoRuntime);
        }
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(KEEPALIVE))
            .set_user_timeout(USER_TIMEOUT);
        let address = parse(&self.url)?.set_tcp_settings(tcp);
        let connections = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            // Deadlines are set around every operation; this one only ends what was abandoned.
            .set_response_timeout(Some(Duration::from_secs(5)))
            .set_pipeline_buffer_size(WRITE_QUEUE);
        let connector = deadpool_redis::Manager::new_with_config(address, connections)
            .map_err(|error| ConfigError::redis_url(error.into()))?;
        if self.keys.is_none() {
            tracing::warn!(
                "sessions in Redis are not sealed: whoever can write to it can plant one; set SESSION_CACHE_KEY, \
                 or RedisCacheBuilder::seal"
            );
        }
        let links = Links::open(connector, self.pool_size, self.deadline)
            .map_err(|error| ConfigError::redis_url(error.into()))?;
        Ok(RedisCache {
            _stop: Arc::new(links.stop_on_drop()),
            links,
            namespace: self.namespace.into(),
            deadline: self.deadline,
            replicated: self.replicated,
            compare_and_set: Arc::new(redis::Script::new(COMPARE_AND_SET)),
            keys: self.keys,
            rejections: Arc::default(),
        })
    }
}

fn parse(url: &str) -> Result<redis::ConnectionInfo, ConfigError> {
    if url.starts_with("rediss:") {
        #[cfg(not(feature = "tls"))]
        return Err(ConfigError::MissingFeature {
            feature: "tls",
            needed_for: "rediss://",
        });
        // rustls wants one default provider in the process; where the application has chosen one, this
        // changes nothing.
        #[cfg(feature = "tls")]
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    // The library's error does not repeat the address, which may hold a password.
    url.into_connection_info()
        .map_err(|error| ConfigError::redis_url(error.into()))
}

impl std::fmt::Debug for RedisCacheBuilder {
    /// Without the address, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisCacheBuilder")
            .field("namespace", &self.namespace)
            .field("pool_size", &self.pool_size)
            .field("deadline", &self.deadline)
            .field("replicated", &self.replicated)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}
