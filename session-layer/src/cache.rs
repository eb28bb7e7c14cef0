//! The port to the cache: what the protocol needs of Redis, or of what takes its place.
//!
//! A cached copy is created by a *lease*, never by "get, else set": whoever misses takes the lease,
//! reads the store *afterwards*, and may fill only while the lease still stands. Whatever ends a
//! session removes the lease along with the copy, so a read that is older than the revocation can't
//! be filled in after it. Losing a lease (a flush, an eviction, a restart) only makes a fill fail.

use std::future::Future;
use std::time::Duration;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::error::CacheError;
use crate::session::Session;
use crate::store::StoreId;
use crate::token::TokenDigest;

#[cfg(feature = "sqlite")]
mod memory;
mod none;
#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "sqlite")]
pub use self::memory::{MemoryCache, MemoryLease};
pub(crate) use self::none::NO_CACHE;
pub use self::none::NoCache;
#[cfg(feature = "redis")]
pub use self::redis::{
    DEFAULT_DEADLINE, DEFAULT_NAMESPACE, DEFAULT_POOL_SIZE, RedisCache, RedisCacheBuilder,
    RedisLease,
};

/// How long a lease stands: a fill that takes longer is refused. It is part of every stated bound
/// (TTL + 2 s).
pub const LEASE: Duration = Duration::from_secs(2);
/// How long a fence keeps fills away.
pub const FENCE: Duration = Duration::from_secs(5);

/// What [`is_namespace`] demands, in words.
pub(crate) const NAMESPACE: &str = "1 to 100 visible ASCII characters without braces";

/// May this be the prefix of every key? Braces are a hash tag in a cluster.
pub(crate) fn is_namespace(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_graphic() && !matches!(c, '{' | '}'))
}

/// A cached copy of a session.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The session as the store's read returned it.
    pub session: Session,
    /// Which store it was read from.
    pub store_id: StoreId,
    /// The oldest transaction still running at that read (Postgres' snapshot xmin; 0 where the store
    /// has none): whether a node's journal reaches back far enough to vouch for it.
    pub xmin: u64,
    /// The store's clock at that read. A node whose TTL is shorter than that of the node which put the
    /// entry there counts its own from here.
    pub read_at: Timestamp,
    /// Until when it may be served, by the store's clock.
    pub not_after: Timestamp,
}

/// What the node that reads an entry makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Belief {
    /// It may be served.
    Believed,
    /// It can never be served again (expired, older than a change): a lease may replace it.
    Dead,
    /// The same, and worth counting: it is another store's. Two environments share one cache, or somebody
    /// moved it here.
    Foreign,
    /// It may be good, but this node can't tell now, for it has lost touch with the store: ask the
    /// store, and leave the copy where it is.
    Unsure,
}

/// The outcome of a look-up. Hit, miss (in three forms) and failed: a cache that failed has not said
/// "miss".
#[derive(Debug)]
#[non_exhaustive]
pub enum Lookup<L> {
    /// A copy that is believed.
    Hit(Entry),
    /// Nothing there; the lease to fill it is ours. Read the store *after* this.
    Leased(L),
    /// Nothing to serve, and not our turn to fill (another's lease, a fence, a value of a wrong type, a
    /// copy of which this node is [unsure](Belief::Unsure)): ask the store and do not fill.
    DoNotFill,
    /// Nothing to serve, and the cache refused the lease (out of memory, no right to it): ask the store
    /// and do not fill.
    Refused(CacheError),
    /// The cache could not be asked: ask the store.
    Failed(CacheError),
}

/// What became of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filled {
    /// The copy is in the cache.
    Stored,
    /// The lease no longer stood (revoked, flushed, lapsed): nothing was stored, as it must be.
    Refused,
}

/// What an acknowledged invalidation proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalidated {
    /// There is one copy in all, and it is gone: no node can be served the old one.
    Everywhere,
    /// It is gone where we asked, but a replica may still bring it back at a failover.
    Here,
    /// It is gone from this process, and other processes may have copies of their own. Where the store
    /// [is exclusive](crate::store::SessionStore::is_exclusive) there are none of these, and it counts as
    /// `Everywhere`.
    InThisProcess,
}

