//! The port to the cache: the operations that the protocol requires of Redis or of a replacement.
//!
//! A *lease* permits each fill, because "get, else set" is unsafe. On a miss, a node acquires the
//! lease and then reads the store. It may fill only while the lease is still in place. Every change
//! removes the lease along with the entry. A read that is older than a revocation can therefore not
//! be filled in after it. If a flush, an eviction or a restart loses the lease, the fill fails.

use std::future::Future;
use std::time::Duration;

use serde::Serialize;

use crate::model::clock::Timestamp;
use crate::model::error::CacheError;
pub use crate::model::identity::CacheId;
use crate::model::identity::StoreId;
use crate::model::session::Session;
use crate::model::token::TokenDigest;

#[cfg(feature = "redis")]
pub(crate) mod codec;
#[cfg(feature = "memory")]
mod memory;
mod none;
#[cfg(feature = "redis")]
mod redis;
pub(crate) mod seal;

#[cfg(feature = "memory")]
pub use self::memory::{MemoryCache, MemoryLease};
pub(crate) use self::none::NO_CACHE;
pub use self::none::NoCache;
#[cfg(feature = "redis")]
pub use self::redis::{
    ConnectCause, ConnectError, DEFAULT_DEADLINE, DEFAULT_NAMESPACE, DEFAULT_POOL_SIZE, RedisCache,
    RedisCacheBuilder, RedisConnection, RedisLease, server_version,
};

/// The lifetime of a lease. A later fill is rejected. Every stated bound includes it (TTL + 2 s).
pub const LEASE_TTL: Duration = Duration::from_secs(2);
/// The lifetime of a fence, which prevents fills.
pub const FENCE_TTL: Duration = Duration::from_secs(5);

/// The requirement of [`is_namespace`], in words.
pub(crate) const NAMESPACE: &str = "1 to 100 visible ASCII characters without braces";

/// Returns whether `text` may prefix every key. Braces would be a hash tag in a cluster.
pub(crate) fn is_namespace(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '{' | '}'))
}

/// The cache from which a node serves entries, as far as the node knows now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheIdentity {
    /// A cache that all nodes with this id share. One removal reaches them all.
    Shared(CacheId),
    /// A cache of this node alone, or an unknown one. Other nodes' removals may not reach it.
    OfThisNode,
    /// Connections are missing or lead to different servers. No entry is served.
    Unsettled,
}

/// A cached copy of a session.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The session as the store's read returned it.
    pub session: Session,
    /// The user's epoch at the login. The entry is expired once the user's epoch is higher.
    pub user_epoch: i64,
    /// The life of the store in which the session was read. The entry is rejected in another life,
    /// where `xmin` means nothing.
    pub store_id: StoreId,
    /// The oldest transaction still running at that read: the xmin of Postgres' snapshot, or 0 for
    /// a store without one. It shows whether a node's journal reaches back far enough.
    pub xmin: u64,
    /// The store's clock at that read. A node with a shorter TTL counts its own TTL from here.
    pub read_at: Timestamp,
    /// The end of the entry by the store's clock.
    pub not_after: Timestamp,
}

/// The decision of a node about an entry that it read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryVerdict {
    /// The entry may be served.
    Fresh,
    /// The entry has expired or predates a change. It is never served. A lease may replace it.
    Stale,
    /// Like `Stale`, but counted: the entry is from another store, or from another life of this
    /// one. Postgres has restarted, or two environments share one cache.
    Foreign,
    /// The entry may be fresh, but the node cannot decide now. It is partitioned, has not read the
    /// journal yet, or its cache is not registered. The node reads the store and keeps the entry.
    Unverified,
}

/// The outcome of a look-up: a hit, one of three kinds of miss, or a failure, which is no miss.
#[derive(Debug)]
#[non_exhaustive]
pub enum Lookup<L> {
    /// A fresh entry.
    Hit(Entry),
    /// A miss with the lease to fill it. Read the store *after* acquiring the lease.
    Leased(L),
    /// A miss without a lease: read the store and do not fill. The key holds the lease of another
    /// client, a fence, a value of a wrong type, or an [undecided](EntryVerdict::Unverified) entry.
    DoNotFill,
    /// A miss for which the cache rejected the lease, because it is out of memory or denies the
    /// command: read the store and do not fill.
    Refused(CacheError),
    /// A failed look-up: read the store.
    Failed(CacheError),
}

/// The outcome of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filled {
    /// The entry is in the cache.
    Stored,
    /// Nothing was stored, because a revocation, a flush or its expiry had removed the lease.
    Refused,
}

/// The effect that an acknowledged invalidation proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalidated {
    /// The only copy of the entry is removed. No node can serve it.
    Everywhere,
    /// The entry is removed from the server that acknowledged. A failover may restore it.
    Here,
    /// The entry is removed from this process. Other processes may hold their own copies. If the
    /// store [is exclusive](crate::store::SessionStore::is_exclusive), there are no other
    /// processes, and this counts as `Everywhere`.
    InThisProcess,
}

