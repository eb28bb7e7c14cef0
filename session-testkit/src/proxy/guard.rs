//! A toxic until it heals, and what it did.

use std::{fmt, sync::Arc};

use super::{Shared, active::Active};

/// What a fault has touched so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Connections that were delayed, held, cut short or ended.
    pub connections: u64,
    /// Bytes that were delayed, held, sliced or lost; those that merely passed in a connection that
    /// was ended are not counted.
    pub bytes: u64,
    /// How often what a [`count`](super::Toxic::count) looks for has come by.
    pub occurrences: u64,
}

impl Report {
    /// Whether it touched anything: if not, a test that passed under it has shown nothing.
    #[must_use]
    pub fn touched_something(self) -> bool {
        self.connections > 0 || self.bytes > 0 || self.occurrences > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections, {} bytes", self.connections, self.bytes)
    }
}

/// A [`Toxic`](super::Toxic), until it is dropped.
#[derive(Debug)]
#[must_use = "the toxic heals as soon as the guard is dropped"]
pub struct ToxicGuard {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Active,
}

impl ToxicGuard {
    /// What it has touched so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.active.touched.report()
    }

    /// Waits until it has touched something; put a deadline around it.
    pub async fn touched(&self) {
        self.active.touched.any().await;
    }

    /// The same as dropping it, but says so, and what it has touched.
    pub fn heal(self) -> Report {
        self.report()
    }

    /// [`heal`](Self::heal), in the word for held bytes: they are delivered.
    pub fn release(self) -> Report {
        self.heal()
    }
}

impl Drop for ToxicGuard {
    fn drop(&mut self) {
        self.shared
            .toxics
            .send_modify(|toxics| toxics.remove(self.active.id));
    }
}
