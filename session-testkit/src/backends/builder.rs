//! The settings of started servers, and the order of the ways to get a server.

use std::path::Path;

use session_layer::error::ServerUrlError;
use session_layer::server_url::ServerUrl;

use super::{
    Backend, Backends, chain,
    docker::{self, Container},
    error::BackendError,
    given,
    kind::{Kind, Prepare},
    native::{self, Process},
    postgres::{self, Postgres},
    redis::Redis,
    sentinel::Sentinel,
    server::{Host, PostgresServer, RedisServer, Server},
};

/// The settings of the servers.
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is started before `start`"]
pub struct BackendsBuilder {
    own: bool,
    backend: Option<Backend>,
    destructive: bool,
    redis: ServerSettings,
    postgres: ServerSettings,
}

/// The settings of one server.
#[derive(Clone, Debug, Default)]
struct ServerSettings {
    given: Option<Result<ServerUrl, ServerUrlError>>,
    arguments: Vec<String>,
}

impl BackendsBuilder {
    /// Starts own servers even if others are given. Defaults to false.
    pub fn own(mut self) -> Self {
        self.own = true;
        self
    }

    /// Starts own servers on this backend only. Defaults to the first backend that works.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.own = true;
        self.backend = Some(backend);
        self
    }

    /// Uses the Redis at this URL, regardless of the environment and of [`own`](Self::own).
    pub fn redis_url(mut self, url: impl AsRef<str>) -> Self {
        self.redis.given = Some(url.as_ref().parse());
        self
    }

    /// Uses the Postgres at this URL, regardless of the environment and of [`own`](Self::own).
    pub fn database_url(mut self, url: impl AsRef<str>) -> Self {
        self.postgres.given = Some(url.as_ref().parse());
        self
    }

    /// Permits commands that do damage (FLUSHALL, CONFIG SET, REPLICAOF) on given servers. Defaults
    /// to false. Kill and pause always need an own server.
    pub fn allow_destructive(mut self) -> Self {
        self.destructive = true;
        self
    }

    /// Adds arguments of `redis-server`, such as `["--timeout", "1"]`. A given server ignores them.
    pub fn redis_args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.redis.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds settings of Postgres, such as `["max_connections=20"]`. A given server ignores them.
    pub fn postgres_settings<S: Into<String>>(
        mut self,
        settings: impl IntoIterator<Item = S>,
    ) -> Self {
        self.postgres.arguments.extend(postgres::settings(settings));
        self
    }

    /// Starts both servers in parallel.
    ///
    /// # Errors
    /// As [`Backends::start`].
    pub async fn start(self) -> Result<Backends, BackendError> {
        let (redis, postgres) =
            tokio::try_join!(self.get::<Redis>(&self.redis), self.get::<Postgres>(&self.postgres))?;
        Ok(Backends { redis, postgres })
    }

    /// Starts only a Redis.
    ///
    /// # Errors
    /// As [`Backends::start`].
    pub async fn start_redis(self) -> Result<RedisServer, BackendError> {
        self.get::<Redis>(&self.redis).await
    }

    /// Starts only a Postgres.
    ///
    /// # Errors
    /// As [`Backends::start`].
    pub async fn start_postgres(self) -> Result<PostgresServer, BackendError> {
        self.get::<Postgres>(&self.postgres).await
    }

    /// Starts only a sentinel, which watches nothing yet.
    pub(super) async fn start_sentinel(self) -> Result<Server<Sentinel>, BackendError> {
        self.get::<Sentinel>(&ServerSettings::default()).await
    }

    async fn get<K: Kind>(&self, settings: &ServerSettings) -> Result<Server<K>, BackendError> {
        let environment = || if self.own { None } else { given(K::URL_VARIABLE) };
        let url = settings.given.clone().or_else(|| environment().map(|url| url.parse()));
        if let Some(url) = url {
            return Server::external(&url, self.destructive).await;
        }
        let extra = settings.arguments.as_slice();
        let forced = match self.backend {
            Some(backend) => Some(backend),
            None => Backend::from_env()?,
        };
        let mut tried = String::new();
        for backend in Backend::ALL {
            if forced.is_some_and(|forced| forced != backend) {
                continue;
            }
            let why = match backend {
                Backend::Docker => match docker::image::<K>().await {
                    Ok(image) => match in_docker(&image, extra).await {
                        // The engine may lack the right to run a container.
                        Err(error) if forced.is_none() => {
                            let error = chain(&error);
                            tracing::warn!(error, "Docker could not start {}", K::NAME);
                            error
                        }
                        result => return result,
                    },
                    Err(why) => why,
                },
                Backend::Native => match K::find() {
                    Ok(program) => {
                        let prepare = |data: &Path| K::prepare(&program, data);
                        return natively(&program, extra, &prepare).await;
                    }
                    Err(why) => why,
                },
            };
            tried += &format!("\n  {backend}: {why}");
        }
        let help = help(forced, K::HELP);
        Err(BackendError::NoBackend(format!("{} to test with{tried}\n{help}", K::NAME)))
    }
}

/// Returns what to do if no backend can be used. `native` is the advice for a native server, which
/// does not help if containers are demanded.
fn help(forced: Option<Backend>, native: &'static str) -> &'static str {
    match forced {
        Some(Backend::Docker) => {
            "start a Docker engine (or set DOCKER_HOST), or let another backend be used: unset \
             SESSION_TESTKIT_BACKEND"
        }
        Some(Backend::Native) | None => native,
    }
}

async fn in_docker<K: Kind>(image: &str, extra: &[String]) -> Result<Server<K>, BackendError> {
    let container = Container::start::<K>(image, extra).await?;
    let address = container.address().to_owned();
    Server::started(&address, Host::Docker(Box::new(container))).await
}

/// Starts a native server. `prepare` returns the command that fills its data directory.
pub(super) async fn natively<K: Kind>(
    program: &Path,
    extra: &[String],
    prepare: Prepare<'_>,
) -> Result<Server<K>, BackendError> {
    let mut tries = 0;
    loop {
        let port = native::free_port()?;
        let process = Process::start::<K>(program, port, extra, prepare).await?;
        match Server::started(&format!("127.0.0.1:{port}"), Host::Native(process)).await {
            // Another process took the port between our check and the server's start.
            Err(BackendError::Exited { logs, .. })
                if tries < 3 && logs.iter().any(|line| line.contains("ddress already in use")) =>
            {
                tries += 1;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_for_the_backend_that_was_demanded() {
        let native = "apt-get install redis-server";
        assert_eq!(help(None, native), native);
        assert_eq!(help(Some(Backend::Native), native), native);
        assert!(help(Some(Backend::Docker), native).starts_with("start a Docker engine"));
    }
}
