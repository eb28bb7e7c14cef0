//! The real servers. They are started, broken on purpose, and removed with their guard.
//!
//! [`Backends::start`] gets each of the two servers in the first of these ways that works:
//!
//! 1. **given**: `SESSION_TESTKIT_REDIS_URL` or `SESSION_TESTKIT_DATABASE_URL` names it.
//! 2. **Docker**: the engine responds, and has the image or can pull it.
//! 3. **native**: `redis-server`, `valkey-server` or `postgres` runs as a process of this machine.
//!    `SESSION_TESTKIT_REDIS_SERVER` may name the program of another version.
//!
//! If none works, the error lists the attempts and the command that helps.
//! `SESSION_TESTKIT_BACKEND` (`docker` or `native`) restricts started servers to one backend.
//!
//! Tests that only use a server share one pair, each in a [`Sandbox`]. Tests that break a server
//! start their own with [`Backends::start_own`]. A given server belongs to other users. It can't be
//! killed or paused, and commands that do damage need an explicit permission.

mod builder;
mod cluster;
#[cfg(feature = "docker")]
mod docker;
#[cfg(not(feature = "docker"))]
#[path = "backends/without_docker.rs"]
mod docker;
mod error;
mod kind;
mod native;
mod postgres;
mod redis;
mod sandbox;
mod sentinel;
mod server;
mod standby;
mod supervisor;
mod tls;

use std::{env, fmt, str::FromStr};

pub use self::{
    builder::BackendsBuilder,
    cluster::{Cluster, Mover},
    error::{BackendError, Cause},
    kind::Kind,
    postgres::Postgres,
    redis::Redis,
    sandbox::Sandbox,
    sentinel::{Sentinel, Sentinels},
    server::{PauseGuard, PostgresServer, RedisServer, Server},
};
pub(crate) use session_tools::chain;

/// The way to run a started server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Containers of the Docker engine.
    Docker,
    /// Processes of this machine.
    Native,
}

/// The environment variable that forces a backend.
pub(crate) const BACKEND_VARIABLE: &str = "SESSION_TESTKIT_BACKEND";

impl Backend {
    /// All backends in the order of preference.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Native];

    /// Returns why this backend can't start both servers, or `None` if it can.
    ///
    /// With Docker this may pull an image.
    pub async fn missing(self) -> Option<String> {
        if let Some(why) = self.missing_kind::<Redis>().await {
            return Some(format!("Redis: {why}"));
        }
        let why = self.missing_kind::<Postgres>().await?;
        Some(format!("Postgres: {why}"))
    }

    async fn missing_kind<K: Kind>(self) -> Option<String> {
        match self {
            Self::Docker => docker::image::<K>().await.err(),
            Self::Native => K::find().err(),
        }
    }

    /// Returns the variables that `run --all-backends` sets for this backend's Redis and Postgres.
    pub fn url_variables(self) -> (&'static str, &'static str) {
        match self {
            Self::Docker => {
                ("SESSION_TESTKIT_DOCKER_REDIS_URL", "SESSION_TESTKIT_DOCKER_DATABASE_URL")
            }
            Self::Native => {
                ("SESSION_TESTKIT_NATIVE_REDIS_URL", "SESSION_TESTKIT_NATIVE_DATABASE_URL")
            }
        }
    }

    /// Returns the pair that `session-testkit run` started on this backend, if we run under it.
    fn provided(self) -> Option<(String, String)> {
        let (redis, postgres) = self.url_variables();
        let pair = |redis, postgres| Some((given(redis)?, given(postgres)?));
        pair(redis, postgres).or_else(|| {
            let ours = Self::from_env().ok().flatten() == Some(self);
            ours.then(|| pair(Redis::URL_VARIABLE, Postgres::URL_VARIABLE)).flatten()
        })
    }

    /// Returns the backend that `SESSION_TESTKIT_BACKEND` names.
    ///
    /// # Errors
    /// [`BackendError::BadVariable`] if it names something else.
    pub fn from_env() -> Result<Option<Self>, BackendError> {
        match given(BACKEND_VARIABLE) {
            Some(name) => name.parse().map(Some).map_err(|_| BackendError::BadVariable(name)),
            None => Ok(None),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Native => "native",
        })
    }
}

/// The error of an unknown backend name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a backend is `docker` or `native`")]
pub struct UnknownBackend;

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, UnknownBackend> {
        Self::ALL.into_iter().find(|backend| backend.to_string() == name).ok_or(UnknownBackend)
    }
}

/// A Redis and a Postgres. Dropping this guard removes the started servers.
#[derive(Debug)]
pub struct Backends {
    redis: RedisServer,
    postgres: PostgresServer,
}

impl Backends {
    /// Connects to given servers, and starts those that are not given.
    ///
    /// # Errors
    /// [`BackendError::NoBackend`] if no way works. Other errors if a server does not start or
    /// respond.
    pub async fn start() -> Result<Self, BackendError> {
        Self::builder().start().await
    }

    /// Starts servers for tests that break them, even if others are given.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_own() -> Result<Self, BackendError> {
        Self::builder().own().start().await
    }

    /// Returns a pair on this backend that other tests may also use. It is the pair of
    /// `session-testkit run` if there is one, and a started pair otherwise.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn shared(backend: Backend) -> Result<Self, BackendError> {
        let builder = match backend.provided() {
            Some((redis, postgres)) => Self::builder().redis_url(redis).database_url(postgres),
            None => Self::builder().backend(backend),
        };
        builder.start().await
    }

    /// Creates a builder with further settings.
    pub fn builder() -> BackendsBuilder {
        BackendsBuilder::default()
    }

    /// Returns the Redis.
    pub fn redis(&self) -> &RedisServer {
        &self.redis
    }

    /// Returns the Postgres.
    pub fn postgres(&self) -> &PostgresServer {
        &self.postgres
    }

    /// Creates a new schema name and key namespace on these servers.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::new(&self.redis, &self.postgres)
    }
}

/// Returns the value of an environment variable. An empty variable counts as not set.
fn given(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.trim().is_empty())
}
