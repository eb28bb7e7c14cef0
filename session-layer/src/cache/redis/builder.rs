//! The configuration of a [`RedisCache`].

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::Cluster;
use super::connect::{self, Access, ConnectError, Connector, RedisConnection};
use super::servers::Servers;
use super::shard::{Shard, ShardSettings};
use super::{COMPARE_AND_SET, RedisCache};
use crate::cache::codec::EntryRejection;
use crate::cache::seal::SealingKeys;
use crate::cache::{CacheId, NAMESPACE, codec, is_namespace};
use crate::model::clock::A_DAY;
use crate::model::credentials::Credentials;
use crate::model::error::ConfigError;
use crate::model::server_url::{ServerUrl, ServerUrlError};
use crate::model::tls::TlsSettings;

/// The default prefix of every key.
pub const DEFAULT_NAMESPACE: &str = "session-layer";
/// The maximum number of connections, unless set otherwise. Two are opened at first, more under
/// load. Each is shared by many requests at once.
pub const DEFAULT_POOL_SIZE: usize = 10;
/// The default deadline of an operation, which includes the wait for a connection. 50 ms is ten
/// times the need of a healthy Redis, and short compared with the fallback to Postgres.
pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(50);

/// The allowed numbers of connections. More than 1,000 is a mistake.
const POOL_SIZES: RangeInclusive<usize> = 1..=1_000;
/// The allowed deadlines. A healthy Redis answers within 1 ms, and a day is beyond any use.
const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(1)..=A_DAY;

/// The warning in the log and in the health document.
pub(super) const INSECURE: &str = "TLS to Redis accepts every certificate (REDIS_TLS_INSECURE): \
     anyone in between can read and change sessions. Set REDIS_TLS_CA_FILE instead";

/// A builder for a [`RedisCache`], created by [`RedisCache::builder`].
#[must_use]
pub struct RedisCacheBuilder {
    /// The address. [`build`](Self::build) returns its error.
    url: Result<ServerUrl, ServerUrlError>,
    namespace: String,
    pool_size: usize,
    deadline: Duration,
    replicated: bool,
    keys: Option<SealingKeys>,
    access: Access,
}

impl RedisCacheBuilder {
    pub(crate) fn new(url: Result<ServerUrl, ServerUrlError>) -> Self {
        Self {
            url,
            namespace: DEFAULT_NAMESPACE.to_owned(),
            pool_size: DEFAULT_POOL_SIZE,
            deadline: DEFAULT_DEADLINE,
            replicated: false,
            keys: None,
            access: Access::default(),
        }
    }

    /// Returns the address, if it is one.
    pub(crate) fn url(&self) -> Option<&ServerUrl> {
        self.url.as_ref().ok()
    }

