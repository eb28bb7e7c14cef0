//! Ports without a server, which say so or tell one lie.

use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::cache::{
    Belief, CacheProbe, CacheStatus, Entry, Filled, Invalidated, Lookup, SessionCache,
};
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, Loaded, Revoked, Row, SessionStore, Target,
};
use session_layer::{
    CacheError, CacheErrorKind, CheckedSession, ListedSession, LoginMoment, SessionId, StoreError,
    StoreErrorKind, Timestamp, TokenDigest,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lie {
    Miss,
    OneAnswerForAll,
    Invalidated,
    Connected,
    ProbeConnected,
    NoReason,
    Absent,
    NoSessions,
    NothingToRevoke,
    Ready,
}

/// Each with the check that must catch it.
pub(super) const CACHE_LIES: &[(Lie, &str)] = &[
    (Lie::Miss, "a_look_up_fails_for_each_digest"),
    (Lie::OneAnswerForAll, "a_look_up_fails_for_each_digest"),
    (Lie::Invalidated, "no_invalidation_is_acknowledged"),
    (Lie::Connected, "the_cache_says_that_it_is_down"),
    (Lie::ProbeConnected, "the_cache_says_that_it_is_down"),
    (Lie::NoReason, "the_cache_says_that_it_is_down"),
];

/// The same of a store.
pub(super) const STORE_LIES: &[(Lie, &str)] = &[
    (Lie::Absent, "a_read_is_an_error"),
    (Lie::NoSessions, "a_read_is_an_error"),
    (Lie::NothingToRevoke, "a_change_is_an_error"),
    (Lie::Ready, "the_store_says_that_it_is_down"),
];

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
    Err(StoreError::new(
        StoreErrorKind::Unreachable,
        "the store is down",
    ))
}

impl SessionCache for Down {
    type Lease = ();

    async fn get(
        &self,
        digests: &[TokenDigest],
        _judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<()>> {
        let answer = |_: &TokenDigest| match self.0 {
            Some(Lie::Miss) => Lookup::DoNotFill,
            _ => Lookup::Failed(no_cache()),
        };
        let asked = if self.tells(Lie::OneAnswerForAll) {
            &digests[..1]
        } else {
            digests
        };
        asked.iter().map(answer).collect()
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
    async fn load(&self, digests: &[TokenDigest]) -> Result<Loaded, StoreError> {
        let loaded = Loaded {
            now: Timestamp::from_micros(0),
            store_id: [7; 16],
            xmin: 0,
            rows: digests.iter().map(|_| Row::Absent).collect(),
        };
        self.store(Lie::Absent, loaded)
    }
    async fn login_moment(&self) -> Result<LoginMoment, StoreError> {
        no_store()
    }
    async fn create(&self, _: TokenDigest, _: &CheckedSession) -> Result<Creation, StoreError> {
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
    async fn list(&self, _: &str) -> Result<Vec<ListedSession>, StoreError> {
        self.store(Lie::NoSessions, Vec::new())
    }
    async fn journal_since(&self, _: Option<JournalPosition>) -> Result<JournalRead, StoreError> {
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
