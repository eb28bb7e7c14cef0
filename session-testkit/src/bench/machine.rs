//! Where something was measured: figures mean nothing without it.

use std::fmt;

use serde::Serialize;

/// Where something was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// As in `linux x86_64`.
    pub platform: String,
    /// Processes that were running or waiting to, averaged over the last minute, when the measuring
    /// began; `null` where nobody says it.
    pub load_average: Option<f64>,
    /// `debug` (times are not those of a service) or `release`.
    pub build: &'static str,
    /// As in `7.0.15, native`: its version, and what runs it.
    pub redis: String,
    /// The same of Postgres.
    pub postgres: String,
}

impl Machine {
    /// This one, with what is known of the servers.
    pub(super) fn this(redis: String, postgres: String) -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            load_average: load.and_then(|load| load.split(' ').next()?.parse().ok()),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            redis,
            postgres,
        }
    }

    pub(crate) fn is_debug(&self) -> bool {
        self.build == "debug"
    }

    /// Whether there was more to do than cores to do it.
    pub(crate) fn is_busy(&self) -> bool {
        let cores = u32::try_from(self.cores).unwrap_or(u32::MAX);
        self.load_average
            .is_some_and(|load| load > f64::from(cores))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} cores", self.platform, self.cores)?;
        if let Some(load) = self.load_average {
            write!(f, " (load {load:.1})")?;
        }
        let Self {
            build,
            redis,
            postgres,
            ..
        } = self;
        write!(f, ", {build} build; Redis {redis}; Postgres {postgres}")
    }
}
