//! One check, and its failure.

use std::{fmt, future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::timeout;

/// The timeout of one operation of a port. Every port has its own deadlines, which are far shorter.
/// This timeout only distinguishes "late" from "never".
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The timeout of one check. No check needs more than 10 s if the port replies.
const CHECK: Duration = Duration::from_secs(60);

/// The maximum number of runs of a check that was too slow to prove anything.
const TRIES: u32 = 3;

/// The result of a check.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

type Run<P> = for<'a> fn(&'a P) -> BoxFuture<'a, Outcome>;

/// One demand on a port `P`.
pub struct Check<P> {
    group: &'static str,
    name: &'static str,
    demands: &'static str,
    run: Run<P>,
}

impl<P> Check<P> {
    pub(super) const fn new(
        group: &'static str,
        name: &'static str,
        demands: &'static str,
        run: Run<P>,
    ) -> Self {
        Self { group, name, demands, run }
    }

    /// Returns the group: `leases`, `journal`, …
    pub const fn group(&self) -> &'static str {
        self.group
    }

    /// Returns the name, unique among the checks of a port: `lapsed_lease_does_not_fill`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the demand, in a few sentences.
    pub const fn demands(&self) -> &'static str {
        self.demands
    }

    /// Runs the check.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that states what the port did instead, or that it panicked or hung. If a lease
    /// lapsed before it could be used, the check proves nothing and runs again. It fails if that
    /// happens three times.
    pub async fn run(&self, port: &P) -> Result<(), Failure> {
        for _ in 1..TRIES {
            match self.run_once(port).await {
                Err(failure) if failure.too_slow => {}
                outcome => return outcome,
            }
        }
        self.run_once(port).await
    }

    async fn run_once(&self, port: &P) -> Outcome {
        let check = AssertUnwindSafe((self.run)(port)).catch_unwind();
        match timeout(CHECK, check).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(Failure::new(format!("the port panicked: {}", message(&*panic)))),
            Err(_elapsed) => Err(Failure::new(format!("it did not end within {CHECK:?}"))),
        }
    }
}

// Derived implementations would require them of the port.
impl<P> Clone for Check<P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P> Copy for Check<P> {}

impl<P> fmt::Debug for Check<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Check({}::{})", self.group, self.name)
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// The behaviour of a port that violates the demand, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    what: String,
    /// Whether the check was too slow to prove anything.
    too_slow: bool,
}

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), too_slow: false }
    }

    /// Creates a failure that `what` ended before it was observed.
    pub(super) fn too_slow(what: impl fmt::Display) -> Self {
        Self {
            what: format!(
                "{what} ended before it was observed: the cache or the machine is too slow"
            ),
            too_slow: true,
        }
    }
}

/// Adds the situation to a failure.
pub(super) trait When {
    fn when(self, situation: impl fmt::Display) -> Self;
}

impl<T> When for Outcome<T> {
    fn when(self, situation: impl fmt::Display) -> Self {
        self.map_err(|failure| Failure {
            what: format!("{situation}: {}", failure.what),
            ..failure
        })
    }
}

/// Waits for an operation's reply, with a timeout.
///
/// The future is boxed. A port's future may be large, and a check that awaits ten of them would not
/// fit on the stack of a test's thread.
pub(super) fn in_time<'a, T: 'a>(
    operation: &'static str,
    future: impl Future<Output = T> + Send + 'a,
) -> BoxFuture<'a, Outcome<T>> {
    Box::pin(async move {
        timeout(PATIENCE, future)
            .await
            .map_err(|_| Failure::new(format!("`{operation}` had no reply after {PATIENCE:?}")))
    })
}

/// Waits for an operation's reply, which must be no error, with a timeout.
pub(super) fn answer<'a, T: 'a, E: std::error::Error + 'static>(
    operation: &'static str,
    future: impl Future<Output = Result<T, E>> + Send + 'a,
) -> BoxFuture<'a, Outcome<T>> {
    let reply = in_time(operation, future);
    Box::pin(reply.map(move |reply| {
        reply?.map_err(|error| {
            let error = crate::backends::chain(&error);
            Failure::new(format!("`{operation}` failed: {error}"))
        })
    }))
}

/// Lists the checks of a group: each a function of the port, or of this expression, with its
/// demand.
macro_rules! checks {
    ($group:literal: $($checks:tt)*) => {
        $crate::conformance::check::checks! {$group |port| port => $($checks)*}
    };
    ($group:literal |$port:ident| $argument:expr => $($name:ident: $demands:literal,)*) => {
        vec![$(
            $crate::conformance::Check::new($group, stringify!($name), $demands, |$port| {
                Box::pin(async move { $name($argument).await })
            })
        ),*]
    };
}

/// Fails with a sentence unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err($crate::conformance::Failure::new(format!($($what)+)));
        }
    };
}

/// Fails with a sentence unless both values are equal.
macro_rules! ensure_eq {
    ($what:expr, $found:expr, $expected:expr $(,)?) => {
        match (&$found, &$expected) {
            (found, expected) => {
                $crate::conformance::check::ensure!(
                    found == expected,
                    "{}: expected {expected:?}, got {found:?}",
                    $what
                );
            }
        }
    };
}

pub(super) use {checks, ensure, ensure_eq};
