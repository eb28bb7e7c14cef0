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

#[cfg(feature = "metrics")]
impl CacheCall {
    /// Returns the name that metrics have.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::LookUp => "look_up",
            Self::Fence => "fence",
            Self::Fill => "fill",
            Self::Invalidate => "invalidate",
        }
    }
}

impl StoreCall {
    /// Returns the name that metrics and traces have.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Touch => "touch",
            Self::LoginSnapshot => "login_snapshot",
            Self::Create => "create",
            Self::List => "list",
            Self::Digests => "digests",
            Self::Revoke => "revoke",
            Self::Update => "update",
            Self::Rotate => "rotate",
            Self::Journal => "journal",
            Self::Register => "register",
            Self::Housekeeping => "housekeeping",
        }
    }

    /// Returns the main operation of the call, and its table.
    pub(crate) const fn statement(self) -> (&'static str, &'static str) {
        match self {
            Self::Load | Self::List | Self::Digests | Self::LoginSnapshot => ("SELECT", "sessions"),
            Self::Create => ("INSERT", "sessions"),
            Self::Touch | Self::Revoke | Self::Update | Self::Rotate => ("UPDATE", "sessions"),
            Self::Journal => ("SELECT", "session_journal"),
            Self::Register => ("SELECT", "session_nodes"),
            Self::Housekeeping => ("DELETE", "sessions"),
        }
    }
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

impl ChangeResult {
    /// Returns the name that metrics and traces have.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Propagated => "propagated",
            Self::Committed => "committed",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
        }
    }
}
