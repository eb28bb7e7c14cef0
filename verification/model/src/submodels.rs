//! Small models of the parts beside the core: lives and pages of the journal, logins, tokens, the
//! registry of caches, and everything that counts time. Each file has its runs.

use crate::run::Run;

mod cluster;
mod lives;
mod login;
mod own_ttl;
mod paging;
mod registry;
mod revoke_all;
mod rotate;
mod servers;
mod touch;
mod touched;

/// The first and the second promise of a model. Its runs name them.
const P: u32 = 1;
const Q: u32 = 2;
/// Marks that a model's runs must reach. Its runs name them.
const SEEN: u32 = 1;
const SEEN_TOO: u32 = 2;

/// Returns the runs of all these models.
pub(crate) fn runs() -> [Vec<Run>; 11] {
    [
        cluster::runs(),
        lives::runs(),
        login::runs(),
        own_ttl::runs(),
        paging::runs(),
        registry::runs(),
        revoke_all::runs(),
        rotate::runs(),
        servers::runs(),
        touch::runs(),
        touched::runs(),
    ]
}

/// Returns the letter of the first or the second of two databases, caches or sessions.
fn letter(index: usize) -> char {
    if index == 0 { 'A' } else { 'B' }
}

/// Returns the promise if it is broken.
fn broken(promise: u32, is_broken: bool) -> u32 {
    if is_broken { promise } else { 0 }
}

/// A snapshot of a database: the next transaction id, and the transactions below it that are open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Snapshot {
    xmax: u8,
    open: [Option<u8>; 2],
}

impl Snapshot {
    fn sees(&self, id: u8) -> bool {
        id < self.xmax && !self.open.contains(&Some(id))
    }

    fn xmin(&self) -> u8 {
        self.open.iter().flatten().min().copied().unwrap_or(self.xmax)
    }
}
