//! A cache that can be slow or broken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use session_layer::cache::{
    CacheId, CacheIdentity, CacheProbe, CacheStatus, Entry, EntryVerdict, Filled, Invalidated,
    Lookup, SessionCache,
};
use session_layer::error::{CacheError, CacheErrorKind};
use session_layer::{Session, TokenDigest};

use super::HOUR;
use super::calls::Calls;

/// A cache that keeps no entries unless a test makes it. Clones share its state.
#[derive(Clone, Default)]
pub(crate) struct Cache(Arc<(Calls, Mutex<CacheState>)>);

#[derive(Default)]
pub(crate) struct CacheState {
    /// The duration of a look-up and of an invalidation.
    pub(crate) takes: Duration,
    /// The error of look-ups, invalidations and probes.
    pub(crate) fails: Option<CacheErrorKind>,
    /// The digests of each look-up.
    pub(crate) looked_up: Vec<Vec<TokenDigest>>,
    /// The kept entries. `None`: fills are lost.
    pub(crate) kept: Option<HashMap<TokenDigest, Entry>>,
    /// An entry that is found under every key, whatever was removed.
    pub(crate) replayed: Option<Entry>,
    /// The server behind a shared cache.
    pub(crate) server: Option<u8>,
}

impl Cache {
    pub(crate) fn calls(&self) -> &Calls {
        &self.0.0
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, CacheState> {
        self.0.1.lock().unwrap()
    }

    pub(crate) fn takes(&self, span: Duration) {
        self.state().takes = span;
    }

    pub(crate) fn fails(&self, kind: impl Into<Option<CacheErrorKind>>) {
        self.state().fails = kind.into();
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.calls().count(call)
    }

    /// Returns whether this is the last clone.
    pub(crate) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Restores an entry of this session and version under every key, as an attacker could.
    pub(crate) fn put_back(&self, session: &Session, version: i64) {
        let mut parts = session.parts();
        parts.version = version;
        self.state().replayed = Some(entry(parts.into()));
    }

    /// Waits for the configured time and returns the configured result.
    async fn answer(&self) -> Result<(), CacheError> {
        let takes = self.state().takes;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        self.state().fails.map_or(Ok(()), |kind| Err(failed(kind)))
    }
}

fn failed(kind: CacheErrorKind) -> CacheError {
    CacheError::new(kind, "the test makes this call fail")
}

/// Creates an entry that was read when the session was last seen.
pub(crate) fn entry(session: Session) -> Entry {
    let read_at = session.last_seen_at();
    Entry {
        session,
        user_epoch: 0,
        store_id: super::store::STORE_ID,
        xmin: 0,
        read_at,
        not_after: read_at.after(HOUR),
    }
}

impl SessionCache for Cache {
    type Lease = TokenDigest;

    /// Grants every lease, like a cache that loses them.
    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<TokenDigest>> {
        self.calls().begin("get").await;
        self.state().looked_up.push(digests.to_vec());
        // A real cache is never ready at once.
        tokio::task::yield_now().await;
        let answered = self.answer().await;
        let state = self.state();
        let found = |digest| {
            let kept = state.kept.as_ref().and_then(|kept| kept.get(digest));
            kept.or(state.replayed.as_ref()).filter(|entry| judge(entry) == EntryVerdict::Fresh)
        };
        let answer = |digest| match (&answered, found(digest)) {
            (Err(error), _) => Lookup::Failed(failed(error.kind())),
            (Ok(()), Some(entry)) => Lookup::Hit(entry.clone()),
            (Ok(()), None) => Lookup::Leased(*digest),
        };
        digests.iter().map(answer).collect()
    }
    async fn fill(
        &self,
        lease: TokenDigest,
        new: &Entry,
        _: Duration,
    ) -> Result<Filled, CacheError> {
        self.calls().begin("fill").await;
        if let Some(kept) = &mut self.state().kept {
            kept.insert(lease, new.clone());
        }
        Ok(Filled::Stored)
    }
    async fn fence(&self, _: &[TokenDigest]) -> Result<(), CacheError> {
        self.calls().begin("fence").await;
        Ok(())
    }
    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        self.calls().begin("invalidate").await;
        self.answer().await?;
        if let Some(kept) = &mut self.state().kept {
            kept.retain(|digest, _| !digests.contains(digest));
        }
        Ok(Invalidated::Everywhere)
    }
    async fn parts(&self, digests: &[TokenDigest]) -> Vec<Vec<TokenDigest>> {
        self.calls().begin("parts").await;
        vec![digests.to_vec()]
    }
    fn identity(&self) -> CacheIdentity {
        let server = self.state().server;
        server.map_or(CacheIdentity::OfThisNode, |n| CacheIdentity::Shared(CacheId::of(&[&[n]])))
    }
    fn status(&self) -> CacheStatus {
        let mut status = CacheStatus::new("redis");
        status.connected = self.state().fails.is_none();
        (status.size, status.available) = (10, 10);
        status
    }
    async fn probe(&self) -> CacheProbe {
        self.calls().begin("probe").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut probe = CacheProbe::default();
        if let Some(kind) = self.state().fails {
            probe.errors.push(failed(kind).to_string());
        } else {
            let quick = Some(Duration::from_micros(200));
            probe.connected = true;
            (probe.ping, probe.set, probe.get) = (quick, quick, quick);
        }
        probe
    }
    async fn close(&self) {}
}
