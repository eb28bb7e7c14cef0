//! The outer deadline of every call of a cache or a store.
//!
//! The contracts of `SessionCache` and `SessionStore` require that each call ends in bounded time.
//! The adapters of this crate comply. An application's own adapter may not. Without an outer
//! deadline, a caller would then wait forever. The journal would never be read again, and a
//! shutdown would never end.
//!
//! The guards therefore wrap every call. A call that runs long after its own deadlines is
//! cancelled. A call that panics has failed.
//!
//! | call | outer deadline |
//! |---|---|
//! | a look-up in the cache | half of the validation timeout |
//! | a fence, a fill, an invalidation, or the parts of one | [`Settings::call_deadline`] |
//! | `load`, `touch` and `forget_node` | [`Settings::call_deadline`] |
//! | `is_one_cache` | the validation timeout |
//! | any other call of the store | [`LONGEST_CALL`]: 90 s |
//! | a health probe | 0.9 s (`sessions/probe.rs`) |
//! | closing | the deadline of `shutdown` |
//!
//! [`Settings::call_deadline`]: crate::engine::settings::Settings::call_deadline

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout_at};

use crate::model::error::{CacheError, CacheErrorKind, StoreError, StoreErrorKind};

/// The outer deadline of a call for which no validation waits: 90 s.
///
/// It is longer than any call of our stores with their default deadlines. A change ends after
/// 2 s, or after 4 s if the session changes at every attempt to end it. A page of the journal ends
/// after 2 s, or after 4 s if Postgres has restarted and the page is read again.
pub(crate) const LONGEST_CALL: Duration = Duration::from_secs(90);
#[cfg(feature = "postgres")]
const _: () = assert!(crate::store::LONGEST_DEADLINE.as_secs() < LONGEST_CALL.as_secs());

/// The reason why a call did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupted {
    Late,
    Panicked,
}

impl Interrupted {
    fn why(self) -> &'static str {
        match self {
            Self::Late => "it did not end, and was cancelled long after its own deadline",
            Self::Panicked => "it panicked, see the log",
        }
    }

    /// Returns the error of a read, which has changed nothing.
    pub(crate) fn of_read(self) -> StoreError {
        let kind = match self {
            Self::Late => StoreErrorKind::TimedOut,
            Self::Panicked => StoreErrorKind::Other,
        };
        StoreError::new(kind, self.why())
    }

    /// Returns the error of a change, which may have been made or may still be made.
    fn of_change(self) -> StoreError {
        StoreError::new(StoreErrorKind::Uncertain, self.why())
    }

    fn of_cache(self) -> CacheError {
        let kind = match self {
            Self::Late => CacheErrorKind::TimedOut,
            Self::Panicked => CacheErrorKind::Protocol,
        };
        CacheError::new(kind, self.why())
    }
}

/// Runs `call` until it ends, panics, or has taken this long.
pub(crate) fn run<T>(
    longest: Duration,
    call: impl Future<Output = T>,
) -> impl Future<Output = Result<T, Interrupted>> {
    run_until(Instant::now() + longest, call)
}

/// Runs `call` until it ends, panics, or reaches its outer deadline.
///
/// It is no `async fn`, because such a future would have room for `call` twice: as the argument,
/// and as what it waits for. Every request would allocate that.
pub(crate) fn run_until<T>(
    deadline: Instant,
    call: impl Future<Output = T>,
) -> impl Future<Output = Result<T, Interrupted>> {
    timeout_at(deadline, AssertUnwindSafe(call).catch_unwind()).map(|ended| match ended {
        Ok(Ok(ended)) => Ok(ended),
        Ok(Err(_panic)) => Err(Interrupted::Panicked),
        Err(_elapsed) => Err(Interrupted::Late),
    })
}

/// Runs a read of the store.
pub(crate) async fn read<T>(
    longest: Duration,
    reading: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let reply = run(longest, reading).await;
    reply.unwrap_or_else(|interrupted| Err(interrupted.of_read()))
}

/// Runs a change of the store. A change that reaches its deadline is cancelled here, but the store
/// may still make it. Its outcome is therefore unknown.
///
/// No task waits for such a change and then invalidates again, because that would gain nothing. A
/// change whose reply is lost may be committed after every invalidation anyway. Its journal row
/// then makes every node reject the entries within the bounds of
/// [`Error::Unknown`](crate::Error::Unknown). The tasks would also accumulate while a store hangs.
/// Only the invalidation after every change of unknown outcome is required.
pub(crate) async fn change<T>(
    changing: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let reply = run(LONGEST_CALL, changing).await;
    reply.unwrap_or_else(|interrupted| Err(interrupted.of_change()))
}

/// Runs a call of the cache that is no look-up.
pub(crate) async fn of_cache<T>(
    longest: Duration,
    reading: impl Future<Output = Result<T, CacheError>>,
) -> Result<T, CacheError> {
    let reply = run(longest, reading).await;
    reply.unwrap_or_else(|interrupted| Err(interrupted.of_cache()))
}
