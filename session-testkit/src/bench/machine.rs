//! The machine and the servers of a measurement or a fault run.

use std::fmt;

use serde::Serialize;

use crate::backends::{BackendError, Backends, Kind, Server};

/// The machine and the servers of a measurement or a fault run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Machine {
    /// The number of cores that this process may use.
    pub cores: usize,
    /// The platform, such as `linux x86_64`.
    pub platform: String,
    /// The load average over the last minute when the measurement began. `null` if it is unknown.
    pub load_average: Option<f64>,
    /// The build, `debug` (slower than a service) or `release`.
    pub build: &'static str,
    /// The version and backend of Redis, such as `7.0.15, native`.
    pub redis: String,
    /// The version and backend of Postgres.
    pub postgres: String,
}

impl Machine {
    /// Returns this machine, with the versions of these servers.
    ///
    /// # Errors
    /// [`BackendError`] if a server does not respond.
    pub async fn of(backends: &Backends) -> Result<Self, BackendError> {
        let mut redis = backends.redis().connect().await?;
        let info: String = redis::cmd("INFO")
            .arg("server")
            .query_async(&mut redis)
            .await
            // INFO may be denied, and only the version needs it.
            .unwrap_or_default();
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        let redis = described(version.unwrap_or("of unknown version"), backends.redis());

        let mut postgres = backends.postgres().connect().await?;
        let version = sqlx::query_scalar("SHOW server_version").fetch_one(&mut postgres).await;
        let version: String =
            version.map_err(BackendError::failed("read the version of Postgres"))?;
        // "15.18 (Debian …)"
        let version = version.split(' ').next().unwrap_or_default();
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            load_average: load.and_then(|load| load.split(' ').next()?.parse().ok()),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            redis,
            postgres: described(version, backends.postgres()),
        })
    }

    pub(crate) fn is_debug(&self) -> bool {
        self.build == "debug"
    }

    /// Returns whether the load exceeded the number of cores.
    pub(crate) fn is_busy(&self) -> bool {
        let cores = u32::try_from(self.cores).unwrap_or(u32::MAX);
        self.load_average.is_some_and(|load| load > f64::from(cores))
    }
}

fn described<K: Kind>(version: &str, server: &Server<K>) -> String {
    format!("{version}, {}", server.backend_name())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} cores", self.platform, self.cores)?;
        if let Some(load) = self.load_average {
            write!(f, " (load {load:.1})")?;
        }
        let Self { build, redis, postgres, .. } = self;
        write!(f, ", {build} build. Redis {redis}. Postgres {postgres}")
    }
}
