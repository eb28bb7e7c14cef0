//! Errors of servers under test, with what to do about them.

use std::time::Duration;

/// The cause of an error in another library.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The error of starting, reaching or breaking a server under test.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No way to get a server worked. The text names the tried backends, each with its reason, and
    /// the command that helps.
    #[error("no {0}")]
    NoBackend(String),

    /// `SESSION_TESTKIT_BACKEND` has a value that is not allowed.
    #[error("SESSION_TESTKIT_BACKEND is `{0}`, but must be `docker` or `native`")]
    BadVariable(String),

    /// The URL of a given server is not usable. The text contains no part of it, because it may
    /// contain a password.
    #[error("the URL of {0}")]
    BadUrl(String),

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
        "cannot {0}: the testkit did not start it. Use `Backends::start_own()` for tests that \
         break a server"
    )]
    NotOurs(String),

    /// The command would change a server that others may be using.
    #[error(
        "did not {0}, because the testkit did not start it. Permit it with `allow_destructive()`, \
         or use `Backends::start_own()`"
    )]
    NotAllowed(String),

    /// The operating system, the Docker engine or a server returned an error.
    #[error("could not {action}")]
    Failed {
        /// The failed action.
        action: String,
        /// The reason.
        #[source]
        source: Cause,
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
    /// Converts another library's error, for `map_err`.
    pub(crate) fn failed<E: Into<Cause>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Failed { action, source: source.into() }
    }
}

fn indented(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |text, line| text + "\n  | " + line)
}
