//! The engine without its type parameters, as [`Sessions`](super::Sessions) holds it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::cache::{CacheProbe, CacheStatus, SessionCache};
use crate::engine::Engine;
use crate::engine::breaker::BreakerState;
use crate::engine::cache_mode::CacheMode;
use crate::engine::change::Applied;
use crate::engine::diagnostics::ReportedError;
use crate::engine::freshness::Freshness;
use crate::engine::metrics::Metrics;
use crate::engine::validation::Answers;
use crate::model::error::{Error, StoreError};
use crate::model::session::{
    ListCursor, LoginSnapshot, Session, SessionId, SessionPage, ValidatedSession,
};
use crate::model::token::{Digests, SessionToken, TokenDigest};
#[cfg(feature = "metrics")]
use crate::sessions::publisher::Observed;
use crate::store::{Creation, RevocationNote, SessionStore, Target};

/// The boxed future of a call. Every look-up has one.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// [`Engine`] without its type parameters. The types of the cache and the store end here.
pub(crate) trait AnyEngine: Send + Sync {
    fn near_hit(&self, digests: &[TokenDigest]) -> Option<Answers>;
    fn validate(self: Arc<Self>, digests: Digests) -> Boxed<Answers>;
    fn create(
        self: Arc<Self>,
        digest: TokenDigest,
        new: ValidatedSession,
        issued_here: bool,
    ) -> Boxed<Result<Creation, Error>>;
    fn revoke(
        self: Arc<Self>,
        target: Target,
        note: RevocationNote,
    ) -> Boxed<Result<Applied<u64>, Error>>;
    fn revoke_and_wait(
        self: Arc<Self>,
        target: Target,
        note: RevocationNote,
        deadline: Duration,
    ) -> Boxed<Result<Applied<u64>, Error>>;
    fn erase_user(
        self: Arc<Self>,
        user_id: String,
        note: RevocationNote,
    ) -> Boxed<Result<Applied<u64>, Error>>;
    fn update(
        self: Arc<Self>,
        id: SessionId,
        version: i64,
        data: Box<RawValue>,
    ) -> Boxed<Result<Applied<Session>, Error>>;
    fn rotate(
        self: Arc<Self>,
        old: TokenDigest,
        new: SessionToken,
        grace: Duration,
    ) -> Boxed<Result<Applied<(SessionToken, Session)>, Error>>;
    fn login_snapshot(self: Arc<Self>) -> Boxed<Result<LoginSnapshot, StoreError>>;
    fn list(
        self: Arc<Self>,
        user_id: String,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Boxed<Result<SessionPage, StoreError>>;
    fn set_mode(&self, mode: CacheMode);
    fn mode(&self) -> CacheMode;
    fn metrics(&self) -> Metrics;
    #[cfg(feature = "metrics")]
    fn observed(&self) -> Observed<'_>;
    fn breaker(&self) -> BreakerState;
    fn staleness_bound(&self) -> Option<Duration>;
    fn permits_serving(&self) -> bool;
    fn cache_status(&self) -> CacheStatus;
    fn store_backend(&self) -> &'static str;
    fn store_remarks(&self) -> Vec<String>;
    fn recent_errors(&self) -> Vec<ReportedError>;
    fn store_is_known(&self) -> bool;
    fn is_paused(&self) -> bool;
    fn probe_cache(self: Arc<Self>) -> Boxed<CacheProbe>;
    fn probe_store(self: Arc<Self>) -> Boxed<Result<(), StoreError>>;
    fn shutdown(self: Arc<Self>) -> Boxed<()>;
}

impl<C: SessionCache, S: SessionStore> AnyEngine for Engine<C, S> {
    fn near_hit(&self, digests: &[TokenDigest]) -> Option<Answers> {
        self.near_hit(digests)
    }
    fn validate(self: Arc<Self>, digests: Digests) -> Boxed<Answers> {
        Box::pin(self.validate(digests))
    }
    fn create(
        self: Arc<Self>,
        digest: TokenDigest,
        new: ValidatedSession,
        issued_here: bool,
    ) -> Boxed<Result<Creation, Error>> {
        Box::pin(Arc::clone(&self.changes).create(digest, new, issued_here))
    }
    fn revoke(
        self: Arc<Self>,
        target: Target,
        note: RevocationNote,
    ) -> Boxed<Result<Applied<u64>, Error>> {
        Box::pin(Arc::clone(&self.changes).revoke(target, note))
    }
    fn revoke_and_wait(
        self: Arc<Self>,
        target: Target,
        note: RevocationNote,
        deadline: Duration,
    ) -> Boxed<Result<Applied<u64>, Error>> {
        Box::pin(Arc::clone(&self.changes).revoke_and_wait(target, note, deadline))
    }
    fn erase_user(
        self: Arc<Self>,
        user_id: String,
        note: RevocationNote,
    ) -> Boxed<Result<Applied<u64>, Error>> {
        Box::pin(Arc::clone(&self.changes).erase_user(user_id, note))
    }
    fn update(
        self: Arc<Self>,
        id: SessionId,
        version: i64,
        data: Box<RawValue>,
    ) -> Boxed<Result<Applied<Session>, Error>> {
        Box::pin(Arc::clone(&self.changes).update(id, version, data))
    }
    fn rotate(
        self: Arc<Self>,
        old: TokenDigest,
        new: SessionToken,
        grace: Duration,
    ) -> Boxed<Result<Applied<(SessionToken, Session)>, Error>> {
        Box::pin(Arc::clone(&self.changes).rotate(old, new, grace))
    }
    fn login_snapshot(self: Arc<Self>) -> Boxed<Result<LoginSnapshot, StoreError>> {
        Box::pin(Arc::clone(&self.logins).read())
    }
    fn list(
        self: Arc<Self>,
        user_id: String,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Boxed<Result<SessionPage, StoreError>> {
        Box::pin(async move { self.store.list(&user_id, after, limit).await })
    }
    fn set_mode(&self, mode: CacheMode) {
        self.set_mode(mode);
    }
    fn mode(&self) -> CacheMode {
        self.mode()
    }
    fn metrics(&self) -> Metrics {
        self.metrics()
    }
    #[cfg(feature = "metrics")]
    fn observed(&self) -> Observed<'_> {
        Observed {
            instruments: self.instruments(),
            metrics: self.metrics(),
            mode: self.mode(),
            breaker: self.cache.breaker_state(),
            cache: self.cache.status(),
            pools: self.store.pools(),
            policy: self.settings.journal.policy,
            staleness_bound: AnyEngine::staleness_bound(self),
            journal_age: self.journal_age_or_uptime(),
            clock_offset: self.freshness.observed.wall_clock_ahead(),
        }
    }
    fn breaker(&self) -> BreakerState {
        self.cache.breaker_state()
    }
    fn staleness_bound(&self) -> Option<Duration> {
        let Freshness { has_journal, journal, .. } = &*self.freshness;
        has_journal.then(|| journal.timing().staleness_bound())
    }
    fn permits_serving(&self) -> bool {
        self.freshness.permits_serving(Instant::now())
    }
    fn cache_status(&self) -> CacheStatus {
        self.cache.status()
    }
    fn store_backend(&self) -> &'static str {
        self.store.backend()
    }
    fn store_remarks(&self) -> Vec<String> {
        self.store.remarks()
    }
    fn recent_errors(&self) -> Vec<ReportedError> {
        self.diagnostics.recent_errors()
    }
    fn store_is_known(&self) -> bool {
        self.diagnostics.store_is_known()
    }
    fn is_paused(&self) -> bool {
        self.pause.is_paused()
    }
    fn probe_cache(self: Arc<Self>) -> Boxed<CacheProbe> {
        Box::pin(async move { self.cache.probe().await })
    }
    fn probe_store(self: Arc<Self>) -> Boxed<Result<(), StoreError>> {
        Box::pin(async move { self.store.probe().await })
    }
    fn shutdown(self: Arc<Self>) -> Boxed<()> {
        Box::pin(self.shutdown())
    }
}
