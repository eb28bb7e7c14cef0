//! Which servers a command that makes load uses: its own, unless others are named.

use std::process::ExitCode;

use super::could_not_run;
use crate::backends::{BackendError, Backends, BackendsBuilder};

/// The arguments by which servers are named. The application's own environment (`REDIS_URL`,
/// `DATABASE_URL`) never makes them a target.
#[derive(Debug, clap::Args)]
pub(super) struct Servers {
    /// The Redis to use, instead of one that is started for this and stopped afterwards.
    #[arg(
        long,
        env = "SESSION_TESTKIT_REDIS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    redis_url: Option<String>,

    /// The Postgres to use, instead of one that is started for this and stopped afterwards.
    #[arg(
        long,
        env = "SESSION_TESTKIT_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    database_url: Option<String>,

    /// Allow what does damage (FLUSHALL, CONFIG SET, …) on servers that were named, too. It is taken back at the
    /// end, also after SIGINT and SIGTERM; after SIGKILL it stays.
    #[arg(long)]
    pub(super) destructive: bool,
}

impl Servers {
    /// What to start or take; a command may add to it.
    pub(super) fn builder(&self) -> BackendsBuilder {
        let mut builder = Backends::builder();
        // Set to nothing is as good as not set.
        if let Some(url) = self.redis_url.as_ref().filter(|url| !url.is_empty()) {
            builder = builder.redis_url(url);
        }
        if let Some(url) = self.database_url.as_ref().filter(|url| !url.is_empty()) {
            builder = builder.database_url(url);
        }
        if self.destructive {
            builder = builder.allow_destructive();
        }
        builder
    }

    /// Starts or takes them.
    pub(super) async fn start(&self) -> Result<Backends, BackendError> {
        self.builder().start().await
    }
}

/// [`could_not_run`], and what to do where a server was named that does not answer.
pub(super) fn not_there(error: &BackendError) -> ExitCode {
    let code = could_not_run(error);
    if matches!(error, BackendError::NotReady { .. }) {
        eprintln!(
            "  → `session-testkit check` with the same addresses (--redis-url, --database-url) says which step fails, and why"
        );
    }
    code
}
