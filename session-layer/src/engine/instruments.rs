//! The figures that only metrics need: durations, and counts by operation, kind and result.
//!
//! With the feature `metrics` they are atomics ([`Instruments`] of `recording.rs`). A validation
//! records one duration, allocates nothing and calls no recorder. Without the feature, every method
//! does nothing (`disabled.rs`).
//!
//! `sessions/publisher.rs` hands the figures to the application's recorder.

#[cfg(feature = "metrics")]
pub(crate) mod catalog;
#[cfg(not(feature = "metrics"))]
mod disabled;
#[cfg(feature = "metrics")]
pub(crate) mod histogram;
#[cfg(feature = "metrics")]
pub(crate) mod recording;

#[cfg(not(feature = "metrics"))]
pub(crate) use self::disabled::Instruments;
#[cfg(feature = "metrics")]
pub(crate) use self::recording::Instruments;

/// A call of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheCall {
    LookUp,
    Fence,
    Fill,
    Invalidate,
}

/// A call of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreCall {
    Load,
    Touch,
    LoginSnapshot,
    Create,
    List,
    Digests,
    Revoke,
    Update,
    Rotate,
    Journal,
    Register,
    Housekeeping,
}

/// A change that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Revoke,
    Update,
    Rotate,
}

/// The result of a change: its visibility, or why it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeResult {
    Nothing,
    Propagated,
    Committed,
    /// There was no such session, or it had changed.
    Rejected,
    Unavailable,
    Unknown,
}
