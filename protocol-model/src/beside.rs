//! Small models of what lies beside the protocol's core: the journal and positions in it, logins, tokens,
//! and everything that counts time.

pub(crate) mod begin;
pub(crate) mod l1;
pub(crate) mod login;
pub(crate) mod own_ttl;
pub(crate) mod reused;
pub(crate) mod rotate;
pub(crate) mod tail;
pub(crate) mod touch;
pub(crate) mod touched;
pub(crate) mod truncated;

/// The first promise of a model here; its runs name it.
pub(crate) const P: u32 = 1;
/// The second.
pub(crate) const Q: u32 = 2;
/// What makes a run of it mean something.
pub(crate) const SEEN: u32 = 1;
/// The second such thing.
pub(crate) const SEEN_TOO: u32 = 2;

/// The promise, if it is broken.
fn broken(promise: u32, is_broken: bool) -> u32 {
    if is_broken { promise } else { 0 }
}
