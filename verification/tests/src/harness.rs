//! Servers for tests, and what a test returns.
//!
//! A test is an ordinary `#[tokio::test(flavor = "multi_thread", worker_threads = 2)]` function
//! that returns [`Outcome`].
//!
//! - [`shared`] returns a pair of servers that other tests use at the same time. The test works in
//!   a sandbox of its own, `backends.sandbox()`.
//! - [`default_backend`] is for a test that breaks servers, so it starts its own:
//!   `Backends::builder().backend(default_backend().await?)`.
//! - [`on_each_backend!`](crate::on_each_backend) is for a test whose subject depends on how a
//!   server was started or is broken. It makes two tests of a function, `native` and `docker`.
//!
//! A test fails by a panic, and `?` panics too ([`Failure`]). Servers print their last log lines
//! while the stack unwinds, and the message names the line. `.config/nextest.toml` has the deadline
//! of a test.

use std::env;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Weak};

use session_testkit::backends::{Backend, Backends};
use tokio::sync::Mutex;

pub use crate::on_each_backend;

/// The result of a test.
pub type Outcome = Result<(), Failure>;

/// The error of a test. It has no value: `?` panics when it converts an error.
#[derive(Debug)]
pub enum Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        let error = error.into();
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}\n  because: {cause}");
            source = cause.source();
        }
        panic!("{text}\n  at {}", Location::caller())
    }
}

/// Returns the backend of tests that do not depend on it: the one that `SESSION_TESTKIT_BACKEND`
/// names, otherwise native servers if this machine has them, otherwise Docker.
///
/// # Panics
///
/// If the variable names no backend.
pub async fn default_backend() -> Result<Backend, Failure> {
    Ok(match Backend::from_env()? {
        Some(backend) => backend,
        None if Backend::Native.missing().await.is_none() => Backend::Native,
        None => Backend::Docker,
    })
}

/// Returns a pair of servers that tests share: the pair of `session-testkit run`, or a pair that
/// the environment names, or one that this process starts and stops after its last test.
///
/// # Panics
///
/// If there are no servers: a test that did not run must not look as if it had passed.
pub async fn shared() -> Result<Arc<Backends>, Failure> {
    static PAIR: Mutex<Weak<Backends>> = Mutex::const_new(Weak::new());
    let mut pair = PAIR.lock().await;
    if let Some(running) = pair.upgrade() {
        return Ok(running);
    }
    let started = if are_given()? {
        Backends::start().await?
    } else {
        Backends::shared(default_backend().await?).await?
    };
    let started = Arc::new(started);
    *pair = Arc::downgrade(&started);
    Ok(started)
}

/// Returns whether the environment names servers without the backend that runs them.
fn are_given() -> Result<bool, Failure> {
    let is_set = |name| env::var(name).is_ok_and(|value| !value.is_empty());
    let by_run = Backend::from_env()?.is_some()
        || Backend::ALL.iter().any(|backend| is_set(backend.url_variables().0));
    Ok(!by_run && is_set("SESSION_TESTKIT_REDIS_URL") && is_set("SESSION_TESTKIT_DATABASE_URL"))
}

/// Runs a test on one backend. If the backend is missing, it prints why, and the test passes unless
/// `SESSION_TESTKIT_REQUIRE` names the backend.
///
/// # Errors
///
/// Those of the test.
///
/// # Panics
///
/// If a required backend is missing.
pub async fn on(backend: Backend, test: impl AsyncFnOnce(Backend) -> Outcome) -> Outcome {
    let Some(why) = backend.missing().await else {
        return test(backend).await;
    };
    let required = env::var("SESSION_TESTKIT_REQUIRE").unwrap_or_default();
    for name in required.split(',').filter(|name| !name.is_empty()) {
        assert_ne!(name.parse::<Backend>()?, backend, "required, but missing: {why}");
    }
    eprintln!("not run with {backend}: {why}");
    Ok(())
}

/// Makes two tests of the function with this name, `name::native` and `name::docker`. The function
/// takes the [`Backend`].
#[macro_export]
macro_rules! on_each_backend {
    ($name:ident) => {
        mod $name {
            use session_testkit::backends::Backend;
            use $crate::harness::{Outcome, on};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn native() -> Outcome {
                on(Backend::Native, super::$name).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn docker() -> Outcome {
                on(Backend::Docker, super::$name).await
            }
        }
    };
}
