//! The real servers: started, broken on purpose, and gone when their guard is.
//!
//! [`Backends::start`] gets each of the two servers in the first of these ways that works:
//!
//! 1. **given**: `SESSION_TESTKIT_REDIS_URL`, `SESSION_TESTKIT_DATABASE_URL` name it;
//! 2. **Docker**: the engine answers, and has the image or can pull it;
//! 3. **native**: `redis-server` or `valkey-server`, `postgres`, as processes of this machine;
//!
//! and else fails with what was tried and the one command that helps. `SESSION_TESTKIT_BACKEND`
//! (`docker` or `native`) leaves out the others for servers that are started.
//!
//! Tests that only use a server share one pair, each in a [`Sandbox`]; tests that break a server
//! start their own with [`Backends::start_own`]. A given server belongs to somebody: it can't be
//! killed or paused, and commands that do damage are refused unless allowed by name.

mod builder;
mod docker;
mod error;
mod kind;
mod native;
mod pause;
mod postgres;
mod redis;
mod sandbox;
mod server;
mod supervisor;

use std::{env, fmt, str::FromStr};

pub(crate) use self::error::chain;
use self::kind::Recipe as _;
pub use self::{
    builder::BackendsBuilder,
    error::{BackendError, Cause, Tried},
    kind::Kind,
    pause::PauseGuard,
    postgres::Postgres,
    redis::Redis,
    sandbox::Sandbox,
    server::{PostgresServer, RedisServer, Server},
};

/// What runs a server that we start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Containers.
    Docker,
    /// Processes of this machine.
    Native,
}

/// The environment variable that forces a backend.
pub const BACKEND_VARIABLE: &str = "SESSION_TESTKIT_BACKEND";

impl Backend {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Native];

    /// Why this backend can't start both servers; `None` if it can.
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
            Self::Docker => docker::missing::<K>().await,
            Self::Native => K::find().err(),
        }
    }

    /// The variables in which `session-testkit run --all-backends` names this backend's pair:
    /// the Redis, the Postgres.
    #[must_use]
    pub fn url_variables(self) -> (&'static str, &'static str) {
        match self {
            Self::Docker => (
                "SESSION_TESTKIT_DOCKER_REDIS_URL",
                "SESSION_TESTKIT_DOCKER_DATABASE_URL",
            ),
            Self::Native => (
                "SESSION_TESTKIT_NATIVE_REDIS_URL",
                "SESSION_TESTKIT_NATIVE_DATABASE_URL",
            ),
        }
    }

    /// The pair that `session-testkit run` has started on this backend, if we run under it.
    fn provided(self) -> Option<(String, String)> {
        let (redis, postgres) = self.url_variables();
        let of_all = || Some((given(redis)?, given(postgres)?));
        let of_one = || {
            let ours = Self::from_env().ok().flatten() == Some(self);
            let pair = || Some((given(Redis::URL_VARIABLE)?, given(Postgres::URL_VARIABLE)?));
            ours.then(pair).flatten()
        };
        of_all().or_else(of_one)
    }

    /// The one that `SESSION_TESTKIT_BACKEND` names.
    ///
    /// # Errors
    ///
    /// [`BackendError::BadVariable`] if it names something else.
    pub fn from_env() -> Result<Option<Self>, BackendError> {
        match env::var(BACKEND_VARIABLE) {
            Ok(name) if !name.is_empty() => match name.parse() {
                Ok(backend) => Ok(Some(backend)),
                Err(UnknownBackend) => Err(BackendError::BadVariable {
                    variable: BACKEND_VARIABLE,
                    value: name,
                    allowed: "`docker` or `native`",
                }),
            },
            _ => Ok(None),
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

/// Neither `docker` nor `native`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a backend is `docker` or `native`")]
pub struct UnknownBackend;

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, UnknownBackend> {
        Self::ALL
            .into_iter()
            .find(|backend| backend.to_string() == name)
            .ok_or(UnknownBackend)
    }
}

/// A Redis and a Postgres. When this guard is dropped, what was started is gone.
#[derive(Debug)]
pub struct Backends {
    redis: RedisServer,
    postgres: PostgresServer,
}

impl Backends {
    /// Given servers, else started ones.
    ///
    /// # Errors
    ///
    /// [`BackendError::NoBackend`] if there are none; others if they do not start or answer.
    pub async fn start() -> Result<Self, BackendError> {
        Self::builder().start().await
    }

    /// Started servers, also where others are given: for tests that break them.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_own() -> Result<Self, BackendError> {
        Self::builder().own().start().await
    }

    /// A pair on this backend that others may be using too: the one that `session-testkit run` has
    /// started there, as given servers; elsewhere a started one.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn shared(backend: Backend) -> Result<Self, BackendError> {
        let builder = match backend.provided() {
            Some((redis, postgres)) => Self::builder().redis_url(redis).database_url(postgres),
            None => Self::builder().backend(backend),
        };
        builder.start().await
    }

    /// To say more about what to start.
    pub fn builder() -> BackendsBuilder {
        BackendsBuilder::default()
    }

    /// The Redis.
    #[must_use]
    pub fn redis(&self) -> &RedisServer {
        &self.redis
    }

    /// The Postgres.
    #[must_use]
    pub fn postgres(&self) -> &PostgresServer {
        &self.postgres
    }

    /// A schema name and a key namespace of one's own on these servers.
    #[must_use]
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::new(&self.redis, &self.postgres)
    }
}

/// The URL that an environment variable gives; an empty one gives none.
fn given(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|url| !url.is_empty())
}
