//! The cache in Redis, shared by all nodes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use smallvec::SmallVec;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

mod batch;
mod builder;
mod cluster;
mod command;
mod connect;
mod errors;
mod get;
mod identity;
mod link;
mod links;
mod probe;
mod rejected;
mod renewal;
mod servers;
mod shard;
mod slots;
mod supervisor;

pub use self::builder::{
    DEFAULT_DEADLINE, DEFAULT_NAMESPACE, DEFAULT_POOL_SIZE, RedisCacheBuilder,
};
use self::command::{CommandFailure, pipe, pipeline_span, send};
pub use self::connect::{ConnectCause, ConnectError, RedisConnection};
use self::errors::classify;
pub use self::identity::server_version;
use self::link::{Borrowed, Link};
use self::rejected::RejectedCounters;
use self::servers::Servers;
use self::shard::Shard;
use super::{
    CacheIdentity, CacheStatus, Entry, EntryVerdict, FENCE_TTL, Filled, Invalidated, Lookup,
    SessionCache,
};
use crate::cache::codec::{self, EntryContext, Incarnation, Key, MAX_VALUE_BYTES, Nonce};
use crate::cache::seal::SealingKeys;
use crate::model::error::{CacheError, CacheErrorKind};
use crate::model::spans::{redis_command, within};
use crate::model::token::TokenDigest;

/// A script that replaces a value with a TTL in milliseconds if the key still holds the expected
/// value. A fill replaces its lease with it, and a lease replaces a rejected entry. The expected
/// value is given as its [`Fingerprint`].
const COMPARE_AND_SET: &str = "\
local value = redis.call('GET', KEYS[1])
if value and #value == tonumber(ARGV[2]) and string.sub(value, 1, #ARGV[1]) == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
    return 1
end
return 0";

/// The beginning and the length of a value. They identify an entry, because its incarnation, its
/// session's id and version, and the time or nonce at which it was encoded are at its beginning. A
/// lease is shorter and has no equal.
#[derive(Debug)]
struct Fingerprint {
    beginning: SmallVec<[u8; Self::BYTES]>,
    length: usize,
}

impl Fingerprint {
    const BYTES: usize = 128;

    fn of(value: &[u8]) -> Self {
        let beginning = value.get(..Self::BYTES).unwrap_or(value).into();
        Self { beginning, length: value.len() }
    }
}

/// A cache of sessions in Redis, shared by all nodes.
///
/// Every operation ends within its deadline of 50 ms, which includes the wait for a connection.
/// While Redis is unreachable, operations fail at once. The application starts without Redis and
/// uses it once it is reachable. Clones share connections.
#[derive(Debug, Clone)]
pub struct RedisCache {
    servers: Arc<Servers>,
    /// Stops the task of a cluster when the last clone is dropped.
    _stop: Option<Arc<DropGuard>>,
    namespace: Arc<str>,
    deadline: Duration,
    /// Whether the configuration declares replicas or a possible failover.
    replicated: bool,
    compare_and_set: Arc<redis::Script>,
    keys: Option<SealingKeys>,
    rejections: Arc<RejectedCounters>,
    /// Whether TLS accepts every certificate.
    is_insecure: bool,
}

/// The right to fill one key: its nonce, on the link that granted it.
#[derive(Debug)]
pub struct RedisLease {
    digest: TokenDigest,
    key: Key,
    nonce: Nonce,
    shard: Arc<Shard>,
    link: Arc<Link>,
    /// The incarnation when the lease was granted, not when it is used.
    incarnation: Incarnation,
}

impl RedisCache {
    /// Returns a builder for a cache at this `redis://` or `rediss://` address (feature `tls`), or
    /// behind the sentinels of a `redis+sentinel://HOST,HOST/SERVICE/DATABASE` address. A
    /// `redis+cluster://HOST,HOST` address names nodes of a cluster, which know the others.
    pub fn builder(url: impl AsRef<str>) -> RedisCacheBuilder {
        RedisCacheBuilder::new(url.as_ref().parse())
    }

    fn key(&self, digest: &TokenDigest) -> Key {
        Key::new(&self.namespace, digest)
    }

    /// Sends one command for each digest, in one pipeline for each server. Returns the replies of
    /// each. All servers get their commands, also if one of them fails.
    async fn send_each(
        &self,
        digests: &[TokenDigest],
        command: impl Fn(&Key) -> redis::Cmd,
    ) -> Result<Vec<(Vec<redis::Value>, Borrowed, Arc<Shard>)>, CacheError> {
        let deadline = Instant::now() + self.deadline;
        let keys: Vec<Key> = digests.iter().map(|digest| self.key(digest)).collect();
        let (groups, failed) = self.servers.group(keys.iter().map(Key::as_bytes), deadline).await;
        let sending = groups.into_iter().map(|(shard, group)| {
            let mut commands = pipe();
            for at in group {
                commands.add_command(command(&keys[at]));
            }
            async move {
                let sending = shard.links.run(deadline, |link| send(&commands, link));
                let sent = within(pipeline_span(&commands), sending).await;
                let (replies, link) = sent.map_err(|error| self.servers.explain(&shard, error))?;
                Ok((replies, link, shard))
            }
        });
        let sent: Result<Vec<_>, CacheError> = join_all(sending).await.into_iter().collect();
        match failed {
            Some(error) => Err(error),
            None => sent,
        }
    }

