//! Waiting for a condition under a deadline: tests never sleep and hope.

use std::{fmt, future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// How often a condition is looked at.
const TICK: Duration = Duration::from_millis(10);

/// The condition did not come true before the deadline.
#[derive(Debug, thiserror::Error)]
#[error("waited {waited:?} in vain for: {what}")]
pub struct WaitedInVain {
    what: String,
    waited: Duration,
}

/// Waits until `condition` is true, looking every 10 ms; answers how long that took.
///
/// `what` says in an error what was waited for. A look that hangs is dropped at the deadline.
///
/// # Errors
///
/// [`WaitedInVain`] when `deadline` has passed.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), session_testkit::wait::WaitedInVain> {
/// session_testkit::wait::until("two and two to be four", Duration::from_secs(1), async || 2 + 2 == 4).await?;
/// # Ok(())
/// # }
/// ```
pub async fn until<F>(
    what: impl fmt::Display,
    deadline: Duration,
    mut condition: F,
) -> Result<Duration, WaitedInVain>
where
    F: AsyncFnMut() -> bool,
{
    let begin = Instant::now();
    let mut patience = Patience::new(what, deadline);
    while !patience.look(condition()).await? {}
    Ok(begin.elapsed())
}

/// [`until`] as a loop: `while !patience.look(async { … }).await? {}`.
///
/// The compiler can't tell that the futures of an async closure with borrows are `Send`, so whatever
/// awaits `until` can't be spawned; what the crate offers for a task must use this.
pub(crate) struct Patience {
    what: String,
    waited: Duration,
    end: Instant,
}

impl Patience {
    pub(crate) fn new(what: impl fmt::Display, deadline: Duration) -> Self {
        Self {
            what: what.to_string(),
            waited: deadline,
            end: Instant::now() + deadline,
        }
    }

    /// One look, and a tick if it was in vain; an error at the deadline.
    pub(crate) async fn look(
        &mut self,
        condition: impl Future<Output = bool>,
    ) -> Result<bool, WaitedInVain> {
        if timeout_at(self.end, condition).await == Ok(true) {
            return Ok(true);
        }
        if Instant::now() >= self.end {
            return Err(WaitedInVain {
                what: self.what.clone(),
                waited: self.waited,
            });
        }
        sleep(TICK).await;
        Ok(false)
    }
}

/// Runs a future to its end from a place that cannot await (a `Drop`), on a thread of its own.
///
/// The calling thread blocks meanwhile, so the future must not need the caller's runtime.
pub(crate) fn blocking<T, F>(future: F) -> Option<T>
where
    T: Send,
    F: Future<Output = T> + Send,
{
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .ok()?;
            Some(runtime.block_on(future))
        });
        thread.join().ok().flatten()
    })
}
