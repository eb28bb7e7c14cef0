//! Ports without a server, which report it, except for one false reply.

use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::cache::{
    CacheProbe, CacheStatus, Entry, EntryVerdict, Filled, Invalidated, Lookup, SessionCache,
};
use session_layer::error::{CacheError, CacheErrorKind, StoreError, StoreErrorKind};
use session_layer::store::ValidatedSession;
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, ReadResult, Revoked, Row, SessionStore, Target,
};
use session_layer::{ListCursor, LoginSnapshot, SessionId, SessionPage, Timestamp, TokenDigest};

super::mistakes! {
    pub(super) enum Lie;
    /// False replies of a cache, each with the check that must find it.
    pub(super) const CACHE_LIES = {
        Miss: "lookup_fails_for_each_digest",
        OneReplyForAll: "lookup_fails_for_each_digest",
        Invalidated: "invalidation_is_never_acknowledged",
        Connected: "cache_reports_that_it_is_down",
        ProbeConnected: "cache_reports_that_it_is_down",
        NoReason: "cache_reports_that_it_is_down",
    }
    /// False replies of a store, each with the check that must find it.
    pub(super) const STORE_LIES = {
        Absent: "reads_return_errors",
        NoSessions: "reads_return_errors",
        NothingToRevoke: "changes_return_errors",
        Ready: "store_reports_that_it_is_down",
    }
}

pub(super) struct Down(pub(super) Option<Lie>);

impl Down {
    fn tells(&self, lie: Lie) -> bool {
        self.0 == Some(lie)
    }

    fn store<T>(&self, lie: Lie, answer: T) -> Result<T, StoreError> {
        if self.tells(lie) {
            return Ok(answer);
        }
        no_store()
    }
}

fn no_cache() -> CacheError {
    CacheError::new(CacheErrorKind::Unreachable, "the cache is down")
}

fn no_store<T>() -> Result<T, StoreError> {
    Err(StoreError::new(StoreErrorKind::Unreachable, "the store is down"))
}

impl SessionCache for Down {
    type Lease = ();

    async fn get(
        &self,
        digests: &[TokenDigest],
        _judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<()>> {
        let answer = |_: &TokenDigest| match self.0 {
            Some(Lie::Miss) => Lookup::DoNotFill,
            _ => Lookup::Failed(no_cache()),
        };
        let replied = if self.tells(Lie::OneReplyForAll) { &digests[..1] } else { digests };
        replied.iter().map(answer).collect()
    }

    async fn fill(&self, (): (), _: &Entry, _: Duration) -> Result<Filled, CacheError> {
        Err(no_cache())
    }

    async fn fence(&self, _: &[TokenDigest]) -> Result<(), CacheError> {
        Err(no_cache())
    }

    async fn invalidate(&self, _: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        if self.tells(Lie::Invalidated) {
            return Ok(Invalidated::Everywhere);
        }
        Err(no_cache())
    }

    fn status(&self) -> CacheStatus {
        let mut status = CacheStatus::new("toy");
        status.connected = self.tells(Lie::Connected);
        status
    }

    async fn probe(&self) -> CacheProbe {
        let mut probe = CacheProbe::default();
        probe.connected = self.tells(Lie::ProbeConnected);
        if !self.tells(Lie::NoReason) {
            probe.errors.push(no_cache().to_string());
        }
        probe
    }

    async fn close(&self) {}
}

impl SessionStore for Down {
    async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        let loaded = ReadResult {
            now: Timestamp::from_micros(0),
            store_id: [7; 16],
            xmin: 0,
            rows: digests.iter().map(|_| Row::Absent).collect(),
        };
        self.store(Lie::Absent, loaded)
    }
    async fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        no_store()
    }
    async fn create(&self, _: TokenDigest, _: &ValidatedSession) -> Result<Creation, StoreError> {
        no_store()
    }
    async fn digests(&self, _: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        no_store()
    }
    async fn revoke(&self, _: &Target, _: &str) -> Result<Revoked, StoreError> {
        self.store(Lie::NothingToRevoke, Revoked::nothing())
    }
    async fn update(&self, _: SessionId, _: i64, _: &RawValue) -> Result<Change, StoreError> {
        no_store()
    }
    async fn rotate(
        &self,
        _: TokenDigest,
        _: TokenDigest,
        _: Duration,
    ) -> Result<Change, StoreError> {
        no_store()
    }
    async fn touch(&self, _: SessionId, _: Duration) -> Result<Change, StoreError> {
        no_store()
    }
    async fn list(
        &self,
        _: &str,
        _: Option<ListCursor>,
        _: usize,
    ) -> Result<SessionPage, StoreError> {
        self.store(Lie::NoSessions, SessionPage::default())
    }
    async fn journal_since(&self, _: Option<&JournalPosition>) -> Result<JournalRead, StoreError> {
        no_store()
    }
    fn backend(&self) -> &'static str {
        "toy"
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.store(Lie::Ready, ())
    }
    async fn close(&self) {}
}
