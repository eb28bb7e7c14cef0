//! The instruments with the feature `metrics`.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::counter::Counter;
use crate::engine::instruments::histogram::Histogram;
use crate::engine::instruments::{CacheCall, ChangeKind, ChangeResult, StoreCall};
use crate::engine::validation::{Answers, Source, UNAVAILABLE, VALID};
use crate::model::error::{CacheError, CacheErrorKind, StoreError, StoreErrorKind};

/// One near hit of this many is timed, and the counter has all. A near hit takes about 1 µs, of
/// which another clock read and a recorder's work would be a tenth.
const TIMED_NEAR_HITS: u64 = 16;

/// Every source and result of a validation, with their labels. The near cache and the cache answer
/// only with sessions.
pub(crate) const OUTCOMES: [(Outcome, [&str; 2]); 6] = [
    (Outcome::Near, ["near", "valid"]),
    (Outcome::Cache, ["cache", "valid"]),
    (Outcome::StoreValid, ["store", "valid"]),
    (Outcome::StoreInvalid, ["store", "invalid"]),
    (Outcome::StoreUnavailable, ["store", "unavailable"]),
    (Outcome::Nowhere, ["none", "unavailable"]),
];

pub(crate) const CACHE_CALLS: [CacheCall; 4] =
    [CacheCall::LookUp, CacheCall::Fence, CacheCall::Fill, CacheCall::Invalidate];

pub(crate) const STORE_CALLS: [StoreCall; 12] = [
    StoreCall::Load,
    StoreCall::Touch,
    StoreCall::LoginSnapshot,
    StoreCall::Create,
    StoreCall::List,
    StoreCall::Digests,
    StoreCall::Revoke,
    StoreCall::Update,
    StoreCall::Rotate,
    StoreCall::Journal,
    StoreCall::Register,
    StoreCall::Housekeeping,
];

/// The kinds of failed calls. A look-up that was not made because the breaker is open is no call.
pub(crate) const CACHE_ERRORS: [CacheErrorKind; 7] = [
    CacheErrorKind::Unreachable,
    CacheErrorKind::TimedOut,
    CacheErrorKind::NotMaster,
    CacheErrorKind::Refused,
    CacheErrorKind::Protocol,
    CacheErrorKind::Entry,
    CacheErrorKind::PartUnavailable,
];

pub(crate) const STORE_ERRORS: [StoreErrorKind; 9] = [
    StoreErrorKind::Unreachable,
    StoreErrorKind::TimedOut,
    StoreErrorKind::NotAuthoritative,
    StoreErrorKind::Denied,
    StoreErrorKind::Schema,
    StoreErrorKind::Uncertain,
    StoreErrorKind::Input,
    StoreErrorKind::Shed,
    StoreErrorKind::Other,
];

pub(crate) const CHANGES: [(ChangeKind, &str); 3] = [
    (ChangeKind::Revoke, "revoke"),
    (ChangeKind::Update, "update"),
    (ChangeKind::Rotate, "rotate"),
];

/// The results of a change: its visibility, or why it has none.
pub(crate) const CHANGE_RESULTS: [ChangeResult; 6] = [
    ChangeResult::Nothing,
    ChangeResult::Propagated,
    ChangeResult::Committed,
    ChangeResult::Rejected,
    ChangeResult::Unavailable,
    ChangeResult::Unknown,
];

/// The reasons of this crate, which are few. An application's own reasons may be as many as its
/// users, so they are one.
pub(crate) const END_REASONS: [&str; 4] =
    ["revoked", "revoked all", "revoked all others", OTHER_REASON];
const OTHER_REASON: &str = "other";

/// The source and the result of a validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Near,
    Cache,
    StoreValid,
    StoreInvalid,
    StoreUnavailable,
    Nowhere,
}

impl Outcome {
    /// Returns the outcome of one look-up. That of several tokens is one validation, and one valid
    /// token makes it valid.
    fn of(answers: &Answers) -> Self {
        match (answers.source, answers.result()) {
            (Source::Near, _) => Self::Near,
            (Source::Cache, _) => Self::Cache,
            (Source::None, _) => Self::Nowhere,
            (Source::Store, VALID) => Self::StoreValid,
            (Source::Store, UNAVAILABLE) => Self::StoreUnavailable,
            (Source::Store, _) => Self::StoreInvalid,
        }
    }
}

/// The instruments of one engine.
#[derive(Debug, Default)]
pub(crate) struct Instruments {
    validations: [Histogram; OUTCOMES.len()],
    cache_calls: [Counter; CACHE_CALLS.len()],
    cache_errors: [[Counter; CACHE_ERRORS.len()]; CACHE_CALLS.len()],
    store_calls: [Histogram; STORE_CALLS.len()],
    store_errors: [[Counter; STORE_ERRORS.len()]; STORE_CALLS.len()],
    changes: [[Counter; CHANGE_RESULTS.len()]; CHANGES.len()],
    created: Counter,
    ended: [Counter; END_REASONS.len()],
    breaker_closed: Counter,
    journal_lag_nanos: AtomicU64,
}

/// What the engine records.
impl Instruments {
    /// Records a near hit that began at `began`, `before` which there were so many.
    #[inline]
    pub(crate) fn near_hit(&self, before: u64, began: Instant) {
        if before.is_multiple_of(TIMED_NEAR_HITS) {
            self.validations[Outcome::Near as usize].record(began.elapsed());
        }
    }

    /// Records the answers of one look-up that began at `began`.
    #[inline]
    pub(crate) fn validated(&self, answers: &Answers, began: Instant) {
        self.validations[Outcome::of(answers) as usize].record(began.elapsed());
    }

