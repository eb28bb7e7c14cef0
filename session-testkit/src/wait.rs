//! Waiting for a condition with a deadline, instead of a fixed sleep.

use std::{fmt, future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// The interval between two checks of a condition.
const TICK: Duration = Duration::from_millis(10);

/// The error of a condition that was not true before the deadline.
#[derive(Debug, thiserror::Error)]
#[error("timed out after {waited:?} of waiting for {what}")]
pub struct WaitTimeoutError {
    what: String,
    waited: Duration,
}

/// Waits until `condition` is true, checked every 10 ms. Returns how long that took.
///
/// `what` names the condition in the error. A check that hangs is dropped at the deadline.
///
/// # Errors
/// [`WaitTimeoutError`] if the condition is not true before `deadline`.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), session_testkit::wait::WaitTimeoutError> {
/// # use session_testkit::wait;
/// wait::until("the sum", Duration::from_secs(1), async || 2 + 2 == 4).await?;
/// # Ok(())
/// # }
/// ```
pub async fn until<F>(
    what: impl fmt::Display,
    deadline: Duration,
    mut condition: F,
) -> Result<Duration, WaitTimeoutError>
where
    F: AsyncFnMut() -> bool,
{
    let begin = Instant::now();
    let mut patience = Patience::new(what, deadline);
    while !patience.look(condition()).await? {}
    Ok(begin.elapsed())
}

/// A loop form of [`until`]: `while !patience.look(async { … }).await? {}`.
///
/// The compiler can't prove that the futures of an async closure with borrows are `Send`, therefore
/// a task that awaits `until` can't be spawned. Code of the crate that must be spawnable uses this.
pub(crate) struct Patience {
    what: String,
    waited: Duration,
    end: Instant,
}

impl Patience {
    pub(crate) fn new(what: impl fmt::Display, deadline: Duration) -> Self {
        Self { what: what.to_string(), waited: deadline, end: Instant::now() + deadline }
    }

    /// Checks the condition once, and waits for a tick if it is false. Fails at the deadline.
    pub(crate) async fn look(
        &mut self,
        condition: impl Future<Output = bool>,
    ) -> Result<bool, WaitTimeoutError> {
        if timeout_at(self.end, condition).await == Ok(true) {
            return Ok(true);
        }
        if Instant::now() >= self.end {
            return Err(WaitTimeoutError { what: self.what.clone(), waited: self.waited });
        }
        sleep(TICK).await;
        Ok(false)
    }
}

/// Runs a future to its end on a new thread, for a caller that can't await, such as a `Drop`.
///
/// The calling thread blocks meanwhile, therefore the future must not need the caller's runtime.
pub(crate) fn blocking<T, F>(future: F) -> Option<T>
where
    T: Send,
    F: Future<Output = T> + Send,
{
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            Some(runtime.block_on(future))
        });
        thread.join().ok().flatten()
    })
}
