//! A cache with a mistake: it says that it removed a copy, and does not.

use std::time::Duration;

use session_layer::{
    CacheError, TokenDigest,
    cache::{
        Belief, CacheProbe, CacheStatus, Entry, Filled, Invalidated, Lookup, RedisCache,
        RedisLease, SessionCache,
    },
};

pub(super) struct Deaf(pub(super) RedisCache);

impl SessionCache for Deaf {
    type Lease = RedisLease;

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<RedisLease>> {
        self.0.get(digests, judge).await
    }
    async fn fill(
        &self,
        lease: RedisLease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        self.0.fill(lease, entry, lifetime).await
    }
    /// It would take the copy's place.
    async fn fence(&self, _digests: &[TokenDigest]) -> Result<(), CacheError> {
        Ok(())
    }
    async fn invalidate(&self, _digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        Ok(Invalidated::Everywhere)
    }
    fn status(&self) -> CacheStatus {
        self.0.status()
    }
    async fn probe(&self) -> CacheProbe {
        self.0.probe().await
    }
    async fn close(&self) {
        self.0.close().await;
    }
}
