//! The servers of a command that makes load. They are its own unless others are named.

use crate::backends::{Backend, BackendError, Backends, BackendsBuilder};

/// The arguments that name servers.
///
/// The application's own environment (`REDIS_URL`, `DATABASE_URL`) never names a target.
#[derive(clap::Args)]
pub(super) struct Servers {
    /// The Redis to use, instead of one that the command starts and stops.
    #[arg(long, env = "SESSION_TESTKIT_REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Option<String>,

    /// The Postgres to use, instead of one that the command starts and stops.
    #[arg(long, env = "SESSION_TESTKIT_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,

    /// Allow commands that do damage (FLUSHALL, CONFIG SET, …) on named servers too. The command
    /// reverts settings at its end, also after SIGINT and SIGTERM, but not after SIGKILL.
    #[arg(long)]
    pub(super) destructive: bool,
}

impl Servers {
    /// Starts the servers, or connects to the named ones.
    pub(super) async fn start(&self) -> Result<Backends, BackendError> {
        self.builder().start().await
    }

    /// As [`start`](Self::start), and starts native ones only.
    pub(super) async fn start_native(&self) -> Result<Backends, BackendError> {
        self.builder().backend(Backend::Native).start().await
    }

    fn builder(&self) -> BackendsBuilder {
        let mut builder = Backends::builder();
        // An empty variable counts as not set.
        let named = |url: &Option<String>| url.clone().filter(|url| !url.trim().is_empty());
        if let Some(url) = named(&self.redis_url) {
            builder = builder.redis_url(url);
        }
        if let Some(url) = named(&self.database_url) {
            builder = builder.database_url(url);
        }
        if self.destructive {
            builder = builder.allow_destructive();
        }
        builder
    }
}
