//! GETs that travel together.
//!
//! A look-up is sent at once, as a GET, while fewer than [`AT_ONCE`] commands are in flight.
//! Otherwise it waits until one of them ends. One MGET then carries all look-ups that wait. No
//! timer waits for a batch to fill. Under load, a batch costs the client and Redis a fraction of
//! its single GETs.
//!
//! Each caller has its own deadline. A batch that fails gives each of its callers the error.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, RedisResult, Value};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::errors::timed_out;
use super::get::again;
use super::link::Borrowed;
use super::{RedisCache, pipe, send};
use crate::model::error::CacheError;
use crate::model::lock::lock;

/// How many commands are in flight before look-ups wait for one to end. Measured with the benches'
/// program `validations`: more commands cost 64 callers CPU time and make none of them faster.
const AT_ONCE: usize = 4;
/// The limit of keys in one command. Values of 64 KiB then make a reply of 4 MiB.
const BATCH: usize = 64;

/// The reply to a GET.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) value: Value,
    pub(super) link: Borrowed,
}

/// The look-ups in flight, and those that wait.
#[derive(Debug, Default)]
pub(super) struct Gets {
    state: Mutex<GetsState>,
    /// Whether the server rejected MGET: an ACL, a proxy or a cluster. Batches are pipelines then.
    mget_rejected: AtomicBool,
}

#[derive(Debug, Default)]
struct GetsState {
    in_flight: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    key: String,
    /// Closed if the caller has left.
    reply: oneshot::Sender<Result<Got, CacheError>>,
}

/// How a look-up is made.
enum Turn<'a> {
    Alone(AloneSlot<'a>),
    InBatch(oneshot::Receiver<Result<Got, CacheError>>),
}

impl RedisCache {
    /// Gets the value of one key, alone or in a batch.
    pub(super) async fn get_one(&self, key: &str, deadline: Instant) -> Result<Got, CacheError> {
        match self.join(key) {
            Turn::Alone(_slot) => {
                let get = get(key);
                let send = |mut link| {
                    let get = &get;
                    async move { get.query_async(&mut link).await }
                };
                let (value, link) = self.run(deadline, send).await?;
                Ok(Got { value, link })
            }
            Turn::InBatch(reply) => match timeout_at(deadline, reply).await {
                Ok(Ok(got)) => got,
                // The batch ended with the runtime that it was sent on.
                Ok(Err(_)) | Err(_) => Err(timed_out()),
            },
        }
    }

    fn join(&self, key: &str) -> Turn<'_> {
        let mut state = lock(&self.gets.state);
        if state.in_flight < AT_ONCE {
            state.in_flight += 1;
            return Turn::Alone(AloneSlot(self));
        }
        let (reply, replied) = oneshot::channel();
        state.waiting.push_back(Waiting { key: key.to_owned(), reply });
        Turn::InBatch(replied)
    }

    /// Sends batches until no look-up waits.
    async fn send_batches(self) {
        let mut slot = BatchSlot { gets: &self.gets, is_held: true };
        while let Some(batch) = slot.next() {
            let (keys, replies): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|waiting| (waiting.key, waiting.reply)).unzip();
            let deadline = Instant::now() + self.deadline;
            match self.run(deadline, |link| self.get_many(&keys, link)).await {
                Ok((values, link)) => {
                    for (reply, value) in replies.into_iter().zip(values) {
                        let link = Borrowed::new(link.0.clone());
                        let _ = reply.send(Ok(Got { value, link }));
                    }
                }
                Err(error) => {
                    for reply in replies {
                        let _ = reply.send(Err(again(&error)));
                    }
                }
            }
        }
    }

    /// Gets the values of several keys with one command, or with a pipeline if the server rejects
    /// that command.
    async fn get_many(
        &self,
        keys: &[String],
        mut link: MultiplexedConnection,
    ) -> RedisResult<Vec<Value>> {
        let rejected = &self.gets.mget_rejected;
        if keys.len() > 1 && !rejected.load(Ordering::Relaxed) {
            let length: usize = keys.iter().map(String::len).sum();
            let mut mget = Cmd::with_capacity(1 + keys.len(), "MGET".len() + length);
            mget.arg("MGET").arg(keys);
            match mget.query_async(&mut link).await {
                Ok(Value::Array(values)) if values.len() == keys.len() => return Ok(values),
                Err(error) if !is_rejected(&error) => return Err(error),
                Ok(_) | Err(_) => rejected.store(true, Ordering::Relaxed),
            }
        }
        get_each(keys, link).await
    }
}

/// Gets the values of several keys with a pipeline. Each reply has its own error.
pub(super) async fn get_each(
    keys: &[String],
    link: MultiplexedConnection,
) -> RedisResult<Vec<Value>> {
    let mut gets = pipe();
    for key in keys {
        gets.get(key);
    }
    send(&gets, link).await
}

fn get(key: &str) -> Cmd {
    let mut get = Cmd::with_capacity(2, "GET".len() + key.len());
    get.arg("GET").arg(key);
    get
}

/// Returns whether the server rejects the command itself: its ACL denies it, a proxy does not know
/// it, or the keys are of several shards of a cluster.
fn is_rejected(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOPERM" | "ERR" | "CROSSSLOT"))
}

/// The slot of a look-up that was sent alone. Its drop sends the batch that waits by then.
struct AloneSlot<'a>(&'a RedisCache);

impl Drop for AloneSlot<'_> {
    fn drop(&mut self) {
        let Self(cache) = self;
        let mut state = lock(&cache.gets.state);
        match Handle::try_current() {
            Ok(runtime) if !state.waiting.is_empty() => {
                drop(state);
                runtime.spawn((*cache).clone().send_batches());
            }
            _ => state.in_flight -= 1,
        }
    }
}

/// The slot of a task that sends batches. Its drop releases it, also if the task ends with its
/// runtime.
struct BatchSlot<'a> {
    gets: &'a Gets,
    is_held: bool,
}

impl BatchSlot<'_> {
    /// Takes the next batch. If no look-up waits, it releases the slot and returns `None`.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut state = lock(&self.gets.state);
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(waiting) = state.waiting.pop_front()
        {
            if !waiting.reply.is_closed() {
                batch.push(waiting);
            }
        }
        if batch.is_empty() {
            state.in_flight -= 1;
            self.is_held = false;
            return None;
        }
        Some(batch)
    }
}

impl Drop for BatchSlot<'_> {
    fn drop(&mut self) {
        if self.is_held {
            lock(&self.gets.state).in_flight -= 1;
        }
    }
}
