//! The look-up: one round trip for the values, and after misses a second one for the leases.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, RedisError, Value};
use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;

use super::batch::LookupReply;
use super::command::{pipe, pipeline_span, send};
use super::errors::{classify, timed_out};
use super::link::{Borrowed, Link};
use super::shard::Shard;
use super::{COMPARE_AND_SET, Fingerprint, RedisCache, RedisLease, millis, new_nonce};
use crate::cache::codec::{self, EntryContext, EntryRejection, Found, Key, Nonce};
use crate::cache::{Entry, EntryVerdict, LEASE_TTL, Lookup};
use crate::model::error::CacheError;
use crate::model::spans::within;
use crate::model::token::TokenDigest;

impl RedisCache {
    pub(super) async fn look_up(
        &self,
        digests: &[TokenDigest],
        verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<RedisLease>> {
        let deadline = Instant::now() + self.deadline;
        let keys: SmallVec<[Key; 1]> = digests.iter().map(|digest| self.key(digest)).collect();
        let shard = match (&keys[..], self.servers.only()) {
            (_, Some(shard)) => Arc::clone(shard),
            // In an allocation of its own, because only the first look-ups of a cluster wait.
            ([key], None) => match self.servers.shard_of(key.as_bytes(), deadline).boxed().await {
                Ok(shard) => shard,
                Err(error) => return all_failed(1, &error),
            },
            (_, None) => {
                return self.look_up_across(digests, keys, verdict, deadline).boxed().await;
            }
        };
        self.look_up_in(&shard, digests, keys, verdict, deadline).await
    }

    /// Looks up digests whose keys may be on several shards. Each shard gets its keys at once.
    async fn look_up_across(
        &self,
        digests: &[TokenDigest],
        keys: SmallVec<[Key; 1]>,
        verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
        deadline: Instant,
    ) -> Vec<Lookup<RedisLease>> {
        let (groups, failed) = self.servers.group(keys.iter().map(Key::as_bytes), deadline).await;
        let looking = groups.into_iter().map(|(shard, group)| {
            let (digests, keys): (Vec<_>, SmallVec<_>) =
                group.iter().map(|at| (digests[*at], keys[*at].clone())).unzip();
            async move {
                let found = self.look_up_in(&shard, &digests, keys, verdict, deadline).await;
                group.into_iter().zip(found)
            }
        });
        let found = join_all(looking).await;
        // A key without a shard has none of the answers.
        let missing = failed.unwrap_or_else(timed_out);
        let mut answers = all_failed(digests.len(), &missing);
        for (at, answer) in found.into_iter().flatten() {
            answers[at] = answer;
        }
        answers
    }

    /// Looks up digests whose keys are on one server.
    async fn look_up_in(
        &self,
        shard: &Arc<Shard>,
        digests: &[TokenDigest],
        keys: SmallVec<[Key; 1]>,
        verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
        deadline: Instant,
    ) -> Vec<Lookup<RedisLease>> {
        let Replies { values, link, by_mget } = match fetch(shard, &keys, deadline).await {
            Ok(found) => found,
            Err(error) => {
                return all_failed(digests.len(), &self.servers.explain(shard, error));
            }
        };
        // An entry must be of the incarnation that was known when the reply arrived.
        let incarnation = link.incarnation();
        // A hit also requires that every link leads to the cache that the node has registered.
        let is_settled =
            shard.links.settled().is_some_and(|settled| settled.incarnation == incarnation);
        let mut answers = Vec::with_capacity(digests.len());
        let mut second = pipe();
        let mut asked = Vec::new();
        let mut unseen = None;
        for ((digest, key), reply) in digests.iter().zip(keys).zip(values) {
            let place = EntryContext { key: key.as_bytes(), digest, incarnation };
            let step = self.judge(reply, &place, verdict);
            let at = answers.len();
            answers.push(Lookup::DoNotFill);
            let replaced = match step {
                Ok(LookupStep::Answer(Lookup::Hit(_))) if !is_settled => continue,
                Ok(LookupStep::Answer(answer)) => {
                    answers[at] = answer;
                    continue;
                }
                // It is a miss. The next look-up goes to the shard that has the key now.
                Err(error) if self.servers.redirects(&error) => continue,
                Err(error) => {
                    answers[at] = Lookup::Failed(self.servers.explain(shard, classify(error)));
                    continue;
                }
                Ok(LookupStep::Unlink) => {
                    second.cmd("UNLINK").arg(key.as_bytes());
                    asked.push((at, None));
                    continue;
                }
                Ok(LookupStep::Lease) => {
                    // MGET reports a value of a wrong type as missing, and a GET shows it.
                    unseen = by_mget.then(|| key.clone());
                    None
                }
                Ok(LookupStep::Replace(value)) => Some(value),
            };
            let Ok(nonce) = new_nonce() else { continue };
            second.add_command(request_lease(&key, &nonce, replaced));
            let (link, shard) = (Arc::clone(&link), Arc::clone(shard));
            let lease = RedisLease { digest: *digest, key, nonce, shard, link, incarnation };
            asked.push((at, Some(lease)));
        }
        if !asked.is_empty() {
            // In an allocation of its own, which a hit does not need.
            if let Some(key) = &unseen {
                second.get(key.as_bytes());
            }
            let link = Borrowed::new(link);
            let requests = LeaseRequests { commands: second, asked, unseen };
            self.request_leases(shard, requests, link, deadline, &mut answers).boxed().await;
        }
        answers
    }

    /// Sends the requests for leases, over the link that replied, and sets the answers.
    async fn request_leases(
        &self,
        shard: &Arc<Shard>,
        LeaseRequests { commands, asked, unseen: key }: LeaseRequests,
        link: Borrowed,
        deadline: Instant,
        answers: &mut [Lookup<RedisLease>],
    ) {
        let sending = send(&commands, link.0.connection());
        let sending = shard.links.run_on(&link, deadline, sending);
        match within(pipeline_span(&commands), sending).await {
            Ok(replies) => {
                let mut replies = replies.into_iter();
                for ((at, lease), reply) in asked.into_iter().zip(&mut replies) {
                    shard.links.note_demotion(&link.0, error_code(&reply));
                    answers[at] = self.granted(lease, reply);
                }
                if let Some((key, again)) = key.zip(replies.next())
                    && error_code(&again) == Some(WRONG_TYPE)
                {
                    self.remove_wrong_type(shard, &key, &link, deadline).await;
                }
            }
            Err(failure) => {
                let error = self.servers.explain(shard, failure.into_error());
                for (at, _) in asked {
                    answers[at] = Lookup::Failed(error.clone());
                }
            }
        }
    }

    /// Judges the reply to the request for a lease, or to an UNLINK if there is no lease.
    fn granted(&self, lease: Option<RedisLease>, reply: Value) -> Lookup<RedisLease> {
        match (lease, reply) {
            (_, Value::ServerError(error)) => {
                let error = error.into();
                if self.servers.redirects(&error) {
                    return Lookup::DoNotFill;
                }
                Lookup::Refused(classify(error))
            }
            (Some(lease), Value::Okay | Value::Int(1)) => Lookup::Leased(lease),
            // Another client was first.
            _ => Lookup::DoNotFill,
        }
    }

    /// Removes a value of a wrong type, which would be in the way of every fill. It is best effort.
    async fn remove_wrong_type(
        &self,
        shard: &Shard,
        key: &Key,
        link: &Borrowed,
        deadline: Instant,
    ) {
        self.rejections.count(EntryRejection::Undecodable);
        let mut unlink = pipe();
        unlink.cmd("UNLINK").arg(key.as_bytes());
        let sending = shard.links.run_on(link, deadline, send(&unlink, link.0.connection()));
        let _ = within(pipeline_span(&unlink), sending).await;
    }

    /// Judges the reply to a GET.
    fn judge(
        &self,
        reply: Value,
        place: &EntryContext<'_>,
        verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Result<LookupStep, RedisError> {
        let value = match reply {
            Value::Nil => return Ok(LookupStep::Lease),
            Value::BulkString(value) => value,
            Value::ServerError(error) if error.code() == WRONG_TYPE => {
                self.rejections.count(EntryRejection::Undecodable);
                return Ok(LookupStep::Unlink);
            }
            Value::ServerError(error) => return Err(error.into()),
            _ => {
                self.rejections.count(EntryRejection::Undecodable);
                return Ok(LookupStep::Answer(Lookup::DoNotFill));
            }
        };
        // An entry takes the memory of its value.
        let fingerprint = Fingerprint::of(&value);
        Ok(match codec::decode(value, place, self.keys.as_ref()) {
            Found::Entry(entry) => match verdict(&entry) {
                EntryVerdict::Fresh => LookupStep::Answer(Lookup::Hit(entry)),
                EntryVerdict::Stale => LookupStep::Replace(fingerprint),
                EntryVerdict::Foreign => {
                    self.rejections.count_foreign();
                    LookupStep::Replace(fingerprint)
                }
                EntryVerdict::Unverified => LookupStep::Answer(Lookup::DoNotFill),
            },
            Found::Held => LookupStep::Answer(Lookup::DoNotFill),
            Found::Rejected(why) => {
                self.rejections.count(why);
                match why {
                    // A script would copy it once more.
                    EntryRejection::TooLarge => LookupStep::Unlink,
                    _ => LookupStep::Replace(fingerprint),
                }
            }
        })
    }
}

/// The code of the error for a key that holds no string. It has no kind of its own.
const WRONG_TYPE: &str = "WRONGTYPE";

/// The requests for leases after a look-up.
struct LeaseRequests {
    commands: Pipeline,
    /// The place of each in the answers, and its lease. An UNLINK has none.
    asked: Vec<(usize, Option<RedisLease>)>,
    /// The key that the last command gets, because MGET did not show its type.
    unseen: Option<Key>,
}

/// The values of some keys, in order.
struct Replies {
    values: SmallVec<[Value; 1]>,
    link: Arc<Link>,
    by_mget: bool,
}

/// Gets the values of these keys in one round trip. The look-up of one key may travel together with
/// those of other requests.
async fn fetch(shard: &Shard, keys: &[Key], deadline: Instant) -> Result<Replies, CacheError> {
    if let [key] = keys {
        let LookupReply { value, link, by_mget } = shard.lookups.get(key, deadline).await?;
        return Ok(Replies { values: smallvec![value], link, by_mget });
    }
    let mut gets = pipe();
    for key in keys {
        gets.get(key.as_bytes());
    }
    let sending = shard.links.run(deadline, |link| send(&gets, link));
    let (values, link) = within(pipeline_span(&gets), sending).boxed().await?;
    let link = Arc::clone(&link.0);
    Ok(Replies { values: values.into(), link, by_mget: false })
}

/// Returns the command that puts a lease where no value is, or in the place of a rejected one.
fn request_lease(key: &Key, nonce: &Nonce, replaced: Option<Fingerprint>) -> Cmd {
    let (lease, millis) = (codec::lease_value(nonce), millis(LEASE_TTL));
    match replaced {
        None => {
            let mut set = redis::cmd("SET");
            set.arg(key.as_bytes()).arg(lease).arg("NX").arg("PX").arg(millis);
            set
        }
        Some(value) => {
            let mut replace = redis::cmd("EVAL");
            replace.arg(COMPARE_AND_SET).arg(1).arg(key.as_bytes());
            replace.arg(&value.beginning[..]).arg(value.length).arg(lease).arg(millis);
            replace
        }
    }
}

/// The next step after a GET.
enum LookupStep {
    Answer(Lookup<RedisLease>),
    /// The key is empty: acquire the lease.
    Lease,
    /// The entry is rejected: replace it by a lease through compare-and-set.
    Replace(Fingerprint),
    /// The value is not a string, or too large: remove it.
    Unlink,
}

fn error_code(reply: &Value) -> Option<&str> {
    match reply {
        Value::ServerError(error) => Some(error.code()),
        _ => None,
    }
}

fn all_failed(count: usize, error: &CacheError) -> Vec<Lookup<RedisLease>> {
    (0..count).map(|_| Lookup::Failed(error.clone())).collect()
}
