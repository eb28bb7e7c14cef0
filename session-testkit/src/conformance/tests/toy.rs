//! A simple cache with one bug, or none. It may be down, and report it except for one false reply.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::cache::{
    CacheProbe, CacheStatus, Entry, EntryVerdict, FENCE_TTL, Filled, Invalidated, LEASE_TTL,
    Lookup, SessionCache,
};
use session_layer::error::{CacheError, CacheErrorKind};
use session_layer::store::SessionParts;
use session_layer::{Session, TokenDigest};
use tokio::time::Instant;

use self::Mistake as M;

super::mistakes! {
    pub(super) enum Mistake = None, Panics, Hangs;
    /// Each bug with the checks that must find it.
    pub(super) const MISTAKES = {
        FillStoresNothing: "miss_grants_lease_that_fills",
        LeaseIsTakenOver: "held_lease_blocks_other_fills",
        LeaseIsCheckedThenSet: "concurrent_misses_grant_one_lease",
        LeasesOfOneLookUpAreGrantedTogether: "duplicate_digest_gets_one_lease",
        LeaseLapsesEarly: "lease_lasts_exactly_its_ttl",
        LeaseNeverLapses:
            "lease_lasts_exactly_its_ttl"
            "lapsed_lease_does_not_fill"
            "dropped_lease_lapses",
        LapsedLeaseFills: "lapsed_lease_does_not_fill",
        FillIgnoresTheLease:
            "lease_lasts_exactly_its_ttl"
            "lapsed_lease_does_not_fill"
            "lost_leases_never_fill"
            "invalidate_removes_leases"
            "fence_prevents_fills",
        NonceIsAByte: "lost_leases_never_fill",
        NonceIsAlwaysTheSame: "lost_leases_never_fill",
        XminIsLost: "entry_read_back_is_identical",
        DataAreReformatted: "entry_read_back_is_identical",
        LifetimeIsIgnored: "entry_expires_after_its_lifetime",
        LifetimeIsQuartered: "entry_expires_after_its_lifetime",
        BusyAfterCancellation: "cancelled_operations_leave_cache_consistent",
        InvalidateDoesNothing: "invalidate_removes_entries",
        InvalidateTakesTheFirst: "invalidate_removes_entries",
        InvalidateLeavesTheLease: "invalidate_removes_leases",
        InvalidateLeavesTheFence: "invalidate_removes_fences",
        FillChecksThenSets: "invalidate_wins_over_concurrent_fill",
        NothingIsAnError: "empty_digest_list_is_no_error",
        FenceDoesNothing: "fence_prevents_fills",
        FenceSparesTheLease: "fence_prevents_fills",
        FenceLapsesEarly: "fence_lapses",
        FenceNeverLapses: "fence_lapses",
        JudgeIsNotCalled: "fresh_entry_is_served_and_stays",
        RejectedIsServed: "rejected_entry_is_replaced_by_lease",
        RejectedEntryStays: "rejected_entry_is_replaced_by_lease",
        RejectedIsNeverReplaced: "rejected_entry_is_replaced_by_lease",
        ForeignIsServed: "foreign_entry_is_replaced_by_lease",
        ForeignIsNeverReplaced: "foreign_entry_is_replaced_by_lease",
        UnsureIsServed: "undecided_entry_stays",
        UnsureIsReplaced: "undecided_entry_stays",
        UnsureIsRemoved: "undecided_entry_stays",
        LeaseReplacesAnything: "only_the_judged_entry_is_replaced",
        ResultsAreReversed: "results_match_the_order_of_digests",
        KeyIsAPrefix: "keys_are_independent",
        LeasesAreForTheLastKey: "lease_fills_only_its_own_key",
        BackendHasNoName: "status_is_correct",
        AvailableExceedsSize: "status_is_correct",
        ProbeFails: "probe_is_correct",
        ProbeClearsAll: "probe_is_correct",
    }
    /// False replies of a cache that is down, each with the check that must find it.
    pub(super) const LIES = {
        Miss: "lookup_fails_for_each_digest",
        OneReplyForAll: "lookup_fails_for_each_digest",
        Invalidated: "invalidation_is_never_acknowledged",
        Connected: "cache_reports_that_it_is_down",
        ProbeConnected: "cache_reports_that_it_is_down",
        NoReason: "cache_reports_that_it_is_down",
    }
}

#[derive(Debug)]
pub(super) struct Toy {
    mistake: Mistake,
    down: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    values: HashMap<Vec<u8>, Value>,
    /// The number of writes so far, which makes each value unique.
    count: u64,
    busy: bool,
}

#[derive(Debug, Clone)]
struct Value {
    content: Content,
    number: u64,
    until: Instant,
}

#[derive(Debug, Clone)]
enum Content {
    Lease(u64),
    Copy(Box<Entry>),
    Fence,
}

#[derive(Debug)]
pub(super) struct ToyLease {
    digest: TokenDigest,
    nonce: u64,
}

