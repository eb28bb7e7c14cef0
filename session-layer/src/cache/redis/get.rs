//! A look-up: one GET for each digest, and where that leads to nothing a second round trip that takes
//! the leases.

use std::sync::Arc;

use redis::{RedisError, Value};
use tokio::time::Instant;

use super::errors::classify;
use super::{COMPARE_AND_SET, RedisCache, RedisLease, millis, new_nonce, pipe, send};
use crate::cache::{Belief, Entry, LEASE, Lookup};
use crate::codec::{self, Found, Place, Rejection};
use crate::error::CacheError;
use crate::token::TokenDigest;

impl RedisCache {
    pub(super) async fn look_up(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Vec<Lookup<RedisLease>> {
        let deadline = Instant::now() + self.deadline;
        let keys: Vec<String> = digests.iter().map(|digest| self.key(digest)).collect();
        let mut gets = pipe();
        for key in &keys {
            gets.get(key);
        }
        let (replies, link) = match self.run(deadline, |link| send(&gets, link)).await {
            Ok(found) => found,
            Err(error) => return all_failed(digests.len(), &error),
        };
        // The incarnation as it was known when the reply came: what an entry must be bound to.
        let incarnation = link.0.incarnation();
        let mut answers = Vec::with_capacity(digests.len());
        let mut second = pipe();
        let mut asked = Vec::new();
        for ((digest, key), reply) in digests.iter().zip(keys).zip(replies) {
            let place = Place {
                key: &key,
                digest,
                incarnation,
            };
            let step = self.judge(reply, &place, judge);
            let at = answers.len();
            answers.push(Lookup::DoNotFill);
            let replaced = match step {
                Ok(Step::Answer(answer)) => {
                    answers[at] = answer;
                    continue;
                }
                Err(error) => {
                    answers[at] = Lookup::Failed(classify(error));
                    continue;
                }
                Ok(Step::Unlink) => {
                    second.cmd("UNLINK").arg(&key);
                    asked.push((at, None));
                    continue;
                }
                Ok(Step::Lease) => None,
                Ok(Step::Replace(value)) => Some(value),
            };
            let Ok(nonce) = new_nonce() else { continue };
            let lease = codec::lease_value(&nonce);
            let millis = millis(LEASE);
            match replaced {
                None => second
                    .cmd("SET")
                    .arg(&key)
                    .arg(lease)
                    .arg("NX")
                    .arg("PX")
                    .arg(millis),
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
            asked.push((
                at,
                Some(RedisLease {
                    digest: *digest,
                    key,
                    nonce,
                    link,
                    incarnation,
                }),
            ));
        }
        if asked.is_empty() {
            return answers;
        }
        match self
            .run_on(&link, deadline, send(&second, link.0.connection()))
            .await
        {
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

    /// What a GET's reply means.
    fn judge(
        &self,
        reply: Value,
        place: &Place<'_>,
        judge: &(dyn Fn(&Entry) -> Belief + Send + Sync),
    ) -> Result<Step, RedisError> {
        let value = match reply {
            Value::Nil => return Ok(Step::Lease),
            Value::BulkString(value) => value,
            // WRONGTYPE has no kind of its own: only its code tells.
            Value::ServerError(error) if error.code() == "WRONGTYPE" => {
                self.rejections.count_wrong_type();
                return Ok(Step::Unlink);
            }
            Value::ServerError(error) => return Err(error.into()),
            _ => {
                self.rejections.count_wrong_type();
                return Ok(Step::Answer(Lookup::DoNotFill));
            }
        };
        Ok(match codec::decode(&value, place, self.keys.as_ref()) {
            Found::Entry(entry) => match judge(&entry) {
                Belief::Believed => Step::Answer(Lookup::Hit(entry)),
                Belief::Dead => Step::Replace(value),
                Belief::Foreign => {
                    self.rejections.count_foreign();
                    Step::Replace(value)
                }
                Belief::Unsure => Step::Answer(Lookup::DoNotFill),
            },
            Found::Held => Step::Answer(Lookup::DoNotFill),
            Found::Rejected(why) => {
                self.rejections.count(why);
                match why {
                    // Not worth being sent back to be compared with.
                    Rejection::TooLarge => Step::Unlink,
                    _ => Step::Replace(value),
                }
            }
        })
    }
}

/// What is to be done after a GET.
enum Step {
    Answer(Lookup<RedisLease>),
    /// Nothing there: take the lease.
    Lease,
    /// Something dead there: take the lease in its place, by compare-and-set.
    Replace(Vec<u8>),
    /// Not even a string, or too large a one: remove it.
    Unlink,
}

fn error_code(reply: &Value) -> Option<&str> {
    match reply {
        Value::ServerError(error) => Some(error.code()),
        _ => None,
    }
}

/// What the reply to a request for a lease (or to an UNLINK, without one) means.
fn granted(lease: Option<RedisLease>, reply: Value) -> Lookup<RedisLease> {
    match (lease, reply) {
        (_, Value::ServerError(error)) => Lookup::Refused(classify(error.into())),
        (Some(lease), Value::Okay | Value::Int(1)) => Lookup::Leased(lease),
        // Someone else came first.
        _ => Lookup::DoNotFill,
    }
}

fn all_failed(count: usize, error: &CacheError) -> Vec<Lookup<RedisLease>> {
    (0..count).map(|_| Lookup::Failed(again(error))).collect()
}

/// The same error once more; its source stays with the first.
fn again(error: &CacheError) -> CacheError {
    CacheError::new(error.kind(), error.to_string())
}
