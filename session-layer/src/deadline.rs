//! The outer deadline of every call of a port.
//!
//! Cache and store bound themselves in time: that is in their contract, and the adapters of this crate keep it. One
//! of the application's own may not, and then a caller would wait for ever, a journal would never be read again, a
//! shutdown would not end. So every call goes through here: what has not ended long after each deadline that it could
//! have had of its own is given up, and what panics has failed.
//!
//! | the call | is given up after |
//! |---|---|
//! | a validation's read or touch, and whatever the cache is asked | [`for_validation`]: a lease, or the budget |
//! | anything else that the store is asked | [`LONGEST`] |
//!
//! Three have less, for somebody waits for them: a look-up in the cache (half of the budget), a probe (0.9 s), the
//! closing (what the caller of `shutdown` gives it).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;

use crate::cache::LEASE;
use crate::error::{CacheError, CacheErrorKind, StoreError, StoreErrorKind};

/// More than any call of a store of ours takes: its changes end after 2 s (4 s, where a session changes at every try to
/// end it), and a read of a journal that somebody has made very long is two statements of 35 s at most.
pub(crate) const LONGEST: Duration = Duration::from_secs(90);
/// The longest deadline that a store of ours can be given: it must end before [`LONGEST`], to say what is certain.
#[cfg(feature = "postgres")]
pub(crate) const LONGEST_DEADLINE: Duration = Duration::from_secs(60);

/// What ends later than this is good for nobody: the request was answered, and the lease has lapsed. Of the cache
/// nothing is waited for longer either: a fill is refused by then, and a removal is tried again.
pub(crate) fn for_validation(budget: Duration) -> Duration {
    LEASE.max(budget)
}

/// A call that did not come to an end of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Late,
    Panicked,
}

impl Broken {
    fn why(self) -> &'static str {
        match self {
            Self::Late => "it did not end, long after everybody's deadline, and was given up",
            Self::Panicked => "it panicked; the log says why",
        }
    }

    /// Of a question: nothing was changed by it.
    pub(crate) fn question(self) -> StoreError {
        let kind = match self {
            Self::Late => StoreErrorKind::TimedOut,
            Self::Panicked => StoreErrorKind::Other,
        };
        StoreError::new(kind, self.why())
    }

    /// Of a change: it may have been carried out, or may be yet.
    fn change(self) -> StoreError {
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

/// `call`, to its end; or to this deadline, or to its panic.
pub(crate) async fn within<T>(
    longest: Duration,
    call: impl Future<Output = T>,
) -> Result<T, Broken> {
    match timeout(longest, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(ended)) => Ok(ended),
        Ok(Err(_panic)) => Err(Broken::Panicked),
        Err(_elapsed) => Err(Broken::Late),
    }
}

/// A question to the store.
pub(crate) async fn question<T>(
    longest: Duration,
    asking: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answer = within(longest, asking).await;
    answer.unwrap_or_else(|broken| Err(broken.question()))
}

/// A change of the store, which is dropped at the deadline, and may be carried out all the same.
///
/// Waiting on for it instead, in a task that unlinks once more at its end, would gain nothing for safety: a change whose
/// answer is lost may be committed after every UNLINK anyway, and then its row in the journal ends the copies, within
/// the bounds that [`Error::Unknown`](crate::Error::Unknown) states. And a store that hangs would gather tasks for
/// good. What must not be left out is what follows: to the caller it is a change of unknown fate like any other.
pub(crate) async fn change<T>(
    changing: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answer = within(LONGEST, changing).await;
    answer.unwrap_or_else(|broken| Err(broken.change()))
}

/// Whatever the cache is asked but for a look-up.
pub(crate) async fn of_cache<T>(
    longest: Duration,
    asking: impl Future<Output = Result<T, CacheError>>,
) -> Result<T, CacheError> {
    let answer = within(longest, asking).await;
    answer.unwrap_or_else(|broken| Err(broken.of_cache()))
}