impl State {
    fn put(&mut self, key: Vec<u8>, content: Content, lifetime: Duration) -> u64 {
        self.count += 1;
        let number = self.count;
        let until = Instant::now() + lifetime;
        let value = Value { content, number, until };
        self.values.insert(key, value);
        number
    }

    fn get(&self, key: &[u8]) -> Option<Value> {
        let value = self.values.get(key)?;
        (Instant::now() < value.until).then(|| value.clone())
    }
}

impl Toy {
    pub(super) fn new() -> Self {
        Self::with(Mistake::None)
    }

    pub(super) fn with(mistake: Mistake) -> Self {
        Self { mistake, down: false, state: Mutex::default() }
    }

    pub(super) fn down(self) -> Self {
        Self { down: true, ..self }
    }

    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, digest: &TokenDigest) -> Vec<u8> {
        let bytes = digest.as_bytes();
        let end = if self.has(M::KeyIsAPrefix) { 16 } else { 32 };
        bytes[..end].to_vec()
    }

    fn nonce(&self, number: u64) -> u64 {
        match self.mistake {
            M::NonceIsAByte => number % 256,
            M::NonceIsAlwaysTheSame => 0,
            _ => number,
        }
    }

    async fn look_up(
        &self,
        digest: TokenDigest,
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Lookup<ToyLease> {
        let key = self.key(&digest);
        let found = self.state().get(&key);
        let judged = match &found {
            None => None,
            Some(value) => match &value.content {
                Content::Lease(_) if self.has(M::LeaseIsTakenOver) => None,
                Content::Lease(_) | Content::Fence => return Lookup::DoNotFill,
                // The state is unlocked: another node may replace the entry during the verdict.
                Content::Copy(entry) => match judge_of(self.mistake, entry, judge) {
                    EntryVerdict::Fresh => return Lookup::Hit((**entry).clone()),
                    EntryVerdict::Stale if self.has(M::RejectedIsNeverReplaced) => {
                        return Lookup::DoNotFill;
                    }
                    EntryVerdict::Foreign if self.has(M::ForeignIsNeverReplaced) => {
                        return Lookup::DoNotFill;
                    }
                    EntryVerdict::Stale | EntryVerdict::Foreign => Some(value.number),
                    _ => {
                        if self.has(M::UnsureIsRemoved) {
                            self.state().values.remove(&key);
                        }
                        return Lookup::DoNotFill;
                    }
                },
            },
        };
        if self.has(M::LeaseIsCheckedThenSet) {
            tokio::task::yield_now().await;
        }
        self.take_lease(digest, key, judged)
    }

    fn take_lease(
        &self,
        digest: TokenDigest,
        key: Vec<u8>,
        judged: Option<u64>,
    ) -> Lookup<ToyLease> {
        let mut state = self.state();
        let present = state.get(&key).map(|value| value.number);
        let careless = matches!(
            self.mistake,
            M::LeaseIsTakenOver | M::LeaseIsCheckedThenSet | M::LeaseReplacesAnything
        );
        if present != judged && !careless {
            return Lookup::DoNotFill;
        }
        let nonce = self.nonce(state.count + 1);
        if judged.is_none() || !self.has(M::RejectedEntryStays) {
            let lifetime = match self.mistake {
                M::LeaseLapsesEarly => LEASE_TTL / 2,
                M::LeaseNeverLapses => LEASE_TTL * 100,
                _ => LEASE_TTL,
            };
            state.put(key, Content::Lease(nonce), lifetime);
        }
        Lookup::Leased(ToyLease { digest, nonce })
    }

    fn holds(&self, state: &State, lease: &ToyLease) -> bool {
        let key = self.key(&lease.digest);
        let found = if self.has(M::LapsedLeaseFills) {
            state.values.get(&key).cloned()
        } else {
            state.get(&key)
        };
        let content = found.map(|value| value.content);
        matches!(content, Some(Content::Lease(nonce)) if nonce == lease.nonce)
    }

    fn damaged(&self, entry: &Entry) -> Entry {
        let mut entry = entry.clone();
        match self.mistake {
            M::XminIsLost => entry.xmin = 0,
            M::DataAreReformatted => {
                let parts = entry.session.parts();
                let data: serde_json::Value = entry.session.data().unwrap();
                let data = RawValue::from_string(data.to_string()).unwrap();
                entry.session = Session::from(SessionParts { data, ..parts });
            }
            _ => {}
        }
        entry
    }
}

fn judge_of(
    mistake: Mistake,
    entry: &Entry,
    judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
) -> EntryVerdict {
    match mistake {
        M::JudgeIsNotCalled => EntryVerdict::Fresh,
        _ => match (mistake, judge(entry)) {
            (M::RejectedIsServed, EntryVerdict::Stale)
            | (M::ForeignIsServed, EntryVerdict::Foreign)
            | (M::UnsureIsServed, EntryVerdict::Unverified) => EntryVerdict::Fresh,
            (M::UnsureIsReplaced, EntryVerdict::Unverified) => EntryVerdict::Stale,
            (_, belief) => belief,
        },
    }
}

