//! Errors of servers under test, with what to do about them.

use std::{fmt, io, time::Duration};

use super::Backend;

/// The cause of an error in another library.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The error of starting, reaching or breaking a server under test.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No way to get a server worked.
    #[error("no {server} to test with{tried}\n{help}")]
    NoBackend {
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// The tried ways, each with its reason.
        tried: Tried,
        /// The command that helps.
        help: &'static str,
    },

    /// An environment variable has a value that is not allowed.
    #[error("{variable} is `{value}`, but must be {allowed}")]
    BadVariable {
        /// The variable.
        variable: &'static str,
        /// The value.
        value: String,
        /// The allowed values.
        allowed: &'static str,
    },

    /// The URL of a given server is not usable. The error contains no part of it, because it may
    /// contain a password.
    #[error("the URL of {server} is not usable: {reason}. An example is {example}")]
    BadUrl {
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// The reason.
        reason: String,
        /// An example of a usable URL.
        example: &'static str,
    },

    /// A server did not respond before its deadline.
    #[error("{server} was not ready within {waited:?} ({address}){}", indented(.logs))]
    NotReady {
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// The expected address.
        address: String,
        /// The time waited.
        waited: Duration,
        /// The server's last log lines.
        logs: Vec<String>,
        /// The error of the last attempt.
        #[source]
        source: Option<Cause>,
    },

    /// A server ended while it started.
    #[error("{server} ended while it started{}", indented(.logs))]
    Exited {
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// The server's last log lines.
        logs: Vec<String>,
    },

    /// This process did not start the server, therefore it can't signal it.
    #[error(
        "cannot {action} {server} at {address}: the testkit did not start it. \
         Use `Backends::start_own()` for tests that break a server"
    )]
    NotOurs {
        /// The action, such as `kill` or `pause`.
        action: &'static str,
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// The server's address.
        address: String,
    },

    /// The server has no network to leave, because it is not in a container.
    #[error(
        "cannot disconnect {server}, because it is a process of this machine. \
         A proxy with `Toxic::hold` in front of it looks the same to clients"
    )]
    NoNetwork {
        /// `Redis` or `Postgres`.
        server: &'static str,
    },

    /// The command would change a server that others may be using.
    #[error(
        "did not {action} {server} at {address}, because the testkit did not start it. \
         Permit it with `allow_destructive()`, or use `Backends::start_own()`"
    )]
    NotAllowed {
        /// The action, such as `flush` or `configure`.
        action: &'static str,
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// The server's address.
        address: String,
    },

    /// The operating system returned an error.
    #[error("could not {action}")]
    Io {
        /// The failed action.
        action: String,
        /// The reason.
        #[source]
        source: io::Error,
    },

    /// The Docker engine returned an error.
    #[error("Docker could not {action}")]
    Docker {
        /// The failed action.
        action: String,
        /// The reason.
        #[source]
        source: Cause,
    },

    /// Redis rejected a command.
    #[error("Redis did not {action}")]
    Redis {
        /// The failed action.
        action: &'static str,
        /// The reason.
        #[source]
        source: redis::RedisError,
    },

    /// Postgres rejected a statement.
    #[error("Postgres did not {action}")]
    Postgres {
        /// The failed action.
        action: &'static str,
        /// The reason.
        #[source]
        source: sqlx::Error,
    },

    /// A command took longer than its deadline.
    #[error("{server} did not {action} within {waited:?}")]
    Deadline {
        /// The failed action.
        action: &'static str,
        /// `Redis` or `Postgres`.
        server: &'static str,
        /// The time waited.
        waited: Duration,
    },
}

impl BackendError {
    /// Converts an error of the operating system, for `map_err`.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// Converts an error of the Docker engine, for `map_err`.
    pub(crate) fn docker<E: Into<Cause>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Docker { action, source: source.into() }
    }
}

/// The tried backends, each with the reason why it was not available.
#[derive(Debug, Default)]
pub struct Tried(Vec<(Backend, String)>);

impl Tried {
    pub(crate) fn push(&mut self, backend: Backend, why: impl Into<String>) {
        self.0.push((backend, why.into()));
    }

    /// Iterates over the backends in the order of the attempts.
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

/// Formats an error with all its causes on one line.
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
    lines.iter().fold(String::new(), |text, line| text + "\n  | " + line)
}