    /// Records a call of the cache, and its error.
    pub(crate) fn cache_called(&self, call: CacheCall, error: Option<&CacheError>) {
        self.cache_calls[call as usize].add_one();
        let kind = |error: &CacheError| CACHE_ERRORS.iter().position(|kind| *kind == error.kind());
        if let Some(kind) = error.and_then(kind) {
            self.cache_errors[call as usize][kind].add_one();
        }
    }

    /// Records a call of the store with its duration, and its error.
    pub(crate) async fn store_called<T>(
        &self,
        call: StoreCall,
        calling: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let outcome = calling.await;
        self.store_calls[call as usize].record(began.elapsed());
        if let Err(error) = &outcome
            && let Some(kind) = STORE_ERRORS.iter().position(|kind| *kind == error.kind())
        {
            self.store_errors[call as usize][kind].add_one();
        }
        outcome
    }

    pub(crate) fn breaker_closed(&self) {
        self.breaker_closed.add_one();
    }

    /// Records that a read of the journal, which began at `began`, has reached its end.
    pub(crate) fn journal_read(&self, began: Instant) {
        let lag = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.journal_lag_nanos.store(lag, Ordering::Relaxed);
    }

    pub(crate) fn created(&self) {
        self.created.add_one();
    }

    /// Records that this many sessions have ended for this reason.
    pub(crate) fn ended(&self, reason: &str, sessions: u64) {
        let known = END_REASONS.iter().position(|known| *known == reason);
        self.ended[known.unwrap_or(END_REASONS.len() - 1)].add(sessions);
    }

    pub(crate) fn changed(&self, kind: ChangeKind, result: ChangeResult) {
        self.changes[kind as usize][result as usize].add_one();
    }
}

/// What the publisher reads.
impl Instruments {
    pub(crate) fn validations(&self, outcome: Outcome) -> &Histogram {
        &self.validations[outcome as usize]
    }

    pub(crate) fn cache_calls(&self, call: CacheCall) -> u64 {
        self.cache_calls[call as usize].get()
    }

    pub(crate) fn cache_errors(&self, call: CacheCall, kind: usize) -> u64 {
        self.cache_errors[call as usize][kind].get()
    }

    pub(crate) fn store_calls(&self, call: StoreCall) -> &Histogram {
        &self.store_calls[call as usize]
    }

    pub(crate) fn store_errors(&self, call: StoreCall, kind: usize) -> u64 {
        self.store_errors[call as usize][kind].get()
    }

    pub(crate) fn changes(&self, kind: ChangeKind, result: ChangeResult) -> u64 {
        self.changes[kind as usize][result as usize].get()
    }

    pub(crate) fn sessions_created(&self) -> u64 {
        self.created.get()
    }

    /// Returns how many sessions have ended for reason number `reason` of [`END_REASONS`].
    pub(crate) fn sessions_ended(&self, reason: usize) -> u64 {
        self.ended[reason].get()
    }

    pub(crate) fn breaker_closed_times(&self) -> u64 {
        self.breaker_closed.get()
    }

    pub(crate) fn journal_lag(&self) -> Duration {
        Duration::from_nanos(self.journal_lag_nanos.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::validation::Validation;

    // The arrays are indexed by the variants.
    #[test]
    fn every_list_is_in_the_order_of_its_variants() {
        assert!(OUTCOMES.iter().enumerate().all(|(at, (outcome, _))| *outcome as usize == at));
        assert!(CACHE_CALLS.iter().enumerate().all(|(at, call)| *call as usize == at));
        assert!(STORE_CALLS.iter().enumerate().all(|(at, call)| *call as usize == at));
        assert!(CHANGES.iter().enumerate().all(|(at, (kind, _))| *kind as usize == at));
        assert!(CHANGE_RESULTS.iter().enumerate().all(|(at, it)| *it as usize == at));
    }

    #[test]
    fn one_unknown_token_makes_an_invalid_look_up_unavailable() {
        use Validation::{Invalid, Unavailable};
        for (source, validations, expected) in [
            (Source::Store, vec![Invalid], Outcome::StoreInvalid),
            (Source::Store, vec![Invalid, Unavailable], Outcome::StoreUnavailable),
            (Source::None, vec![Unavailable], Outcome::Nowhere),
        ] {
            let answers = Answers { validations: validations.into(), ..Answers::of(source) };
            assert_eq!(Outcome::of(&answers), expected);
        }
    }

    #[test]
    fn call_of_a_lost_shard_counts_as_failed() {
        let instruments = Instruments::default();
        let lost = CacheError::new(CacheErrorKind::PartUnavailable, "the shard is down");
        instruments.cache_called(CacheCall::LookUp, Some(&lost));
        let errors: Vec<_> = CACHE_ERRORS
            .iter()
            .enumerate()
            .filter(|(kind, _)| instruments.cache_errors(CacheCall::LookUp, *kind) > 0)
            .map(|(_, kind)| kind.as_str())
            .collect();
        assert_eq!(errors, ["part_unavailable"]);
    }

    #[test]
    fn unknown_reason_counts_as_other() {
        let instruments = Instruments::default();
        instruments.ended("revoked all", 3);
        instruments.ended("alice changed her password", 2);
        assert_eq!((0..4).map(|n| instruments.sessions_ended(n)).collect::<Vec<_>>(), [0, 3, 0, 2]);
    }

    #[test]
    fn one_near_hit_of_sixteen_is_timed() {
        let instruments = Instruments::default();
        (0..33).for_each(|before| instruments.near_hit(before, Instant::now()));
        assert_eq!(instruments.validations(Outcome::Near).count(), 3);
    }
}
