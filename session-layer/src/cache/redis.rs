//! [`RedisCache`]: the cache that all nodes share.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::DropGuard;

mod builder;
mod errors;
mod get;
mod identity;
mod keeper;
mod link;
mod links;
mod probe;
mod rejected;

pub use self::builder::{
    DEFAULT_DEADLINE, DEFAULT_NAMESPACE, DEFAULT_POOL_SIZE, RedisCacheBuilder,
};
use self::errors::{classify, timed_out};
use self::identity::is_lost;
use self::link::{Borrowed, Link};
use self::links::Links;
use self::rejected::Rejections;
use super::{Belief, CacheStatus, Entry, FENCE, Filled, Invalidated, Lookup, SessionCache};
use crate::codec::{self, Incarnation, MAX_VALUE_BYTES, Nonce, Place};
use crate::error::{CacheError, CacheErrorKind};
use crate::seal::SealingKeys;
use crate::token::TokenDigest;

/// Sets the key to a new value for some milliseconds, if it still holds the old one. A fill replaces
/// its lease by this, and a lease a dead entry.
const COMPARE_AND_SET: &str = "\
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
    return 1
end
return 0";

/// Sessions in Redis, shared by all nodes.
///
/// Every operation ends within its deadline (50 ms), waiting for a connection included. While Redis
/// cannot be reached, operations fail at once; the application starts without Redis and uses it when
/// it comes. Clones share connections.
#[derive(Debug, Clone)]
pub struct RedisCache {
    links: Arc<Links>,
    /// Ends the keeper of the links when the last clone is gone.
    _stop: Arc<DropGuard>,
    namespace: Arc<str>,
    deadline: Duration,
    /// Declared: there are replicas, or a failover may happen.
    replicated: bool,
    compare_and_set: Arc<redis::Script>,
    keys: Option<SealingKeys>,
    rejections: Arc<Rejections>,
}

/// The right to fill one key: its nonce, on the link that granted it.
#[derive(Debug)]
pub struct RedisLease {
    digest: TokenDigest,
    key: String,
    nonce: Nonce,
    link: Arc<Link>,
    /// The incarnation the lease was granted under, not the one at the fill.
    incarnation: Incarnation,
}

impl RedisCache {
    /// A cache at this address, `redis://` or `rediss://` (feature `tls`).
    pub fn builder(url: impl Into<String>) -> RedisCacheBuilder {
        RedisCacheBuilder::new(url.into())
    }

    fn key(&self, digest: &TokenDigest) -> String {
        codec::key(&self.namespace, digest)
    }

    /// The value to fill with: sealed where there are keys, for the key and the incarnation of the lease.
    fn sealed(&self, lease: &RedisLease, entry: &Entry) -> Result<Vec<u8>, CacheError> {
        let place = Place {
            key: &lease.key,
            digest: &lease.digest,
            incarnation: lease.incarnation,
        };
        let value = codec::entry_value(entry, &place, self.keys.as_ref()).map_err(|error| {
            CacheError::new(CacheErrorKind::Entry, error.to_string()).with_source(error)
        })?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(CacheError::new(
                CacheErrorKind::Entry,
                "a session is too large to be cached (over 256 KiB): each of its requests goes to the store; \
                 keep less data in it",
            ));
        }
        Ok(value)
    }

    /// Runs `operation` on a link, all under the deadline. A link that turns out to be lost (closed by
    /// the server while idle) costs one try on another; where all were closed, on a fresh one.
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
            let link = timeout_at(deadline, self.links.pick())
                .await
                .map_err(|_| timed_out())??;
            match self
                .run_on(&link, deadline, operation(link.0.connection()))
                .await
            {
                Ok(value) => return Ok((value, link)),
                Err(Failure::Lost(_)) if lost < self.links.size() => lost += 1,
                Err(Failure::Lost(error) | Failure::Refused(error)) => return Err(classify(error)),
                Err(Failure::TimedOut) => return Err(timed_out()),
            }
        }
    }

    /// Runs one command on this link and no other, and draws conclusions about the link.
    async fn run_on<T>(
        &self,
        link: &Borrowed,
        deadline: Instant,
        operation: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, Failure> {
        match timeout_at(deadline, operation).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if is_lost(&error) => {
                self.links.give_up(&link.0);
                Err(Failure::Lost(error))
            }
            Ok(Err(error)) => {
                self.note_demotion(&link.0, error.code());
                Err(Failure::Refused(error))
            }
            Err(_elapsed) => {
                self.links.suspect(&link.0);
                Err(Failure::TimedOut)
            }
        }
    }

    /// READONLY: the server was demoted, and this connection would go on answering GET for ever.
    fn note_demotion(&self, link: &Link, code: Option<&str>) {
        if code == Some("READONLY") {
            self.links.give_up(link);
        }
    }
}

/// Why a command failed, as far as its link is concerned.
enum Failure {
    Lost(RedisError),
    Refused(RedisError),
    TimedOut,
}

impl Failure {
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
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<RedisLease>> {
        self.look_up(digests, judge).await
    }

    async fn fill(
        &self,
        lease: RedisLease,
        entry: &Entry,
        lifetime: Duration,
    ) -> Result<Filled, CacheError> {
        // Lost with its connection: another one may lead to another life of the server.
        if lease.link.is_dead() {
            return Ok(Filled::Refused);
        }
        let value = self.sealed(&lease, entry)?;
        let link = Borrowed::new(lease.link);
        let mut fill = self.compare_and_set.key(&lease.key);
        fill.arg(codec::lease_value(&lease.nonce))
            .arg(value)
            .arg(millis(lifetime));
        let mut connection = link.0.connection();
        let deadline = Instant::now() + self.deadline;
        match self
            .run_on(&link, deadline, fill.invoke_async::<bool>(&mut connection))
            .await
        {
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
                .arg(millis(FENCE))
                .ignore();
        }
        let deadline = Instant::now() + self.deadline;
        self.run(deadline, |link| send(&fences, link))
            .await
            .map(|_| ())
    }

    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        let mut unlinks = pipe();
        for digest in digests {
            unlinks.cmd("UNLINK").arg(self.key(digest));
        }
        let deadline = Instant::now() + self.deadline;
        let (_, link) = self.run(deadline, |link| send_all(&unlinks, link)).await?;
        let one = !self.replicated && self.links.lead_to_one_server(&link.0);
        Ok(if one {
            Invalidated::Everywhere
        } else {
            Invalidated::Here
        })
    }

    fn status(&self) -> CacheStatus {
        let (usable, suspect) = self.links.count();
        let size = self.links.size();
        let mut status = CacheStatus::new("redis");
        status.connected = usable > 0;
        status.size = size;
        status.available = if usable > 0 {
            size - suspect.min(size)
        } else {
            0
        };
        status.pending = self.links.waiting();
        status.rejected = self.rejections.snapshot();
        status.sealed = Some(self.keys.is_some());
        status
    }

    async fn probe(&self) -> super::CacheProbe {
        probe::probe(self).await
    }

    async fn close(&self) {
        self.links.close().await;
    }
}

/// A pipeline whose replies say what single commands failed with.
fn pipe() -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    pipeline
}

async fn send(pipeline: &Pipeline, mut link: MultiplexedConnection) -> RedisResult<Vec<Value>> {
    // Of no digests; the client would take it for an error.
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    pipeline.query_async(&mut link).await
}

/// Sends a pipeline of which every command must succeed.
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
