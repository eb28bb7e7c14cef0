//! A cache that can be slow or broken.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_layer::TokenDigest;
use session_layer::cache::{
    CacheProbe, CacheStatus, Entry, EntryVerdict, Filled, Invalidated, Lookup, SessionCache,
};
use session_layer::error::{CacheError, CacheErrorKind};

/// A cache without entries. Clones share its state.
#[derive(Clone, Default)]
pub(crate) struct Cache(Arc<CacheState>);

#[derive(Default)]
struct CacheState {
    takes_us: AtomicU64,
    fails: Mutex<Option<CacheErrorKind>>,
    gets: AtomicUsize,
    fills: AtomicUsize,
    fences: AtomicUsize,
    invalidations: AtomicUsize,
}

impl Cache {
    pub(crate) fn takes(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap();
        self.0.takes_us.store(micros, Ordering::SeqCst);
    }

    pub(crate) fn fails(&self, kind: impl Into<Option<CacheErrorKind>>) {
        *self.0.fails.lock().unwrap() = kind.into();
    }

    pub(crate) fn gets(&self) -> usize {
        self.0.gets.load(Ordering::SeqCst)
    }

    /// Returns whether this is the last clone.
    pub(crate) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    pub(crate) fn fills(&self) -> usize {
        self.0.fills.load(Ordering::SeqCst)
    }

    pub(crate) fn fences(&self) -> usize {
        self.0.fences.load(Ordering::SeqCst)
    }

    pub(crate) fn invalidations(&self) -> usize {
        self.0.invalidations.load(Ordering::SeqCst)
    }

    /// Waits for the configured time and returns the configured result.
    async fn answer(&self) -> Result<(), CacheError> {
        let takes = Duration::from_micros(self.0.takes_us.load(Ordering::SeqCst));
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        let fails = *self.0.fails.lock().unwrap();
        fails.map_or(Ok(()), |kind| Err(CacheError::new(kind, "the test makes this call fail")))
    }
}

impl SessionCache for Cache {
    type Lease = ();

    /// Grants every lease, like a cache that loses them.
    async fn get(
        &self,
        digests: &[TokenDigest],
        _: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<()>> {
        self.0.gets.fetch_add(1, Ordering::SeqCst);
        let answered = self.answer().await;
        let answer = |_| match &answered {
            Err(error) => Lookup::Failed(CacheError::new(error.kind(), error.to_string())),
            Ok(()) => Lookup::Leased(()),
        };
        digests.iter().map(answer).collect()
    }
    async fn fill(&self, (): (), _: &Entry, _: Duration) -> Result<Filled, CacheError> {
        self.0.fills.fetch_add(1, Ordering::SeqCst);
        Ok(Filled::Stored)
    }
    async fn fence(&self, _: &[TokenDigest]) -> Result<(), CacheError> {
        self.0.fences.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    async fn invalidate(&self, _: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        self.0.invalidations.fetch_add(1, Ordering::SeqCst);
        self.answer().await.map(|()| Invalidated::Everywhere)
    }
    fn status(&self) -> CacheStatus {
        CacheStatus::new("stub")
    }
    async fn probe(&self) -> CacheProbe {
        CacheProbe::default()
    }
    async fn close(&self) {}
}