/// A cache of sessions: [`RedisCache`], `MemoryCache` (feature `sqlite`), or your own.
///
/// Every method bounds itself in time: its answer, good or bad, is there within the cache's own
/// deadline. None of them may reconnect behind the protocol's back: a lease belongs to the connection
/// (the incarnation of the server) that granted it, and a fill goes out on that same one or is lost.
///
/// A call that goes on for ever all the same is dropped, a look-up after half of the
/// [budget](crate::SessionsBuilder::budget), all others after 2 s (or the budget, if that is longer). It has failed then, and so
/// has one that panics.
pub trait SessionCache: Send + Sync + 'static {
    /// The right to fill one key, once. Dropping it unused is safe: it lapses after [`LEASE`].
    type Lease: Send + 'static;

    /// Looks all digests up in one round trip; one answer per digest, in order. Where there is
    /// nothing (or only what `judge` calls dead), tries to take the lease.
    fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> impl Future<Output = Vec<Lookup<Self::Lease>>> + Send;

    /// Replaces the lease by `entry` for `lifetime`, if the lease still stands.
    fn fill(
        &self,
        lease: Self::Lease,
        entry: &Entry,
        lifetime: Duration,
    ) -> impl Future<Output = Result<Filled, CacheError>> + Send;

    /// Puts the fence: for [`FENCE`], no one fills these keys. Best effort; it shortens races.
    fn fence(&self, digests: &[TokenDigest])
    -> impl Future<Output = Result<(), CacheError>> + Send;

    /// Removes whatever is under these keys: copies, leases, fences.
    fn invalidate(
        &self,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<Invalidated, CacheError>> + Send;

    /// What is known without asking anyone.
    fn status(&self) -> CacheStatus;

    /// Really pings, sets and gets a key of its own.
    fn probe(&self) -> impl Future<Output = CacheProbe> + Send;

    /// Stops background tasks and closes connections.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// What a cache knows about itself without asking anyone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatus {
    /// `"redis"`, `"memory"` or `"none"`.
    pub backend: &'static str,
    /// Can it take commands, as far as known?
    pub connected: bool,
    /// Connections at most.
    pub size: usize,
    /// Connections that could take a command now (open and answering, or not opened yet while the
    /// server can be reached); 0 while it cannot.
    pub available: usize,
    /// Callers waiting for a connection.
    pub pending: usize,
    /// Values that were found and can never be served, since the start.
    pub rejected: Rejected,
    /// Are entries sealed? `None` where they never leave this process.
    pub sealed: Option<bool>,
}

impl CacheStatus {
    /// A status with everything at zero, of this backend; the fields are public.
    #[must_use]
    pub const fn new(backend: &'static str) -> Self {
        Self {
            backend,
            connected: false,
            size: 0,
            available: 0,
            pending: 0,
            rejected: Rejected::NONE,
            sealed: None,
        }
    }
}

/// Values that a cache found and can never serve, counted by why. Each was a miss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Rejected {
    /// No value of ours, or a broken one, one that stands under another key than its own, one over
    /// 256 KiB, one of a wrong type.
    pub undecodable: u64,
    /// Not sealed, by a node with keys: of nodes that have none yet, or planted.
    pub unsealed: u64,
    /// Sealed with a key that this node does not have: on the way from one key to the next, of another
    /// application, or planted.
    pub unknown_key: u64,
    /// Said to be sealed with a key of ours, and was not: changed, moved from another key, made up. There
    /// is no innocent way to one, but for one key ID with two keys.
    pub forged: u64,
    /// Of another incarnation: left from before a restart or a failover.
    pub outlived: u64,
    /// Of another store.
    pub foreign: u64,
}

impl Rejected {
    const NONE: Self = Self {
        undecodable: 0,
        unsealed: 0,
        unknown_key: 0,
        forged: 0,
        outlived: 0,
        foreign: 0,
    };

    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.undecodable
            + self.unsealed
            + self.unknown_key
            + self.forged
            + self.outlived
            + self.foreign
    }
}

/// What a [`probe`](SessionCache::probe) found. A duration is `None` where that step failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheProbe {
    /// Did it answer at all?
    pub connected: bool,
    /// The server's version, such as `7.0.15`.
    pub version: Option<String>,
    /// How long the server is up.
    pub uptime: Option<Duration>,
    /// Its memory as it prints it (`used_memory_human`).
    pub used_memory: Option<String>,
    /// How many keys its database holds, other applications' included.
    pub total_keys: Option<u64>,
    /// How long PING took.
    pub ping: Option<Duration>,
    /// How long SET took.
    pub set: Option<Duration>,
    /// How long GET took.
    pub get: Option<Duration>,
    /// What went wrong and what to do about it.
    pub errors: Vec<String>,
    /// What is worth knowing, and nothing is wrong with.
    pub remarks: Vec<String>,
}
