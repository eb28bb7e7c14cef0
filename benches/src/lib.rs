//! Set-up that the benchmarks share: real servers, a warmed service on them, and ratios at the end.
//!
//! Absolute times say more about the machine than about the code, so what a benchmark states is the
//! ratio of two measurements of one run.

use std::path::{Path, PathBuf};

use session_layer::cache::RedisCache;
use session_layer::store::PostgresStore;
use session_layer::{Created, NewSession, Sessions, Validation};
use session_testkit::backends::{Backends, Sandbox};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A service on real servers, with a session that is in the cache.
#[derive(Debug)]
pub struct Service {
    /// The servers: those of `session-testkit run`, or their own.
    pub backends: Backends,
    /// Its schema and key namespace.
    pub sandbox: Sandbox,
    /// The service's handle.
    pub sessions: Sessions,
    /// A session whose copy is in Redis.
    pub warm: Created,
    /// The same service with sealed entries.
    pub sealed: Sessions,
    /// A session whose sealed copy is in Redis.
    pub warm_sealed: Created,
}

impl Service {
    /// Starts everything and warms the cache.
    ///
    /// # Errors
    /// When servers cannot be started or used; the error says what to do.
    pub async fn start() -> Result<Self, Error> {
        let backends = Backends::start().await?;
        let sandbox = backends.sandbox();
        let cache = RedisCache::builder(sandbox.redis_url()).namespace(sandbox.namespace());
        let sessions = Sessions::builder(cache.build()?, store(&sandbox).await?).build();
        let warm = warm(&sessions).await?;
        let cache = RedisCache::builder(sandbox.redis_url())
            .namespace(format!("{}:sealed", sandbox.namespace()))
            .seal(format!("bench:{}A=", "b".repeat(42)).parse()?);
        let sealed = Sessions::builder(cache.build()?, store(&sandbox).await?).build();
        let warm_sealed = self::warm(&sealed).await?;
        Ok(Self {
            backends,
            sandbox,
            sessions,
            warm,
            sealed,
            warm_sealed,
        })
    }

    /// The Redis key of the warm session.
    #[must_use]
    pub fn warm_key(&self) -> String {
        let digest = self.warm.token.digest().to_base64url();
        format!("{}:1:{digest}", self.sandbox.namespace())
    }
}

async fn store(sandbox: &Sandbox) -> Result<PostgresStore, Error> {
    let store = PostgresStore::builder(sandbox.database_url())
        .schema(sandbox.schema())
        .connect_lazy()?;
    store.migrate().await?;
    Ok(store)
}

/// A session that is in the cache by now.
async fn warm(sessions: &Sessions) -> Result<Created, Error> {
    let warm = sessions
        .create(NewSession::new("warm").data("a session's data"))
        .await?;
    while sessions.metrics().hits == 0 {
        let Validation::Valid(_) = sessions.validate(warm.token.reveal()).await else {
            return Err("the session to be measured is not valid".into());
        };
    }
    Ok(warm)
}

/// The median of a benchmark of this run, in nanoseconds, as criterion stored it.
#[must_use]
pub fn median(group: &str, name: &str) -> Option<f64> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let file = target
        .join("criterion")
        .join(group)
        .join(name)
        .join("new/estimates.json");
    let estimates: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}
