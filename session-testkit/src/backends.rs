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

mod docker;
mod error;
mod kind;
mod native;
mod postgres;
mod redis;
mod sandbox;
mod server;
mod supervisor;

use std::{env, fmt, str::FromStr};

pub use self::{
    error::{BackendError, Cause, Tried},
    kind::Kind,
    postgres::Postgres,
    redis::Redis,
    sandbox::Sandbox,
    server::{PauseGuard, PostgresServer, RedisServer, Server},
};
pub(crate) use self::error::chain;
use self::{docker::Container, native::Process, server::Host};

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

/// What to start, and how.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), session_testkit::backends::BackendError> {
/// use session_testkit::backends::{Backend, Backends};
///
/// let redis = Backends::builder()
///     .backend(Backend::Native)
///     .redis_args(["--timeout", "1"])
///     .start_redis()
///     .await?;
/// redis.kill().await?;
/// redis.restart().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is started before `start`"]
pub struct BackendsBuilder {
    own: bool,
    backend: Option<Backend>,
    destructive: bool,
    redis: Wanted,
    postgres: Wanted,
}

/// What was said about one of the servers.
#[derive(Clone, Debug, Default)]
struct Wanted {
    given: Option<String>,
    arguments: Vec<String>,
}

impl BackendsBuilder {
    /// Never takes a given server. Defaults to taking it.
    pub fn own(mut self) -> Self {
        self.own = true;
        self
    }

    /// Starts servers of one's own on this backend and no other, whatever the environment says.
    /// Defaults to the first that works.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.own = true;
        self.backend = Some(backend);
        self
    }

    /// Takes the Redis at this URL, whatever the environment or [`own`](Self::own) say.
    pub fn redis_url(mut self, url: impl Into<String>) -> Self {
        self.redis.given = Some(url.into());
        self
    }

    /// Takes the Postgres at this URL, whatever the environment or [`own`](Self::own) say.
    pub fn database_url(mut self, url: impl Into<String>) -> Self {
        self.postgres.given = Some(url.into());
        self
    }

    /// Permits commands that do damage (FLUSHALL, CONFIG SET, REPLICAOF) on given servers too.
    /// Defaults to refusing them there. Kill and pause need a server of one's own in any case.
    pub fn allow_destructive(mut self) -> Self {
        self.destructive = true;
        self
    }

    /// Adds arguments of `redis-server`, as in `["--timeout", "1"]`; of no effect on a given one.
    pub fn redis_args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.redis.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds settings of Postgres, as in `["max_connections=20"]`; of no effect on a given one.
    pub fn postgres_settings<S: Into<String>>(mut self, settings: impl IntoIterator<Item = S>) -> Self {
        self.postgres.arguments.extend(postgres::settings(settings));
        self
    }

    /// Both servers, started side by side.
    ///
    /// # Errors
    ///
    /// As [`Backends::start`].
    pub async fn start(self) -> Result<Backends, BackendError> {
        let (redis, postgres) = tokio::try_join!(
            self.get::<Redis>(&self.redis),
            self.get::<Postgres>(&self.postgres)
        )?;
        Ok(Backends { redis, postgres })
    }

    /// A Redis alone.
    ///
    /// # Errors
    ///
    /// As [`Backends::start`].
    pub async fn start_redis(self) -> Result<RedisServer, BackendError> {
        self.get::<Redis>(&self.redis).await
    }

    /// A Postgres alone.
    ///
    /// # Errors
    ///
    /// As [`Backends::start`].
    pub async fn start_postgres(self) -> Result<PostgresServer, BackendError> {
        self.get::<Postgres>(&self.postgres).await
    }

    async fn get<K: Kind>(&self, wanted: &Wanted) -> Result<Server<K>, BackendError> {
        let environment = || (!self.own).then(|| given(K::URL_VARIABLE)).flatten();
        if let Some(url) = wanted.given.clone().or_else(environment) {
            return Server::external(&url, self.destructive).await;
        }
        let extra = wanted.arguments.as_slice();
        let forced = match self.backend {
            Some(backend) => Some(backend),
            None => Backend::from_env()?,
        };
        let candidates = Backend::ALL
            .into_iter()
            .filter(|backend| forced.is_none_or(|forced| forced == *backend));
        let mut tried = Tried::default();
        for backend in candidates {
            let why = match backend {
                Backend::Docker => match docker::image::<K>().await {
                    Ok(image) => match in_docker(&image, extra).await {
                        Ok(server) => return Ok(server),
                        // Engines without the rights to run a container exist: try the next.
                        Err(error) if forced.is_none() => {
                            tracing::warn!(error = chain(&error), "Docker could not start {}", K::NAME);
                            chain(&error)
                        }
                        Err(error) => return Err(error),
                    },
                    Err(why) => why,
                },
                Backend::Native => match K::find() {
                    Ok(_) => return natively(extra).await,
                    Err(why) => why,
                },
            };
            tried.push(backend, why);
        }
        Err(BackendError::NoBackend {
            server: K::NAME,
            tried,
            help: K::HELP,
        })
    }
}

async fn in_docker<K: Kind>(image: &str, extra: &[String]) -> Result<Server<K>, BackendError> {
    let container = Container::start::<K>(image, extra).await?;
    let address = container.address().to_owned();
    Server::started(&address, Host::Docker(Box::new(container))).await
}

async fn natively<K: Kind>(extra: &[String]) -> Result<Server<K>, BackendError> {
    let mut tries = 0;
    loop {
        let program = K::find().map_err(|why| {
            let mut tried = Tried::default();
            tried.push(Backend::Native, why);
            BackendError::NoBackend {
                server: K::NAME,
                tried,
                help: K::HELP,
            }
        })?;
        let port = native::free_port()?;
        let process = Process::start::<K>(program, port, extra).await?;
        match Server::started(&format!("127.0.0.1:{port}"), Host::Native(process)).await {
            // Another process took the port between our look and the server's.
            Err(BackendError::Exited { logs, .. })
                if tries < 3 && logs.iter().any(|line| line.contains("ddress already in use")) =>
            {
                tries += 1;
            }
            result => return result,
        }
    }
}

/// The URL that an environment variable gives; an empty one gives none.
fn given(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|url| !url.is_empty())
}