    /// Encodes the value of a fill. With keys, it is sealed for the lease's key and incarnation.
    fn sealed(&self, lease: &RedisLease, entry: &Entry) -> Result<Vec<u8>, CacheError> {
        let RedisLease { digest, key, incarnation, .. } = lease;
        let place = EntryContext { key: key.as_bytes(), digest, incarnation: *incarnation };
        let value = codec::entry_value(entry, &place, self.keys.as_ref()).map_err(|error| {
            CacheError::new(CacheErrorKind::Entry, error.to_string()).with_source(error)
        })?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(CacheError::new(
                CacheErrorKind::Entry,
                "a session is not cached because it is over 256 KiB, so each of its requests \
                 reads the store: keep less data in it",
            ));
        }
        Ok(value)
    }
}

impl SessionCache for RedisCache {
    type Lease = RedisLease;

    async fn get(
        &self,
        digests: &[TokenDigest],
        verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<RedisLease>> {
        self.look_up(digests, verdict).await
    }

    async fn fill(
        &self,
        lease: RedisLease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        // A lease is lost with its connection. Another connection may lead to another incarnation.
        if lease.link.is_closed() {
            return Ok(Filled::Refused);
        }
        let value = self.sealed(&lease, entry)?;
        let shard = lease.shard;
        let link = Borrowed::new(lease.link);
        let mut fill = self.compare_and_set.key(lease.key.as_bytes());
        let held = codec::lease_value(&lease.nonce);
        fill.arg(held.as_slice()).arg(held.len()).arg(value).arg(millis(lifetime));
        let mut connection = link.0.connection();
        let deadline = Instant::now() + self.deadline;
        let filling = fill.invoke_async::<bool>(&mut connection);
        let filling = shard.links.run_on(&link, deadline, filling);
        match within(redis_command("EVALSHA", 1), filling).await {
            Ok(true) => Ok(Filled::Stored),
            Ok(false) => Ok(Filled::Refused),
            // The slot of the key has moved, and its lease is lost.
            Err(CommandFailure::Refused(error)) if self.servers.redirects(&error) => {
                Ok(Filled::Refused)
            }
            Err(failure) => Err(self.servers.explain(&shard, failure.into_error())),
        }
    }

    async fn fence(&self, digests: &[TokenDigest]) -> Result<(), CacheError> {
        let fence = |key: &Key| {
            let mut set = redis::cmd("SET");
            set.arg(key.as_bytes()).arg(codec::FENCE_VALUE).arg("PX").arg(millis(FENCE_TTL));
            set
        };
        for (replies, ..) in self.send_each(digests, fence).await? {
            for reply in replies {
                // It is best effort. A redirection shows where the next command goes.
                let _ = reply.extract_error().inspect_err(|error| {
                    self.servers.redirects(error);
                });
            }
        }
        Ok(())
    }

    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        let unlink = |key: &Key| {
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(key.as_bytes());
            unlink
        };
        let mut is_everywhere = !self.replicated;
        let mut failed = None;
        for (replies, link, shard) in self.send_each(digests, unlink).await? {
            for reply in replies {
                if let Err(error) = reply.extract_error() {
                    shard.links.note_demotion(&link.0, error.code());
                    self.servers.redirects(&error);
                    failed = failed.or_else(|| Some(self.servers.explain(&shard, classify(error))));
                }
            }
            is_everywhere &= shard.links.lead_to_one_server(&link.0);
        }
        match failed {
            Some(error) => Err(error),
            None if is_everywhere => Ok(Invalidated::Everywhere),
            None => Ok(Invalidated::Here),
        }
    }

    async fn parts(&self, digests: &[TokenDigest]) -> Vec<Vec<TokenDigest>> {
        let deadline = Instant::now() + self.deadline;
        let keys: Vec<Key> = digests.iter().map(|digest| self.key(digest)).collect();
        let (groups, _) = self.servers.group(keys.iter().map(Key::as_bytes), deadline).await;
        let mut rest = vec![true; digests.len()];
        let mut parts: Vec<Vec<TokenDigest>> = Vec::with_capacity(groups.len());
        for (_, group) in groups {
            group.iter().for_each(|at| rest[*at] = false);
            parts.push(group.iter().map(|at| digests[*at]).collect());
        }
        // No server has these now, so their invalidation fails.
        let rest: Vec<_> = digests
            .iter()
            .zip(rest)
            .filter_map(|(digest, is_left)| is_left.then_some(*digest))
            .collect();
        if !rest.is_empty() {
            parts.push(rest);
        }
        parts
    }

    fn status(&self) -> CacheStatus {
        let mut status = CacheStatus::new("redis");
        for shard in self.servers.all() {
            let (usable, suspect) = shard.links.count();
            let size = shard.links.size();
            status.connected |= usable > 0;
            status.size += size;
            status.available += if usable > 0 { size - suspect.min(size) } else { 0 };
            status.pending += shard.links.waiting();
        }
        status.rejected = self.rejections.snapshot();
        status.sealed = Some(self.keys.is_some());
        status
    }

    fn identity(&self) -> CacheIdentity {
        self.servers.identity()
    }

    async fn probe(&self) -> super::CacheProbe {
        probe::probe(self).await
    }

    async fn close(&self) {
        self.servers.close().await;
    }
}

fn new_nonce() -> Result<Nonce, getrandom::Error> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