    /// Sets the prefix of every key: 1 to 100 visible ASCII characters without braces, which
    /// would be a hash tag in a cluster. Defaults to [`DEFAULT_NAMESPACE`].
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the maximum number of connections to one server: 1 to 1,000. In a cluster, each shard
    /// has as many. Redis accepts 10,000 clients in all by
    /// default. Defaults to [`DEFAULT_POOL_SIZE`].
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections;
        self
    }

    /// Sets how long an operation may take, waiting for a connection included: 1 ms to 24 hours.
    /// Defaults to [`DEFAULT_DEADLINE`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets whether Redis has replicas or may fail over. A revocation then returns
    /// [`Visibility::Committed`](crate::Visibility::Committed), because a failover may restore a
    /// removed entry. A server that reports replicas always counts as replicated, and so does one
    /// behind sentinels or in a cluster. Defaults to false.
    pub fn replicated(mut self, replicated: bool) -> Self {
        self.replicated = replicated;
        self
    }

    /// Seals entries with these keys. A client with write access to Redis but without the keys can
    /// neither plant a session nor read one. Unsealed entries are then misses. Defaults to plain
    /// entries, which [`build`](Self::build) logs once.
    pub fn encryption_keys(mut self, keys: SealingKeys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Returns why a node with these keys does not open this value of this Redis key. `None`: it
    /// does, or it is no entry. It is for tools that check a deployment, such as `sessionctl`.
    #[doc(hidden)]
    #[must_use]
    pub fn why_unopened(&self, redis_key: &[u8], value: &[u8]) -> Option<&'static str> {
        Some(match codec::unopened(value, redis_key, self.keys.as_ref())? {
            EntryRejection::UnknownKey => "sealed with a key that SESSION_CACHE_KEY lacks",
            EntryRejection::Forged => {
                "sealed with another key than the one that SESSION_CACHE_KEY has under this ID"
            }
            EntryRejection::Unsealed => "not sealed, although SESSION_CACHE_KEY is set",
            _ => return None,
        })
    }

    /// Sets whom `rediss://` trusts, and the certificate of this client. Defaults to the CAs of the
    /// system and no certificate.
    pub fn tls(mut self, tls: TlsSettings) -> Self {
        self.access.tls = tls;
        self
    }

    /// Sets the source of the password, which may change while connections are open. The URL then
    /// has no password. Defaults to the password of the URL.
    pub fn credentials(mut self, credentials: impl Credentials) -> Self {
        self.access.credentials = Some(Arc::new(credentials));
        self
    }

    /// Sets the source of the password of the sentinels, for a `redis+sentinel://` URL. Its own
    /// password is that of Redis. Defaults to none.
    pub fn sentinel_credentials(mut self, credentials: impl Credentials) -> Self {
        self.access.sentinel_credentials = Some(Arc::new(credentials));
        self
    }

    /// Opens one connection as the cache would, and reads the identity of the server. Of a cluster,
    /// it is the first node of the URL. It is for a test of the deployment. A cache opens its own
    /// connections, also to a server that is not reachable yet.
    ///
    /// # Errors
    /// [`ConnectError`] names the cause. An error of the settings has the cause
    /// [`Settings`](super::ConnectCause::Settings).
    // It is public for the testkit only, because it exposes the version of the `redis` crate.
    #[doc(hidden)]
    pub async fn connect(self, limit: Duration) -> Result<RedisConnection, ConnectError> {
        let connector = Connector::new(self.url, self.access).map_err(ConnectError::settings)?;
        connector.connect_once(limit).await
    }

    /// As [`connect`](Self::connect). In a cluster, the connection leads to the master that has
    /// this key.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    #[doc(hidden)]
    pub async fn connect_for_key(
        self,
        key: &[u8],
        limit: Duration,
    ) -> Result<RedisConnection, ConnectError> {
        let connector = Connector::new(self.url, self.access).map_err(ConnectError::settings)?;
        connector.connect_for_key(key, limit).await
    }

    /// Opens a connection to each master of a cluster, as the cache would. Returns each with its
    /// address. It is for a test of the deployment. Without a cluster there is none.
    ///
    /// # Errors
    /// [`ConnectError`] names the cause if no node reports the masters.
    #[doc(hidden)]
    pub async fn connect_to_shards(
        self,
        limit: Duration,
    ) -> Result<Vec<(String, Result<RedisConnection, ConnectError>)>, ConnectError> {
        let connector = Connector::new(self.url, self.access).map_err(ConnectError::settings)?;
        connector.connect_to_shards(limit).await
    }

    /// Builds the cache, which connects in the background. Redis need not be reachable yet. Must be
    /// called within a Tokio runtime.
    ///
    /// TLS uses rustls with ring, whichever provider the application has installed.
    ///
    /// # Errors
    /// [`ConfigError`] names a setting that is not allowed. It also reports a URL that is not one
    /// of Redis, `rediss://` without the feature `tls`, and a call outside of a Tokio runtime.
    pub fn build(self) -> Result<RedisCache, ConfigError> {
        if !is_namespace(&self.namespace) {
            let name = "RedisCacheBuilder::namespace";
            return Err(ConfigError::bad(name, &self.namespace, NAMESPACE));
        }
        let name = "RedisCacheBuilder::pool_size";
        ConfigError::check_range(name, self.pool_size, &POOL_SIZES, "1 to 1000")?;
        let name = "RedisCacheBuilder::deadline";
        ConfigError::check_range(name, self.deadline, &DEADLINES, "1 ms to 24 hours")?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::NoRuntime);
        }
        let connector = Connector::new(self.url, self.access)?;
        let database = connector.database();
        let fails_over = connector.fails_over();
        let is_insecure = connector.is_insecure();
        if is_insecure {
            tracing::warn!("{INSECURE}");
        }
        if self.keys.is_none() {
            tracing::warn!(
                "sessions in Redis are not sealed: any client that can write to Redis can plant \
                 one. Set SESSION_CACHE_KEY, or call RedisCacheBuilder::encryption_keys"
            );
        }
        let database = database.to_be_bytes();
        let place = [&database, self.namespace.as_bytes(), b":", codec::FORMAT.as_bytes()].concat();
        let id = CacheId::of(&[&b"cluster"[..], &place[..]]);
        let (size, deadline) = (self.pool_size, self.deadline);
        let settings = ShardSettings { place: place.into(), size, deadline };
        let (servers, stop) = if connector.is_cluster() {
            let cluster = Cluster::open(connector, settings);
            let stop = Arc::new(cluster.stop_on_drop());
            (Servers::Cluster { cluster, id }, Some(stop))
        } else {
            let shard = Shard::single(connector, settings)
                .map_err(|error| ConfigError::redis_url(connect::URL, error))?;
            (Servers::One(shard), None)
        };
        Ok(RedisCache {
            _stop: stop,
            servers: Arc::new(servers),
            namespace: self.namespace.into(),
            deadline: self.deadline,
            replicated: self.replicated || fails_over,
            compare_and_set: Arc::new(redis::Script::new(COMPARE_AND_SET)),
            keys: self.keys,
            rejections: Arc::default(),
            is_insecure,
        })
    }
}

