//! The guard of a toxic, and the report on it.

use std::{fmt, sync::Arc};

use super::{Shared, active::Active};

/// The effect of a fault so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The connections that were delayed, held, truncated or ended.
    pub connections: u64,
    /// The bytes that were delayed, held, sliced or lost. Bytes that passed unchanged on an ended
    /// connection do not count.
    pub bytes: u64,
    /// The occurrences that a [`count`](super::Toxic::count) found.
    pub occurrences: u64,
}

impl Report {
    /// Returns whether the fault affected anything. If not, a test that passed has proved nothing.
    pub fn touched_something(self) -> bool {
        self.connections > 0 || self.bytes > 0 || self.occurrences > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections, {} bytes", self.connections, self.bytes)
    }
}

/// The guard of a [`Toxic`](super::Toxic), which heals when it is dropped.
#[derive(Debug)]
#[must_use = "the toxic heals as soon as the guard is dropped"]
pub struct ToxicGuard {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Active,
}

impl ToxicGuard {
    /// Returns the effect so far.
    pub fn report(&self) -> Report {
        self.active.touched.report()
    }

    /// Waits until the toxic has affected something. The caller needs a timeout.
    pub async fn touched(&self) {
        self.active.touched.any().await;
    }

    /// Heals the toxic, as dropping the guard does, and returns its effect.
    pub fn heal(self) -> Report {
        self.report()
    }

    /// Heals a toxic that holds bytes, which are then delivered. It is [`heal`](Self::heal).
    pub fn release(self) -> Report {
        self.heal()
    }
}

impl Drop for ToxicGuard {
    fn drop(&mut self) {
        self.shared.toxics.send_modify(|toxics| toxics.remove(self.active.id));
    }
}
