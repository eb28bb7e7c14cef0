//! [`NoCache`]: where there is to be no cache at all.

use std::time::Duration;

use super::{Belief, CacheProbe, CacheStatus, Entry, Filled, Invalidated, Lookup, SessionCache};
use crate::error::CacheError;
use crate::token::TokenDigest;

/// The name of this backend.
pub(crate) const NO_CACHE: &str = "none";

/// No cache: every validation asks the store.
///
/// Other processes may have a cache that this one can't reach, so a change is answered with
/// [`Reach::Committed`](crate::Reach::Committed): it holds here at once, there within the bound. Over
/// `SqliteStore`, which is for one process, there are no others, and it is
/// [`Reach::Propagated`](crate::Reach::Propagated).
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCache;

impl SessionCache for NoCache {
    type Lease = std::convert::Infallible;

    async fn get(
        &self,
        digests: &[TokenDigest],
        _judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
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