impl std::fmt::Debug for RedisCacheBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("RedisCacheBuilder");
        match &self.url {
            Ok(url) => shown.field("url", &format_args!("{url}")),
            Err(error) => shown.field("url", error),
        };
        shown
            .field("namespace", &self.namespace)
            .field("pool_size", &self.pool_size)
            .field("deadline", &self.deadline)
            .field("replicated", &self.replicated)
            .field("keys", &self.keys)
            .field("tls", &self.access.tls)
            .field("credentials", &self.access.credentials.is_some())
            .finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use crate::model::credentials::PasswordFile;

    const MS: Duration = Duration::from_millis(1);

    fn builder() -> RedisCacheBuilder {
        RedisCache::builder("redis://localhost")
    }

    #[tokio::test]
    async fn bad_setting_is_named_with_its_value_and_range() {
        let long = "n".repeat(101);
        for namespace in ["", "a b", "a{b}", "\u{e9}", &long] {
            let refused = builder().namespace(namespace).build().unwrap_err().to_string();
            assert!(refused.starts_with("RedisCacheBuilder::namespace is `"), "{refused}");
            assert!(refused.ends_with(&format!("`: it may be {NAMESPACE}")), "{refused}");
        }
        for size in [0, 1_001] {
            let refused = builder().pool_size(size).build().unwrap_err().to_string();
            let expected = format!("RedisCacheBuilder::pool_size is `{size}`: it may be 1 to 1000");
            assert_eq!(refused, expected);
        }
        for deadline in [Duration::ZERO, MS / 2, A_DAY + MS, Duration::MAX] {
            let refused = builder().deadline(deadline).build().unwrap_err().to_string();
            let name = "RedisCacheBuilder::deadline";
            assert_eq!(refused, format!("{name} is `{deadline:?}`: it may be 1 ms to 24 hours"));
        }
        for (namespace, size, deadline) in [("n", 1, MS), (&long[1..], 1_000, A_DAY)] {
            let builder = builder().namespace(namespace).pool_size(size).deadline(deadline);
            assert!(builder.build().is_ok());
        }
    }

    #[tokio::test]
    async fn settings_of_tls_need_rediss() {
        let tls = TlsSettings::new().insecure(true);
        let refused = builder().tls(tls).build().unwrap_err();
        assert!(refused.to_string().contains("rediss://"), "{refused}");
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn insecure_tls_excludes_a_ca() {
        let tls = TlsSettings::new().insecure(true).ca_file("/ca");
        let refused = RedisCache::builder("rediss://localhost").tls(tls).build().unwrap_err();
        assert!(matches!(refused, ConfigError::Combination(_)), "{refused:?}");
        assert!(refused.to_string().contains("REDIS_TLS_INSECURE"), "{refused}");
    }

    #[tokio::test]
    async fn password_is_in_one_place() {
        let file = || PasswordFile::new("/run/secrets/redis");
        assert!(builder().credentials(file()).build().is_ok());
        let both = RedisCache::builder("redis://:hunter2@localhost").credentials(file());
        let refused = both.build().unwrap_err().to_string();
        assert!(refused.contains("REDIS_PASSWORD_FILE") && !refused.contains("hunter2"));
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn unusable_certificate_is_refused_at_the_start() {
        for (tls, why) in [
            (TlsSettings::new().ca_file("no such file"), "REDIS_TLS_CA_FILE) cannot be read"),
            (TlsSettings::new().ca_pem("no PEM"), "REDIS_TLS_CA_FILE) is not PEM"),
            (TlsSettings::new().client_pem("no PEM", ""), "REDIS_TLS_CERT_FILE) is not PEM"),
            (TlsSettings::new().server_name("a b"), "not a host name"),
        ] {
            let refused = RedisCache::builder("rediss://localhost").tls(tls).build().unwrap_err();
            assert!(matches!(refused, ConfigError::Tls(_)), "{refused:?}");
            assert!(refused.to_string().contains(why), "{refused}");
        }
    }

    #[tokio::test]
    async fn bad_url_is_refused_without_repeating_it() {
        for url in ["postgres://u:hunter2@h", "hunter2", ""] {
            let refused = RedisCache::builder(url).build().unwrap_err();
            assert!(matches!(refused, ConfigError::BadUrl { .. }), "{refused:?}");
            assert!(!format!("{refused} {refused:?}").contains("hunter2"));
        }
    }

    #[test]
    fn cache_needs_a_runtime() {
        assert!(matches!(builder().build(), Err(ConfigError::NoRuntime)));
    }
}