/// A cache of sessions: [`RedisCache`], `MemoryCache` (feature `memory`), or your own.
///
/// This trait and the types that only it uses are outside of semantic versioning until 1.0. Any
/// release may change them, because the protocol may need more of a cache.
///
/// `conformance::run` of the crate `session-testkit` checks this contract with its `cache_checks`.
///
/// Every method limits its own duration: it returns within the cache's deadline, with a result or
/// an error. No method may reconnect silently. A lease belongs to the connection, and thereby to
/// the incarnation of the server, that granted it. A fill uses that same connection or is lost.
///
/// The engine cancels a call that does not return:
///
/// | call | cancelled after |
/// |---|---|
/// | `get` | half of the [validation timeout] |
/// | `fill`, `fence`, `invalidate`, `parts` | 2 s, or the validation timeout if that is longer |
/// | `probe` | 0.9 s |
/// | `close` | the deadline of [`Sessions::shutdown`](crate::Sessions::shutdown) |
///
/// [validation timeout]: crate::SessionsBuilder::validation_timeout
///
/// A cancelled call and a call that panics count as failed.
pub trait SessionCache: Send + Sync + 'static {
    /// The right to fill one key, once. Dropping it unused is safe: it expires after [`LEASE_TTL`].
    type Lease: Send + 'static;

    /// Looks up all digests in one round trip and returns one result per digest, in order. For a
    /// missing or rejected entry, it tries to acquire the lease.
    fn get(
        &self,
        digests: &[TokenDigest],
        verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> impl Future<Output = Vec<Lookup<Self::Lease>>> + Send;

    /// Replaces the lease by `entry` for `lifetime`, if the lease is still in place.
    fn fill(
        &self,
        lease: Self::Lease,
        entry: &Entry,
        lifetime: Duration,
    ) -> impl Future<Output = Result<Filled, CacheError>> + Send;

    /// Puts a fence, which prevents fills of these keys for [`FENCE_TTL`]. It is best effort.
    fn fence(&self, digests: &[TokenDigest])
    -> impl Future<Output = Result<(), CacheError>> + Send;

    /// Removes the entries, leases and fences under these keys.
    fn invalidate(
        &self,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<Invalidated, CacheError>> + Send;

    /// Divides these digests into parts that are invalidated apart, because one of them may fail
    /// alone: one part for each server of a cluster. By default all of them are one part. If a
    /// part lacks a digest that no other part has, or the call fails, all of them are one part.
    fn parts(&self, digests: &[TokenDigest]) -> impl Future<Output = Vec<Vec<TokenDigest>>> + Send {
        std::future::ready(vec![digests.to_vec()])
    }

    /// Returns the known status without I/O.
    fn status(&self) -> CacheStatus;

    /// Returns the identity of this cache. It is called around every look-up and must be cheap.
    /// Nodes record it in the store. A change returns
    /// [`Visibility::Propagated`](crate::Visibility::Propagated) only while all nodes share one
    /// cache. Defaults to [`CacheIdentity::OfThisNode`].
    fn identity(&self) -> CacheIdentity {
        CacheIdentity::OfThisNode
    }

    /// Probes the server with a ping, and sets and gets a key of its own.
    fn probe(&self) -> impl Future<Output = CacheProbe> + Send;

    /// Stops background tasks and closes connections.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// The status of a cache, known without I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatus {
    /// The backend's name for the health document, such as `"redis"` or `"memory"`. The name
    /// `"none"` turns the cache off: the engine bypasses it. The document's section `redis` is
    /// filled for `"redis"` alone.
    pub backend: &'static str,
    /// Whether the cache can execute commands, as far as known.
    pub connected: bool,
    /// The maximum number of connections.
    pub size: usize,
    /// The connections that could execute a command now: open and responsive ones, and those not
    /// yet opened while the server is reachable. 0 while it is unreachable.
    pub available: usize,
    /// The number of callers that wait for a connection.
    pub pending: usize,
    /// The values found since the start that can never be served.
    pub rejected: Rejected,
    /// Whether entries are sealed. `None` if they never leave this process.
    pub sealed: Option<bool>,
}

impl CacheStatus {
    /// Creates a status of this backend with all counts at zero. The fields are public.
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

/// The counts of values that a cache found and can never serve, by reason. Each was a miss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Rejected {
    /// Undecodable values: foreign, damaged, moved, over 256 KiB, or of a wrong type.
    pub undecodable: u64,
    /// Plain values that a node with sealing keys found: of nodes without keys, or planted.
    pub unsealed: u64,
    /// Values sealed with an unknown key: after a key rotation, of another application, or planted.
    pub unknown_key: u64,
    /// Values that name a key of this node but do not open: changed, moved from another key, or
    /// planted. The only harmless cause is one key ID with two keys.
    pub forged: u64,
    /// Entries of another incarnation, left from before a restart or a failover.
    pub stale_incarnation: u64,
    /// Entries of another store, or of another life of this one, such as before a Postgres restart.
    pub foreign: u64,
}

impl Rejected {
    const NONE: Self = Self {
        undecodable: 0,
        unsealed: 0,
        unknown_key: 0,
        forged: 0,
        stale_incarnation: 0,
        foreign: 0,
    };

    /// Returns the sum of all counts.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.undecodable
            + self.unsealed
            + self.unknown_key
            + self.forged
            + self.stale_incarnation
            + self.foreign
    }
}

/// The result of a [`probe`](SessionCache::probe). A duration is `None` if that step failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheProbe {
    /// Whether the cache responded at all.
    pub connected: bool,
    /// The product, such as `redis` or `valkey`.
    pub server: Option<String>,
    /// The product's own version, such as `7.0.15`.
    pub version: Option<String>,
    /// The uptime of the server.
    pub uptime: Option<Duration>,
    /// The memory in use, as the server formats it (`used_memory_human`).
    pub used_memory: Option<String>,
    /// The number of keys in the database, including those of other applications.
    pub total_keys: Option<u64>,
    /// The duration of PING.
    pub ping: Option<Duration>,
    /// The duration of SET.
    pub set: Option<Duration>,
    /// The duration of GET.
    pub get: Option<Duration>,
    /// Each failure and its remedy.
    pub errors: Vec<String>,
    /// Observations that are not failures.
    pub remarks: Vec<String>,
}
