//! What can go wrong with a server under test, and what to do about it.

use std::{fmt, io, time::Duration};

use super::Backend;

/// The cause of an error, from whichever library noticed it.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A server under test could not be started, reached or broken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No way was found to get a server.
    #[error("no {server} to test with{tried}\n{help}")]
    NoBackend {
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// What was tried, and why it was not to be had.
        tried: Tried,
        /// The one command that helps.
        help: &'static str,
    },

    /// An environment variable holds something that it may not.
    #[error("{variable} is `{value}`, and may be {allowed}")]
    BadVariable {
        /// Its name.
        variable: &'static str,
        /// What it held.
        value: String,
        /// What it may hold.
        allowed: &'static str,
    },

    /// What is said to be a server's URL is none.
    #[error("what names {server} is no URL with a host; one looks like {example}")]
    BadUrl {
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// One that could be.
        example: &'static str,
    },

    /// A server did not answer before its deadline.
    #[error("{server} was not ready within {waited:?} ({address}){}", indented(.logs))]
    NotReady {
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// Where it should have answered.
        address: String,
        /// How long it was waited for.
        waited: Duration,
        /// The last lines that it logged.
        logs: Vec<String>,
        /// What the last attempt ended with.
        #[source]
        source: Option<Cause>,
    },

    /// A server ended by itself while it was being started.
    #[error("{server} ended while it was being started{}", indented(.logs))]
    Exited {
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// The last lines that it logged.
        logs: Vec<String>,
    },

    /// The server was not started by this process, so there is nothing to signal.
    #[error(
        "cannot {action} {server} at {address}: it was not started by the testkit; \
         use `Backends::start_own()` for tests that break a server"
    )]
    NotOurs {
        /// `kill`, `pause`, …
        action: &'static str,
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// Where it is.
        address: String,
    },

    /// Only a container has a network that it can leave.
    #[error(
        "cannot disconnect {server}: it is a process of this machine; \
         a proxy with `Toxic::hold` in front of it looks the same to clients"
    )]
    NoNetwork {
        /// `Redis` or `Postgres`.
        server: &'static str,
    },

    /// A command would change a server that others may be using.
    #[error(
        "refused to {action} {server} at {address}: it was not started by the testkit; \
         `allow_destructive()` permits it, `Backends::start_own()` avoids the question"
    )]
    NotAllowed {
        /// `flush`, `configure`, …
        action: &'static str,
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// Where it is.
        address: String,
    },

    /// The operating system refused something.
    #[error("could not {action}")]
    Io {
        /// What was being done.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// The Docker engine refused something.
    #[error("Docker could not {action}")]
    Docker {
        /// What was being done.
        action: String,
        /// Why it failed.
        #[source]
        source: Cause,
    },

    /// Redis refused a command.
    #[error("Redis refused to {action}")]
    Redis {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: redis::RedisError,
    },

    /// Postgres refused a statement.
    #[error("Postgres refused to {action}")]
    Postgres {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },

    /// A command took longer than its deadline.
    #[error("{server} did not {action} within {waited:?}")]
    Deadline {
        /// What was being done.
        action: &'static str,
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
}

impl BackendError {
    /// For use with `map_err` where the operating system refuses something.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// For use with `map_err` where the Docker engine refuses something.
    pub(crate) fn docker<E: Into<Cause>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Docker {
            action,
            source: source.into(),
        }
    }
}

/// The backends that were tried, each with the reason why it was not to be had.
#[derive(Debug, Default)]
pub struct Tried(Vec<(Backend, String)>);

impl Tried {
    pub(crate) fn push(&mut self, backend: Backend, why: impl Into<String>) {
        self.0.push((backend, why.into()));
    }

    /// The backends in the order in which they were tried.
    pub fn iter(&self) -> impl Iterator<Item = (Backend, &str)> {
        self.0.iter().map(|(backend, why)| (*backend, why.as_str()))
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (backend, why) in &self.0 {
            write!(f, "\n  {backend}: {why}")?;
        }
        Ok(())
    }
}

/// An error with all of its causes on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many libraries print their cause themselves.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn indented(lines: &[String]) -> String {
    lines
        .iter()
        .fold(String::new(), |text, line| text + "\n  | " + line)
}
