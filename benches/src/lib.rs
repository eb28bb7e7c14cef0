//! The set-up that the benchmarks share: real servers, a warm service on them, and ratios.
//!
//! Absolute times depend more on the machine than on the code. A benchmark therefore reports the
//! ratio of two measurements of one run.

pub mod validations;

use std::path::{Path, PathBuf};

use session_layer::cache::RedisCache;
use session_layer::store::PostgresStore;
use session_layer::{Created, NewSession, Sessions, TokenDigest, Validation};
use session_testkit::backends::{Backends, Sandbox};

/// The error of a benchmark, which ends it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A service on real servers, with a session that is in the cache.
#[derive(Debug)]
pub struct Service {
    /// The servers: those of `session-testkit run`, or their own.
    pub backends: Backends,
    /// Its schema and key namespace.
    pub sandbox: Sandbox,
    /// The service's handle.
    pub sessions: Sessions,
    /// A session with an entry in Redis.
    pub warm: Created,
    /// The same service with sealed entries.
    pub sealed: Sessions,
    /// A session with a sealed entry in Redis.
    pub warm_sealed: Created,
}

impl Service {
    /// Starts the servers and the service, and warms the cache.
    ///
    /// # Errors
    /// If servers cannot be started or used. The error states what to do.
    pub async fn start() -> Result<Self, Error> {
        let backends = Backends::start().await?;
        let sandbox = backends.sandbox();
        let cache = RedisCache::builder(sandbox.redis_url()).namespace(sandbox.namespace());
        let sessions = Sessions::builder(cache.build()?, store(&sandbox).await?).build()?;
        let warm = warm(&sessions).await?;
        let cache = RedisCache::builder(sandbox.redis_url())
            .namespace(format!("{}:sealed", sandbox.namespace()))
            .encryption_keys(format!("bench:{}A=", "b".repeat(42)).parse()?);
        let sealed = Sessions::builder(cache.build()?, store(&sandbox).await?).build()?;
        let warm_sealed = self::warm(&sealed).await?;
        Ok(Self { backends, sandbox, sessions, warm, sealed, warm_sealed })
    }

    /// Returns the Redis key of the warm session.
    #[must_use]
    pub fn warm_key(&self) -> String {
        key(self.sandbox.namespace(), &self.warm.token.digest())
    }
}

/// Returns the Redis key of the session with this digest.
#[must_use]
pub fn key(namespace: &str, digest: &TokenDigest) -> String {
    format!("{namespace}:2:{}", digest.to_base64url())
}

async fn store(sandbox: &Sandbox) -> Result<PostgresStore, Error> {
    let store = PostgresStore::builder(sandbox.database_url()).schema(sandbox.schema()).build()?;
    store.migrate().await?;
    Ok(store)
}

/// Creates a session, and waits until the cache has it.
async fn warm(sessions: &Sessions) -> Result<Created, Error> {
    let warm = sessions.create(NewSession::new("warm").data("a session's data")).await?;
    while sessions.metrics().hits == 0 {
        let Validation::Valid(_) = sessions.validate(warm.token.reveal()).await else {
            return Err("the session to measure is not valid".into());
        };
    }
    Ok(warm)
}

/// Returns the median of a benchmark of this run in nanoseconds, as criterion stored it.
#[must_use]
pub fn median(group: &str, name: &str) -> Option<f64> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let file = target.join("criterion").join(group).join(name).join("new/estimates.json");
    let estimates: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}
