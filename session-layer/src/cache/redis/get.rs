//! The look-up: one GET per digest, and after misses a second round trip for the leases.

use std::sync::Arc;

use redis::{RedisError, Value};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::errors::classify;
use super::{COMPARE_AND_SET, RedisCache, RedisLease, millis, new_nonce, pipe, send};
use crate::cache::codec::{self, EntryContext, EntryRejection, Found};
use crate::cache::{Entry, EntryVerdict, LEASE_TTL, Lookup};
use crate::model::error::CacheError;
use crate::model::token::TokenDigest;

impl RedisCache {
    pub(super) async fn look_up(
        &self,
        digests: &[TokenDigest],
        verdict: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<RedisLease>> {
        let deadline = Instant::now() + self.deadline;
        let keys: SmallVec<[String; 1]> = digests.iter().map(|digest| self.key(digest)).collect();
        let mut gets = pipe();
        for key in &keys {
            gets.get(key);
        }
        let (replies, link) = match self.run(deadline, |link| send(&gets, link)).await {
            Ok(found) => found,
            Err(error) => return all_failed(digests.len(), &error),
        };
        // An entry must be of the incarnation that was known when the reply arrived.
        let incarnation = link.0.incarnation();
        // A hit also requires that every link leads to the cache that the node has registered.
        let is_settled = self.links.one_incarnation() == Some(incarnation);
        let mut answers = Vec::with_capacity(digests.len());
        let mut second = pipe();
        let mut asked = Vec::new();
        for ((digest, key), reply) in digests.iter().zip(keys).zip(replies) {
            let place = EntryContext { key: &key, digest, incarnation };
            let step = self.judge(reply, &place, verdict);
            let at = answers.len();
            answers.push(Lookup::DoNotFill);
            let replaced = match step {
                Ok(LookupStep::Answer(Lookup::Hit(_))) if !is_settled => continue,
                Ok(LookupStep::Answer(answer)) => {
                    answers[at] = answer;
                    continue;
                }
                Err(error) => {
                    answers[at] = Lookup::Failed(classify(error));
                    continue;
                }
                Ok(LookupStep::Unlink) => {
                    second.cmd("UNLINK").arg(&key);
                    asked.push((at, None));
                    continue;
                }
                Ok(LookupStep::Lease) => None,
                Ok(LookupStep::Replace(value)) => Some(value),
            };
            let Ok(nonce) = new_nonce() else { continue };
            let lease = codec::lease_value(&nonce);
            let millis = millis(LEASE_TTL);
            match replaced {
                None => second.cmd("SET").arg(&key).arg(lease).arg("NX").arg("PX").arg(millis),
                Some(value) => second
                    .cmd("EVAL")
                    .arg(COMPARE_AND_SET)
                    .arg(1)
                    .arg(&key)
                    .arg(value)
                    .arg(lease)
                    .arg(millis),
            };
            let link = Arc::clone(&link.0);
            asked.push((at, Some(RedisLease { digest: *digest, key, nonce, link, incarnation })));
        }
        if asked.is_empty() {
            return answers;
        }
        match self.run_on(&link, deadline, send(&second, link.0.connection())).await {
            Ok(replies) => {
                for ((at, lease), reply) in asked.into_iter().zip(replies) {
                    self.note_demotion(&link.0, error_code(&reply));
                    answers[at] = granted(lease, reply);
                }
            }
            Err(failure) => {
                let error = failure.into_error();
                for (at, _) in asked {
                    answers[at] = Lookup::Failed(again(&error));
                }
            }
        }
        answers
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
            // WRONGTYPE has no kind of its own, only a code.
            Value::ServerError(error) if error.code() == "WRONGTYPE" => {
                self.rejections.count(EntryRejection::Undecodable);
                return Ok(LookupStep::Unlink);
            }
            Value::ServerError(error) => return Err(error.into()),
            _ => {
                self.rejections.count(EntryRejection::Undecodable);
                return Ok(LookupStep::Answer(Lookup::DoNotFill));
            }
        };
        Ok(match codec::decode(&value, place, self.keys.as_ref()) {
            Found::Entry(entry) => match verdict(&entry) {
                EntryVerdict::Fresh => LookupStep::Answer(Lookup::Hit(entry)),
                EntryVerdict::Stale => LookupStep::Replace(value),
                EntryVerdict::Foreign => {
                    self.rejections.count_foreign();
                    LookupStep::Replace(value)
                }
                EntryVerdict::Unverified => LookupStep::Answer(Lookup::DoNotFill),
            },
            Found::Held => LookupStep::Answer(Lookup::DoNotFill),
            Found::Rejected(why) => {
                self.rejections.count(why);
                match why {
                    // Too large to be sent back for a comparison.
                    EntryRejection::TooLarge => LookupStep::Unlink,
                    _ => LookupStep::Replace(value),
                }
            }
        })
    }
}

/// The next step after a GET.
enum LookupStep {
    Answer(Lookup<RedisLease>),
    /// The key is empty: acquire the lease.
    Lease,
    /// The entry is rejected: replace it by a lease through compare-and-set.
    Replace(Vec<u8>),
    /// The value is not a string, or too large: remove it.
    Unlink,
}

fn error_code(reply: &Value) -> Option<&str> {
    match reply {
        Value::ServerError(error) => Some(error.code()),
        _ => None,
    }
}

/// Judges the reply to the request for a lease, or to an UNLINK if there is no lease.
fn granted(lease: Option<RedisLease>, reply: Value) -> Lookup<RedisLease> {
    match (lease, reply) {
        (_, Value::ServerError(error)) => Lookup::Refused(classify(error.into())),
        (Some(lease), Value::Okay | Value::Int(1)) => Lookup::Leased(lease),
        // Another client was first.
        _ => Lookup::DoNotFill,
    }
}

fn all_failed(count: usize, error: &CacheError) -> Vec<Lookup<RedisLease>> {
    (0..count).map(|_| Lookup::Failed(again(error))).collect()
}

/// Copies an error. Its source stays with the original.
fn again(error: &CacheError) -> CacheError {
    CacheError::new(error.kind(), error.to_string())
}
