//! What to start, and how; and the order in which ways to get a server are tried.

use super::{
    Backend, Backends,
    docker::{self, Container},
    error::{BackendError, Tried, chain},
    given,
    kind::Kind,
    native::{self, Process},
    postgres::{self, Postgres},
    redis::Redis,
    server::{Host, PostgresServer, RedisServer, Server},
};

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
        self.redis
            .arguments
            .extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds settings of Postgres, as in `["max_connections=20"]`; of no effect on a given one.
    pub fn postgres_settings<S: Into<String>>(
        mut self,
        settings: impl IntoIterator<Item = S>,
    ) -> Self {
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
                            tracing::warn!(
                                error = chain(&error),
                                "Docker could not start {}",
                                K::NAME
                            );
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
                if tries < 3
                    && logs
                        .iter()
                        .any(|line| line.contains("ddress already in use")) =>
            {
                tries += 1;
            }
            result => return result,
        }
    }
}
