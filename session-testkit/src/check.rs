//! The connection test: looks at a deployment, step by step, and changes nothing but a key of its
//! own.
//!
//! Every step ends within [`DEADLINE`], also where a server accepts connections and never answers.
//! What a step says holds no secret: URLs are shown without password and parameters.

mod postgres;
mod redis;
mod role;
mod steps;

use std::{fmt, time::Duration};

use serde::Serialize;

pub(crate) use self::steps::Finding;
use self::steps::Steps;

/// How long one step may take.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// What to look at.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Target {
    /// `redis://…` or `rediss://…`; none is the in-process cache.
    pub redis_url: Option<String>,
    /// `postgres://…` or `sqlite:…`; none is the embedded file.
    pub database_url: Option<String>,
    /// The prefix of every key. Defaults to `session-layer`.
    pub namespace: String,
    /// The Postgres schema of session-layer's tables. Defaults to `session_layer`.
    pub schema: String,
    /// How many Redis connections the application opens at most. Defaults to 10.
    pub pool_size: u16,
    /// These addresses are all that the application gets, rather than what somebody picked out of it to
    /// look at: a combination that it refuses to start with is a failure then. Defaults to false.
    pub complete: bool,
}

impl Target {
    /// These servers, and for the rest the application's defaults.
    #[must_use]
    pub fn new(redis_url: Option<String>, database_url: Option<String>) -> Self {
        Self {
            redis_url,
            database_url,
            namespace: "session-layer".to_owned(),
            schema: "session_layer".to_owned(),
            pool_size: 10,
            complete: false,
        }
    }

    /// Sets the prefix of every key.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the Postgres schema.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets how many Redis connections the application opens.
    #[must_use]
    pub fn pool_size(mut self, connections: u16) -> Self {
        self.pool_size = connections;
        self
    }

    /// Says that these addresses are all that the application gets.
    #[must_use]
    pub fn complete(mut self, complete: bool) -> Self {
        self.complete = complete;
        self
    }

    /// The application refuses to start with these addresses.
    fn refused(&self, message: &str, why: &str, remedy: &str) -> Finding {
        if self.complete {
            Finding::failed(message, why, remedy)
        } else {
            Finding::warning(message, why, remedy)
        }
    }

    fn on_postgres(&self) -> bool {
        let url = self.database_url.as_deref().unwrap_or_default();
        url.starts_with("postgres://") || url.starts_with("postgresql://")
    }
}

/// How a step went, or a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// There was nothing to look at.
    Skipped,
    /// As it should be.
    Ok,
    /// It works, and something is lost: the step says what.
    Warning,
    /// It does not work.
    Failed,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// Its name for programs: `connect`, `ping`, `set`, …
    pub step: &'static str,
    /// How it went.
    pub status: Status,
    /// One line for people.
    pub message: String,
    /// Why it failed.
    pub why: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// All steps for one server.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ServerReport {
    /// `redis` or `postgres`.
    pub server: &'static str,
    /// Where it is, without secrets; none if none is configured.
    pub url: Option<String>,
    /// The worst of its steps.
    pub status: Status,
    /// In the order in which they were taken; those after a fatal one are missing.
    pub steps: Vec<Step>,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Whether no step failed.
    pub ok: bool,
    /// Redis, then Postgres.
    pub servers: Vec<ServerReport>,
}

/// What is told while it goes on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// The heading of a server's steps.
    Begin(&'a str),
    /// A step was taken.
    Step(&'a Step),
}

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(heading) => f.write_str(heading),
            Self::Step(step) => step.fmt(f),
        }
    }
}

impl Status {
    /// For people, two columns wide.
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Self::Ok => "✅",
            Self::Warning => "⚠️ ",
            Self::Failed => "❌",
            Self::Skipped => "➖",
        }
    }
}

/// A line, and what is to be said below it where not all is well.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.sign(), self.message)?;
        if let Some(why) = &self.why {
            write!(f, "\n   why: {why}")?;
        }
        if let Some(help) = &self.help {
            for line in help.lines() {
                write!(f, "\n   → {line}")?;
            }
        }
        Ok(())
    }
}

/// Looks at both servers, one after the other, and tells of each step as it is taken.
pub async fn check(target: &Target, mut tell: impl FnMut(Progress<'_>)) -> Report {
    let servers = vec![
        redis::check(target, &mut tell).await,
        postgres::check(target, &mut tell).await,
    ];
    Report {
        ok: servers.iter().all(|server| server.status != Status::Failed),
        servers,
    }
}
