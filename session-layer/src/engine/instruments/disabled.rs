//! The instruments without the feature `metrics`: nothing is measured.

#![expect(clippy::unused_self, reason = "the instruments of `recording.rs` have the same methods")]

use std::future::Future;

use tokio::time::Instant;

use crate::engine::instruments::{CacheCall, ChangeKind, ChangeResult, StoreCall};
use crate::engine::validation::Answers;
use crate::model::error::{CacheError, StoreError};

/// Instruments that measure nothing.
#[derive(Debug, Default)]
pub(crate) struct Instruments;

impl Instruments {
    #[inline]
    pub(crate) fn near_hit(&self, _before: u64, _began: Instant) {}

    #[inline]
    pub(crate) fn validated(&self, _answers: &Answers, _began: Instant) {}

    #[inline]
    pub(crate) fn cache_called(&self, _call: CacheCall, _error: Option<&CacheError>) {}

    #[inline]
    pub(crate) fn store_called<T>(
        &self,
        _call: StoreCall,
        calling: impl Future<Output = Result<T, StoreError>>,
    ) -> impl Future<Output = Result<T, StoreError>> {
        calling
    }

    #[inline]
    pub(crate) fn breaker_closed(&self) {}

    #[inline]
    pub(crate) fn journal_read(&self, _began: Instant) {}

    #[inline]
    pub(crate) fn created(&self) {}

    #[inline]
    pub(crate) fn ended(&self, _reason: &str, _sessions: u64) {}

    #[inline]
    pub(crate) fn changed(&self, _kind: ChangeKind, _result: ChangeResult) {}
}