fn error(what: &str) -> CacheError {
    CacheError::new(CacheErrorKind::Unreachable, what)
}

impl SessionCache for Toy {
    type Lease = ToyLease;

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<ToyLease>> {
        assert!(!self.has(M::Panics), "injected panic");
        if self.has(M::Hangs) {
            std::future::pending::<()>().await;
        }
        if self.down {
            let reply = |_: &TokenDigest| match self.mistake {
                M::Miss => Lookup::DoNotFill,
                _ => Lookup::Failed(error("down")),
            };
            let replied = if self.has(M::OneReplyForAll) { &digests[..1] } else { digests };
            return replied.iter().map(reply).collect();
        }
        let mut answers = Vec::new();
        for digest in digests {
            answers.push(self.look_up(*digest, judge).await);
        }
        match self.mistake {
            M::ResultsAreReversed => answers.reverse(),
            M::LeasesOfOneLookUpAreGrantedTogether if digests.len() == 2 => {
                for (digest, answer) in digests.iter().zip(&mut answers) {
                    *answer = Lookup::Leased(ToyLease { digest: *digest, nonce: 0 });
                }
            }
            M::LeasesAreForTheLastKey => {
                for answer in &mut answers {
                    if let Lookup::Leased(lease) = answer {
                        lease.digest = digests[digests.len() - 1];
                    }
                }
            }
            _ => {}
        }
        answers
    }

    async fn fill(
        &self,
        lease: ToyLease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        if self.has(M::BusyAfterCancellation) {
            if std::mem::replace(&mut self.state().busy, true) {
                return Err(error("busy"));
            }
            tokio::task::yield_now().await;
            self.state().busy = false;
        }
        if self.has(M::FillChecksThenSets) {
            if !self.holds(&self.state(), &lease) {
                return Ok(Filled::Refused);
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let lifetime = match self.mistake {
            M::LifetimeIsIgnored => Duration::from_secs(3600),
            M::LifetimeIsQuartered => lifetime / 4,
            _ => lifetime,
        };
        let copy = Content::Copy(Box::new(self.damaged(entry)));
        // One lock for the check and the write: an `invalidate` in between would have no effect.
        let mut state = self.state();
        let is_unchecked = self.has(M::FillIgnoresTheLease) || self.has(M::FillChecksThenSets);
        if !is_unchecked && !self.holds(&state, &lease) {
            return Ok(Filled::Refused);
        }
        if !self.has(M::FillStoresNothing) {
            state.put(self.key(&lease.digest), copy, lifetime);
        }
        Ok(Filled::Stored)
    }

    async fn fence(&self, digests: &[TokenDigest]) -> Result<(), CacheError> {
        if self.down {
            return Err(error("down"));
        }
        for digest in digests {
            let key = self.key(digest);
            let mut state = self.state();
            let lifetime = match self.mistake {
                M::FenceDoesNothing => continue,
                M::FenceSparesTheLease if state.get(&key).is_some() => continue,
                M::FenceLapsesEarly => FENCE_TTL / 2,
                M::FenceNeverLapses => FENCE_TTL * 100,
                _ => FENCE_TTL,
            };
            state.put(key, Content::Fence, lifetime);
        }
        Ok(())
    }

    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        if self.down && !self.has(M::Invalidated) {
            return Err(error("down"));
        }
        if digests.is_empty() && self.has(M::NothingIsAnError) {
            return Err(error("nothing to remove"));
        }
        for (at, digest) in digests.iter().enumerate() {
            let key = self.key(digest);
            let mut state = self.state();
            let content = state.get(&key).map(|value| value.content);
            let spared = match self.mistake {
                M::InvalidateDoesNothing => true,
                M::InvalidateTakesTheFirst => at > 0,
                M::InvalidateLeavesTheLease => matches!(content, Some(Content::Lease(_))),
                M::InvalidateLeavesTheFence => matches!(content, Some(Content::Fence)),
                _ => false,
            };
            if !spared {
                state.values.remove(&key);
            }
        }
        Ok(Invalidated::Everywhere)
    }

    fn status(&self) -> CacheStatus {
        let mut status = CacheStatus::new(if self.has(M::BackendHasNoName) { "" } else { "toy" });
        status.connected = !self.down || self.has(M::Connected);
        if self.has(M::AvailableExceedsSize) {
            status.available = 1;
        }
        status
    }

    async fn probe(&self) -> CacheProbe {
        let mut probe = CacheProbe::default();
        probe.connected = !self.down || self.has(M::ProbeConnected);
        if self.down && !self.has(M::NoReason) {
            probe.errors.push("down".to_owned());
        }
        (probe.ping, probe.get) = (Some(Duration::ZERO), Some(Duration::ZERO));
        probe.set = (!self.has(M::ProbeFails)).then_some(Duration::ZERO);
        if self.has(M::ProbeClearsAll) {
            self.state().values.clear();
        }
        probe
    }

    async fn close(&self) {}
}
