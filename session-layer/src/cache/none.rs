//! A cache that stores nothing.

use std::time::Duration;

use super::{
    CacheProbe, CacheStatus, Entry, EntryVerdict, Filled, Invalidated, Lookup, SessionCache,
};
use crate::model::error::CacheError;
use crate::model::token::TokenDigest;

pub(crate) const NO_CACHE: &str = "none";

/// A cache that stores nothing: every validation reads the store.
///
/// Other processes may have a cache that this one cannot reach. A change therefore returns
/// [`Visibility::Committed`](crate::Visibility::Committed): it holds here at once, and in the other
/// processes within the bound. Over `SqliteStore`, which serves one process, a change returns
/// [`Visibility::Propagated`](crate::Visibility::Propagated).
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCache;

impl SessionCache for NoCache {
    type Lease = std::convert::Infallible;

    async fn get(
        &self,
        digests: &[TokenDigest],
        _verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<Self::Lease>> {
        digests.iter().map(|_| Lookup::DoNotFill).collect()
    }

    async fn fill(
        &self,
        lease: Self::Lease,
        _entry: &Entry,
        _lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        match lease {}
    }

    async fn fence(&self, _digests: &[TokenDigest]) -> Result<(), CacheError> {
        Ok(())
    }

    async fn invalidate(&self, _digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        Ok(Invalidated::InThisProcess)
    }

    fn status(&self) -> CacheStatus {
        CacheStatus::new(NO_CACHE)
    }

    async fn probe(&self) -> CacheProbe {
        CacheProbe::default()
    }

    async fn close(&self) {}
}
