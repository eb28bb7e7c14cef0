//! The connection test, which inspects a deployment step by step and changes only its own key.
//!
//! Every step ends within [`DEADLINE`], also if a server accepts connections and never responds. No
//! step contains a secret. A URL is shown as its scheme, host and port, and a text that is not a
//! usable URL is not shown at all.

mod postgres;
mod redis;
mod role;
mod steps;

use std::{fmt, time::Duration};

use serde::Serialize;
use session_layer::ConfigError;
use session_layer::environment::EnvSettings;
use session_layer::error::ServerUrlError;
use session_layer::server_url::{ServerKind, ServerUrl};

use self::steps::Problem;
pub use self::steps::{Finding, Steps, Stop, millis};

/// The limit of one step.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// The deployment to check.
#[derive(Clone, Debug)]
pub struct Target {
    redis: Option<Result<ServerUrl, ServerUrlError>>,
    database: Database,
    /// The prefix of every key. Defaults to `session-layer`.
    pub namespace: String,
    /// The Postgres schema of session-layer's tables. Defaults to `session_layer`.
    pub schema: String,
    /// The maximum number of Redis connections that the application opens. Defaults to 10.
    pub pool_size: u16,
    /// Whether the application gets exactly these addresses. A combination with which it does not
    /// start is then a failure, otherwise a warning. Defaults to false.
    pub complete: bool,
    /// Whether the settings beside the addresses come from the application's environment. Defaults
    /// to false.
    pub from_env: bool,
}

impl Target {
    /// Creates a target with these servers and the application's defaults.
    ///
    /// `redis_url` is `redis://…` or `rediss://…`, or `None` for the in-process cache.
    /// `database_url` is `postgres://…` or `sqlite:…`, or `None` for the embedded file.
    #[must_use]
    pub fn new(redis_url: Option<&str>, database_url: Option<&str>) -> Self {
        let is_sqlite = |url: &str| {
            let scheme = url.trim().split(':').next();
            scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("sqlite"))
        };
        Self {
            redis: redis_url.map(str::parse),
            database: match database_url {
                None => Database::Unset,
                Some(url) if is_sqlite(url) => Database::Sqlite,
                Some(url) => Database::Postgres(url.parse()),
            },
            namespace: "session-layer".to_owned(),
            schema: "session_layer".to_owned(),
            pool_size: 10,
            complete: false,
            from_env: false,
        }
    }

    /// Returns the finding for addresses with which the application does not start.
    fn unusable(&self, message: &str, why: &str, remedy: &str) -> Finding {
        if self.complete {
            Finding::failed(message, why, remedy)
        } else {
            Finding::warning(message, why, remedy)
        }
    }

    /// Returns whether the target names neither a Redis nor a database.
    pub fn is_empty(&self) -> bool {
        self.redis.is_none() && matches!(self.database, Database::Unset)
    }

    /// Returns the settings of the application's handle, if its environment is known.
    fn handle(&self) -> Result<Option<EnvSettings>, ConfigError> {
        self.from_env.then(EnvSettings::read).transpose()
    }

    fn on_postgres(&self) -> bool {
        matches!(&self.database, Database::Postgres(Ok(url)) if url.kind() == ServerKind::Postgres)
    }
}

/// The database of the sessions.
#[derive(Clone, Debug)]
enum Database {
    /// No URL. The application uses its SQLite file.
    Unset,
    /// A `sqlite:PATH` URL.
    Sqlite,
    Postgres(Result<ServerUrl, ServerUrlError>),
}

/// The result of a step or of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// There was nothing to check.
    Skipped,
    /// The step found no problem.
    Ok,
    /// The step works with a limitation, which it states.
    Warning,
    /// The step failed.
    Failed,
}

/// All steps for one server.
#[derive(Clone, Debug, Serialize)]
pub struct ServerReport {
    /// `redis` or `postgres`.
    pub server: &'static str,
    /// The scheme, host and port. `None` without a usable URL.
    pub url: Option<String>,
    /// The worst result of the steps.
    pub status: Status,
    /// The executed steps. The steps after a fatal one are missing.
    pub steps: Vec<Finding>,
}

impl ServerReport {
    fn new(server: &'static str, url: Option<&ServerUrl>, steps: Steps<'_>) -> Self {
        let (url, status) = (url.map(ServerUrl::to_string), steps.status());
        Self { server, url, status, steps: steps.taken }
    }
}

/// The result of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether no step failed.
    pub ok: bool,
    /// The reports on Redis and then Postgres.
    pub servers: Vec<ServerReport>,
}

impl Status {
    /// Returns a symbol for readers, two columns wide.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Ok => "✅",
            Self::Warning => "⚠️ ",
            Self::Failed => "❌",
            Self::Skipped => "➖",
        }
    }
}

/// Returns the settings in effect. The `Debug` of a builder shows no secret.
fn settings(whose: &str, builder: &impl fmt::Debug) -> Finding {
    let text = format!("{builder:?}");
    let (_, fields) = text.split_once(" { ").unwrap_or(("", &text));
    Finding::ok(format!("{whose} in effect: {}", fields.strip_suffix(" }").unwrap_or(fields)))
}

/// Checks both servers one after the other, and shows a heading for each and every step.
pub async fn check(target: &Target, mut show: impl FnMut(&dyn fmt::Display)) -> Report {
    show(&"[RedisConnection] Testing Redis connectivity...");
    let mut show_step = |step: &Finding| show(step);
    let mut steps = Steps::new(&mut show_step);
    redis::check(target, &mut steps).await;
    let redis = ServerReport::new("redis", redis::url(target), steps);

    show(&"\n[PostgresConnection] Testing Postgres connectivity...");
    let mut show_step = |step: &Finding| show(step);
    let mut steps = Steps::new(&mut show_step);
    postgres::check(target, &mut steps).await;
    let postgres = ServerReport::new("postgres", postgres::url(target), steps);

    let servers = vec![redis, postgres];
    Report { ok: servers.iter().all(|server| server.status != Status::Failed), servers }
}
