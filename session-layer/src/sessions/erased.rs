//! Where the types of the cache and the store end: [`Sessions`](super::Sessions) holds a driver that
//! has none.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::Mode;
use crate::breaker::BreakerState;
use crate::cache::{CacheProbe, CacheStatus, SessionCache};
use crate::deadline::{self, LONGEST};
use crate::driver::Driver;
use crate::error::{Error, StoreError};
use crate::metrics::Metrics;
use crate::revoke::Changed;
use crate::session::{CheckedSession, ListedSession, LoginMoment, Session, SessionId};
use crate::store::{Creation, SessionStore, Target};
use crate::token::{SessionToken, TokenDigest};
use crate::troubles::{Told, Work};
use crate::validate::Answers;

/// The one boxed future of a look-up that has to leave the process.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// [`Driver`] without its type parameters: this is where the cache's and the store's types end.
pub(super) trait AnyDriver: Send + Sync {
    fn validate(self: Arc<Self>, digests: Vec<TokenDigest>) -> Boxed<Answers>;
    fn create(
        self: Arc<Self>,
        digest: TokenDigest,
        new: CheckedSession,
        issued_here: bool,
    ) -> Boxed<Result<Creation, Error>>;
    fn revoke(
        self: Arc<Self>,
        target: Target,
        reason: String,
    ) -> Boxed<Result<Changed<u64>, Error>>;
    fn revoke_and_wait(
        self: Arc<Self>,
        target: Target,
        reason: String,
        deadline: Duration,
    ) -> Boxed<Result<Changed<u64>, Error>>;
    fn update(
        self: Arc<Self>,
        id: SessionId,
        version: i64,
        data: Box<RawValue>,
    ) -> Boxed<Result<Changed<Session>, Error>>;
    fn rotate(
        self: Arc<Self>,
        old: TokenDigest,
        new: SessionToken,
        grace: Duration,
    ) -> Boxed<Result<Changed<(SessionToken, Session)>, Error>>;
    fn login_moment(self: Arc<Self>) -> Boxed<Result<LoginMoment, StoreError>>;
    fn list(self: Arc<Self>, user_id: String) -> Boxed<Result<Vec<ListedSession>, StoreError>>;
    fn set_mode(&self, mode: Mode);
    fn mode(&self) -> Mode;
    fn metrics(&self) -> Metrics;
    fn breaker(&self) -> BreakerState;
    fn within(&self) -> Option<Duration>;
    fn believes(&self) -> bool;
    fn cache_status(&self) -> CacheStatus;
    fn store_backend(&self) -> &'static str;
    fn troubles(&self) -> Vec<Told>;
    fn store_is_known(&self) -> bool;
    fn probe_cache(self: Arc<Self>) -> Boxed<CacheProbe>;
    fn probe_store(self: Arc<Self>) -> Boxed<Result<(), StoreError>>;
    fn shutdown(self: Arc<Self>) -> Boxed<()>;
}

impl<C: SessionCache, S: SessionStore> AnyDriver for Driver<C, S> {
    fn validate(self: Arc<Self>, digests: Vec<TokenDigest>) -> Boxed<Answers> {
        Box::pin(self.validate(digests))
    }
    fn create(
        self: Arc<Self>,
        digest: TokenDigest,
        new: CheckedSession,
        issued_here: bool,
    ) -> Boxed<Result<Creation, Error>> {
        Box::pin(self.create(digest, new, issued_here))
    }
    fn revoke(
        self: Arc<Self>,
        target: Target,
        reason: String,
    ) -> Boxed<Result<Changed<u64>, Error>> {
        Box::pin(self.revoke(target, reason))
    }
    fn revoke_and_wait(
        self: Arc<Self>,
        target: Target,
        reason: String,
        deadline: Duration,
    ) -> Boxed<Result<Changed<u64>, Error>> {
        Box::pin(self.revoke_and_wait(target, reason, deadline))
    }
    fn update(
        self: Arc<Self>,
        id: SessionId,
        version: i64,
        data: Box<RawValue>,
    ) -> Boxed<Result<Changed<Session>, Error>> {
        Box::pin(self.update(id, version, data))
    }
    fn rotate(
        self: Arc<Self>,
        old: TokenDigest,
        new: SessionToken,
        grace: Duration,
    ) -> Boxed<Result<Changed<(SessionToken, Session)>, Error>> {
        Box::pin(self.rotate(old, new, grace))
    }
    fn login_moment(self: Arc<Self>) -> Boxed<Result<LoginMoment, StoreError>> {
        Box::pin(async move {
            let moment = deadline::question(LONGEST, self.store.login_moment()).await;
            self.noted(Work::Ask, moment)
        })
    }
    fn list(self: Arc<Self>, user_id: String) -> Boxed<Result<Vec<ListedSession>, StoreError>> {
        Box::pin(async move {
            let listed = deadline::question(LONGEST, self.store.list(&user_id)).await;
            self.noted(Work::Ask, listed)
        })
    }
    fn set_mode(&self, mode: Mode) {
        self.set_mode(mode);
    }
    fn mode(&self) -> Mode {
        self.mode()
    }
    fn metrics(&self) -> Metrics {
        self.metrics()
    }
    fn breaker(&self) -> BreakerState {
        self.gate.status().0
    }
    fn within(&self) -> Option<Duration> {
        let read = self.needs_the_journal();
        read.then(|| self.journal.timing().within())
    }
    fn believes(&self) -> bool {
        !self.needs_the_journal() || self.journal.believes(Instant::now())
    }
    fn cache_status(&self) -> CacheStatus {
        self.cache.status()
    }
    fn store_backend(&self) -> &'static str {
        self.store.backend()
    }
    fn troubles(&self) -> Vec<Told> {
        self.troubles.recent(Instant::now())
    }
    fn store_is_known(&self) -> bool {
        self.seen.id().is_some()
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

impl super::Sessions {
    /// What [`recent_errors`](Self::recent_errors) tells, told apart.
    pub(crate) fn troubles(&self) -> Vec<Told> {
        self.driver.troubles()
    }
}
