//! One check, and how it fails.

use std::{fmt, future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::timeout;

/// How long any one operation of a port may take. Every port bounds its operations by deadlines of its
/// own, far shorter than this: it only tells "late" from "never".
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a check may take in all. None needs more than 10 s where the port answers.
const CHECK: Duration = Duration::from_secs(60);

/// How often a check is made, at most, of which nothing can be said since something took too long.
const TRIES: u32 = 3;

/// What a check found.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

type Run<P> = for<'a> fn(&'a P) -> BoxFuture<'a, Outcome>;

/// One thing that a port `P` must do.
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
        Self {
            group,
            name,
            demands,
            run,
        }
    }

    /// What it is about: `leases`, `journal`, …
    #[must_use]
    pub const fn group(&self) -> &'static str {
        self.group
    }

    /// Its name, unique among the checks of a port: `a_lapsed_lease_does_not_fill`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it demands, in a sentence or two.
    #[must_use]
    pub const fn demands(&self) -> &'static str {
        self.demands
    }

    /// Makes the check.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that says what the port did instead; also if it panics or hangs. Where a lease was
    /// over before it could be used, the check proves nothing and is made again; it fails if that
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
            Ok(Err(panic)) => Err(Failure::new(format!(
                "the port panicked: {}",
                message(&*panic)
            ))),
            Err(_elapsed) => Err(Failure::new(format!("it did not end within {CHECK:?}"))),
        }
    }
}

// Derived, these would ask the same of the port.
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

/// What a port did instead of what was demanded, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    what: String,
    /// It proves nothing: something took so long that what was to be seen was over.
    too_slow: bool,
}

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            too_slow: false,
        }
    }

    /// `what` was over before it was looked at.
    pub(super) fn too_slow(what: impl fmt::Display) -> Self {
        Self {
            what: format!("{what} was over before it was looked at: cache or machine are too slow"),
            too_slow: true,
        }
    }
}

/// Says in what situation it failed.
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

/// An operation's answer, which must come in time.
///
/// Boxed: the future of a port may be large, and a check that awaits ten of them would not fit on the stack
/// of a test's thread.
pub(super) fn in_time<'a, T: 'a>(
    operation: &'static str,
    asked: impl Future<Output = T> + Send + 'a,
) -> BoxFuture<'a, Outcome<T>> {
    Box::pin(async move {
        timeout(PATIENCE, asked)
            .await
            .map_err(|_| Failure::new(format!("`{operation}` had no answer after {PATIENCE:?}")))
    })
}

/// An operation's answer, which must come in time and be no error.
pub(super) fn answer<'a, T: 'a, E: std::error::Error + 'static>(
    operation: &'static str,
    asked: impl Future<Output = Result<T, E>> + Send + 'a,
) -> BoxFuture<'a, Outcome<T>> {
    let answered = in_time(operation, asked);
    Box::pin(answered.map(move |answered| {
        answered?.map_err(|error| {
            let error = crate::backends::chain(&error);
            Failure::new(format!("`{operation}` failed: {error}"))
        })
    }))
}

/// The checks of a group: each a function of that name, with what it demands.
macro_rules! checks {
    ($group:literal: $($name:ident: $demands:literal,)*) => {
        vec![$(
            $crate::conformance::Check::new($group, stringify!($name), $demands, |port| {
                Box::pin($name(port))
            })
        ),*]
    };
}

/// Fails with a sentence unless it is so.
macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err($crate::conformance::Failure::new(format!($($what)+)));
        }
    };
}

/// Fails with a sentence unless both are the same.
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
