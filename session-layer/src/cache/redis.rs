//! The cache in Redis, shared by all nodes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::DropGuard;

mod builder;
mod errors;
mod get;
mod identity;
mod link;
mod links;
mod probe;
mod rejected;
mod supervisor;

pub use self::builder::{
    DEFAULT_DEADLINE, DEFAULT_NAMESPACE, DEFAULT_POOL_SIZE, RedisCacheBuilder,
};
use self::errors::{classify, timed_out};
use self::identity::is_lost;
use self::link::{Borrowed, Link};
use self::links::Links;
use self::rejected::Rejections;
use super::{
    CacheId, CacheIdentity, CacheStatus, Entry, EntryVerdict, FENCE_TTL, Filled, Invalidated,
    Lookup, SessionCache,
};
use crate::cache::codec::{self, EntryContext, Incarnation, MAX_VALUE_BYTES, Nonce};
use crate::cache::seal::SealingKeys;
use crate::model::error::{CacheError, CacheErrorKind};
use crate::model::lock::lock;
use crate::model::token::TokenDigest;

/// A script that replaces a value with a TTL in milliseconds if the key still holds the expected
/// value. A fill replaces its lease with it, and a lease replaces a rejected entry.
const COMPARE_AND_SET: &str = "\
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
    return 1
end
return 0";

/// A cache of sessions in Redis, shared by all nodes.
///
/// Every operation ends within its deadline of 50 ms, which includes the wait for a connection.
/// While Redis is unreachable, operations fail at once. The application starts without Redis and
/// uses it once it is reachable. Clones share connections.
#[derive(Debug, Clone)]
pub struct RedisCache {
    links: Arc<Links>,
    /// Stops the supervisor of the links when the last clone is dropped.
    _stop: Arc<DropGuard>,
    namespace: Arc<str>,
    database: i64,
    deadline: Duration,
    /// Whether the configuration declares replicas or a possible failover.
    replicated: bool,
    compare_and_set: Arc<redis::Script>,
    keys: Option<SealingKeys>,
    rejections: Arc<Rejections>,
    known_as: Arc<Mutex<Option<(Incarnation, CacheId)>>>,
}

/// The right to fill one key: its nonce, on the link that granted it.
#[derive(Debug)]
pub struct RedisLease {
    digest: TokenDigest,
    key: String,
    nonce: Nonce,
    link: Arc<Link>,
    /// The incarnation when the lease was granted, not when it is used.
    incarnation: Incarnation,
}

impl RedisCache {
    /// Returns a builder for a cache at this `redis://` or `rediss://` address (feature `tls`).
    pub fn builder(url: impl AsRef<str>) -> RedisCacheBuilder {
        RedisCacheBuilder::new(url.as_ref().parse())
    }

    fn key(&self, digest: &TokenDigest) -> String {
        codec::key(&self.namespace, digest)
    }

    /// Encodes the value of a fill. With keys, it is sealed for the lease's key and incarnation.
    fn sealed(&self, lease: &RedisLease, entry: &Entry) -> Result<Vec<u8>, CacheError> {
        let place =
            EntryContext { key: &lease.key, digest: &lease.digest, incarnation: lease.incarnation };
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

    /// Runs `operation` on a link, within the deadline. If the server had closed the idle link,
    /// another link is tried, and then a new one.
    async fn run<T, F>(
        &self,
        deadline: Instant,
        operation: impl Fn(MultiplexedConnection) -> F,
    ) -> Result<(T, Borrowed), CacheError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let mut lost = 0;
        loop {
            let link = match self.links.least_busy() {
                Some(link) => link,
                None => {
                    timeout_at(deadline, self.links.pick()).await.map_err(|_| timed_out())??
                }
            };
            match self.run_on(&link, deadline, operation(link.0.connection())).await {
                Ok(value) => return Ok((value, link)),
                Err(CommandFailure::Lost(_)) if lost < self.links.size() => lost += 1,
                Err(CommandFailure::Lost(error) | CommandFailure::Refused(error)) => {
                    return Err(classify(error));
                }
                Err(CommandFailure::TimedOut) => return Err(timed_out()),
            }
        }
    }

    /// Runs one command on this link only, and updates the state of the link.
    async fn run_on<T>(
        &self,
        link: &Borrowed,
        deadline: Instant,
        operation: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, CommandFailure> {
        match timeout_at(deadline, operation).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if is_lost(&error) => {
                self.links.close_link(&link.0);
                Err(CommandFailure::Lost(error))
            }
            Ok(Err(error)) => {
                self.note_demotion(&link.0, error.code());
                Err(CommandFailure::Refused(error))
            }
            Err(_elapsed) => {
                self.links.suspect(&link.0);
                Err(CommandFailure::TimedOut)
            }
        }
    }

    /// Closes the link if the server replied READONLY. The server was demoted, but would continue
    /// to reply to GET on this connection.
    fn note_demotion(&self, link: &Link, code: Option<&str>) {
        if code == Some("READONLY") {
            self.links.close_link(link);
        }
    }
}

/// The failure of a command, by its effect on the link.
enum CommandFailure {
    Lost(RedisError),
    Refused(RedisError),
    TimedOut,
}

impl CommandFailure {
    fn into_error(self) -> CacheError {
        match self {
            Self::Lost(error) | Self::Refused(error) => classify(error),
            Self::TimedOut => timed_out(),
        }
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
        let link = Borrowed::new(lease.link);
        let mut fill = self.compare_and_set.key(&lease.key);
        fill.arg(codec::lease_value(&lease.nonce)).arg(value).arg(millis(lifetime));
        let mut connection = link.0.connection();
        let deadline = Instant::now() + self.deadline;
        match self.run_on(&link, deadline, fill.invoke_async::<bool>(&mut connection)).await {
            Ok(true) => Ok(Filled::Stored),
            Ok(false) => Ok(Filled::Refused),
            Err(failure) => Err(failure.into_error()),
        }
    }

    async fn fence(&self, digests: &[TokenDigest]) -> Result<(), CacheError> {
        let mut fences = pipe();
        for digest in digests {
            let key = self.key(digest);
            fences
                .cmd("SET")
                .arg(key)
                .arg(codec::FENCE_VALUE)
                .arg("PX")
                .arg(millis(FENCE_TTL))
                .ignore();
        }
        let deadline = Instant::now() + self.deadline;
        self.run(deadline, |link| send(&fences, link)).await.map(|_| ())
    }

    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        let mut unlinks = pipe();
        for digest in digests {
            unlinks.cmd("UNLINK").arg(self.key(digest));
        }
        let deadline = Instant::now() + self.deadline;
        let (_, link) = self.run(deadline, |link| send_all(&unlinks, link)).await?;
        let one = !self.replicated && self.links.lead_to_one_server(&link.0);
        Ok(if one { Invalidated::Everywhere } else { Invalidated::Here })
    }

    fn status(&self) -> CacheStatus {
        let (usable, suspect) = self.links.count();
        let size = self.links.size();
        let mut status = CacheStatus::new("redis");
        status.connected = usable > 0;
        status.size = size;
        status.available = if usable > 0 { size - suspect.min(size) } else { 0 };
        status.pending = self.links.waiting();
        status.rejected = self.rejections.snapshot();
        status.sealed = Some(self.keys.is_some());
        status
    }

    fn identity(&self) -> CacheIdentity {
        let Some(incarnation) = self.links.one_incarnation() else {
            return CacheIdentity::Unsettled;
        };
        let mut known = lock(&self.known_as);
        match *known {
            Some((of, id)) if of == incarnation => CacheIdentity::Shared(id),
            _ => {
                let id = CacheId::of(&[
                    &incarnation.0,
                    &self.database.to_be_bytes(),
                    self.namespace.as_bytes(),
                    &codec::FORMAT.to_be_bytes(),
                ]);
                *known = Some((incarnation, id));
                CacheIdentity::Shared(id)
            }
        }
    }

    async fn probe(&self) -> super::CacheProbe {
        probe::probe(self).await
    }

    async fn close(&self) {
        self.links.close().await;
    }
}

/// Creates a pipeline that returns the error of each command.
fn pipe() -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    pipeline
}

async fn send(pipeline: &Pipeline, mut link: MultiplexedConnection) -> RedisResult<Vec<Value>> {
    // The client reports an empty pipeline as an error.
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    pipeline.query_async(&mut link).await
}

/// Sends a pipeline in which every command must succeed.
async fn send_all(pipeline: &Pipeline, link: MultiplexedConnection) -> RedisResult<()> {
    for reply in send(pipeline, link).await? {
        reply.extract_error()?;
    }
    Ok(())
}

fn new_nonce() -> Result<Nonce, getrandom::Error> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
