//! Look-ups that travel together.
//!
//! (A shard of a cluster gets a pipeline of GETs instead, because the keys of an MGET must have one
//! slot.)
//!
//! A look-up that is alone is one GET, sent at once by its caller. A look-up that begins while
//! others are in flight joins a queue. [`SENDERS`] tasks take what waits there and send it as one
//! MGET. No timer waits for a batch to fill: a sender that is free sends what is there. If none is
//! free for [`MAX_WAIT`], another task sends it. A distant Redis, whose replies take longer than
//! that, therefore has more batches in flight, and the queue delays a look-up by 1 to 2 ms at most.
//!
//! Each caller gets its own value or its own error. The deadline of a batch begins when it is sent,
//! at most 2 ms after its first caller joined, so a caller in the queue needs no timer of its own.
//! No caller depends on another caller being polled, because only these tasks send batches. If the
//! runtime on which they were started stands still, the engine's outer deadline ends the wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};
use tracing::{Instrument as _, Span};

use super::command::{pipe, pipeline_span, send};
use super::link::{Borrowed, Link};
use super::links::{Links, closed};
use crate::cache::codec::Key;
use crate::model::error::{CacheError, CacheErrorKind};
use crate::model::lock::lock;
use crate::model::spans::{current, for_callers, redis_command, within};

/// The tasks that send batches: 2. The client and Redis then work at the same time. More of them
/// make smaller batches.
const SENDERS: usize = 2;
/// How long a batch waits for a free sender: 1 ms, a multiple of a nearby Redis' round trip.
const MAX_WAIT: Duration = Duration::from_millis(1);
/// The limit of keys of one MGET. Redis serves no other client meanwhile.
const MAX_KEYS: usize = 64;
/// The size that a reply should have at most, judged by the sizes of the last one: 256 KiB. One
/// reply that takes longer than the deadline would fail for all its callers.
const MAX_REPLY_BYTES: usize = 256 * 1024;

/// The reply to one look-up.
#[derive(Debug)]
pub(super) struct LookupReply {
    pub(super) value: Value,
    /// The link that replied.
    pub(super) link: Arc<Link>,
    /// Whether the value came by MGET, which reports a value of a wrong type as missing.
    pub(super) by_mget: bool,
}

/// The commands of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batches {
    Mget,
    /// One GET for each key, all sent at once.
    Gets,
}

/// The look-ups in flight.
#[derive(Debug)]
pub(super) struct Lookups {
    links: Arc<Links>,
    batches: Batches,
    queue: Mutex<LookupQueue>,
    /// Wakes a sender.
    arrived: Notify,
    /// Wakes the task that sends what no sender takes.
    waiting: Notify,
    /// The number of callers, those in the queue included.
    in_flight: AtomicUsize,
    /// The limit of keys of the next MGET.
    max_keys: AtomicUsize,
}

#[derive(Debug, Default)]
struct LookupQueue {
    waiting: Vec<QueuedLookup>,
    /// When the first of them joined.
    since: Option<Instant>,
    /// Whether callers may not join: the senders have ended, or Redis denies MGET.
    is_closed: bool,
}

/// A caller in the queue.
#[derive(Debug)]
struct QueuedLookup {
    key: Key,
    /// The span of the look-up.
    span: Span,
    reply: oneshot::Sender<Result<LookupReply, CacheError>>,
}

impl Lookups {
    /// Starts the tasks. Must be called within a runtime.
    pub(super) fn start(links: Arc<Links>, batches: Batches) -> Arc<Self> {
        let lookups = Arc::new(Self {
            links,
            batches,
            queue: Mutex::default(),
            arrived: Notify::new(),
            waiting: Notify::new(),
            in_flight: AtomicUsize::new(0),
            max_keys: AtomicUsize::new(MAX_KEYS),
        });
        for _ in 0..SENDERS {
            tokio::spawn(Sender(Arc::clone(&lookups)).run());
        }
        tokio::spawn(Sender(Arc::clone(&lookups)).run_overdue());
        lookups
    }

    /// Gets the value of one key: by itself within this deadline, or together with others within
    /// the deadline of their batch.
    pub(super) async fn get(
        &self,
        key: &Key,
        deadline: Instant,
    ) -> Result<LookupReply, CacheError> {
        let is_alone = self.in_flight.fetch_add(1, Ordering::Relaxed) == 0;
        let _in_flight = InFlight(&self.in_flight);
        let queued = if is_alone { None } else { self.join(key) };
        let Some(replied) = queued else {
            // In an allocation of its own, which a batched look-up does not need.
            return self.get_alone(key, deadline).boxed().await;
        };
        // Otherwise the senders have ended.
        replied.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Joins the queue, unless it is closed.
    fn join(&self, key: &Key) -> Option<oneshot::Receiver<Result<LookupReply, CacheError>>> {
        let ((reply, replied), span) = (oneshot::channel(), current());
        let mut queue = lock(&self.queue);
        if queue.is_closed {
            return None;
        }
        queue.waiting.push(QueuedLookup { key: key.clone(), span, reply });
        // Earlier callers have woken the tasks.
        if queue.waiting.len() == 1 {
            queue.since = Some(Instant::now());
            drop(queue);
            self.arrived.notify_one();
            self.waiting.notify_one();
        }
        Some(replied)
    }

    /// Gets the value of one key with a GET of its own.
    async fn get_alone(&self, key: &Key, deadline: Instant) -> Result<LookupReply, CacheError> {
        let (value, link) = self.send("GET", command("GET", [key]), deadline).await?;
        Ok(LookupReply { value, link: Arc::clone(&link.0), by_mget: false })
    }

    /// Takes the next batch, if its first caller joined by `joined_by`. Callers that have left are
    /// dropped.
    fn take(&self, joined_by: Instant) -> Option<Vec<QueuedLookup>> {
        let mut queue = lock(&self.queue);
        queue.since.filter(|since| *since <= joined_by)?;
        queue.waiting.retain(|waiting| !waiting.reply.is_closed());
        let taken = self.max_keys.load(Ordering::Relaxed).min(queue.waiting.len());
        let rest = queue.waiting.split_off(taken);
        if rest.is_empty() {
            queue.since = None;
        } else {
            // The rest has not waited for longer. Another sender may be free.
            self.arrived.notify_one();
        }
        Some(std::mem::replace(&mut queue.waiting, rest))
    }

    /// Gets the values of a batch, and replies to each caller.
    async fn get_together(&self, batch: Vec<QueuedLookup>) {
        let span = for_callers(batch.iter().map(|waiting| &waiting.span));
        self.get_batch(batch).instrument(span).await;
    }

    async fn get_batch(&self, batch: Vec<QueuedLookup>) {
        if batch.is_empty() {
            return;
        }
        let deadline = Instant::now() + self.links.deadline;
        if self.batches == Batches::Gets {
            return self.get_each_on_any(batch, deadline).await;
        }
        let keys = batch.iter().map(|waiting| &waiting.key);
        let by_mget = batch.len() > 1;
        let name = if by_mget { "MGET" } else { "GET" };
        match self.send(name, command(name, keys), deadline).await {
            Ok((Value::Array(values), link)) if by_mget && values.len() == batch.len() => {
                self.max_keys.store(max_keys_after(&values), Ordering::Relaxed);
                answer(batch, values, &link, true);
            }
            Ok((value, link)) if !by_mget => {
                self.max_keys
                    .store(max_keys_after(std::slice::from_ref(&value)), Ordering::Relaxed);
                answer(batch, [value], &link, false);
            }
            // Redis has refused the MGET as a whole. Its users may be denied this command alone, so
            // each key gets a GET, and each caller the reply to it.
            Ok((refusal, link)) => {
                self.get_each(batch, &link, deadline).await;
                if is_denied(&refusal) {
                    tracing::warn!(
                        "Redis denies MGET, so each look-up costs a GET of its own: allow it (ACL \
                         SETUSER <user> +mget) and restart"
                    );
                    // Those that wait already are sent in the same way.
                    lock(&self.queue).is_closed = true;
                }
            }
            Err(error) => self.refuse_all(batch, &error),
        }
    }

    /// Sends one command. The client's future has 1.2 KB, so it gets an allocation of its own.
    async fn send(
        &self,
        name: &str,
        command: Cmd,
        deadline: Instant,
    ) -> Result<(Value, Borrowed), CacheError> {
        let span = redis_command(name, 1);
        let send = |mut link: MultiplexedConnection| {
            let command = &command;
            async move { link.send_packed_command(command).await }.boxed()
        };
        within(span, self.links.run(deadline, send)).await
    }

    /// Gets the values of a batch by one GET each, over any link.
    async fn get_each_on_any(&self, batch: Vec<QueuedLookup>, deadline: Instant) {
        let gets = gets(&batch);
        let sending = self.links.run(deadline, |link| send(&gets, link).boxed());
        match within(pipeline_span(&gets), sending).await {
            Ok((values, link)) => {
                self.max_keys.store(max_keys_after(&values), Ordering::Relaxed);
                answer(batch, values, &link, false);
            }
            Err(error) => self.refuse_all(batch, &error),
        }
    }

    /// Gives each caller the error. A reply that was late may have been too large.
    fn refuse_all(&self, batch: Vec<QueuedLookup>, error: &CacheError) {
        if error.kind() == CacheErrorKind::TimedOut {
            let fewer = (batch.len() / 2).max(1);
            self.max_keys.store(fewer, Ordering::Relaxed);
        }
        refuse(batch, error);
    }

    /// Gets the values of a batch by one GET each.
    async fn get_each(&self, batch: Vec<QueuedLookup>, link: &Borrowed, deadline: Instant) {
        let gets = gets(&batch);
        let sending = self.links.run_on(link, deadline, send(&gets, link.0.connection()));
        match within(pipeline_span(&gets), sending).await {
            Ok(values) => answer(batch, values, link, false),
            Err(failure) => refuse(batch, &failure.into_error()),
        }
    }
}

fn gets(batch: &[QueuedLookup]) -> Pipeline {
    let mut gets = pipe();
    for waiting in batch {
        gets.get(waiting.key.as_bytes());
    }
    gets
}

fn command<'a>(name: &str, keys: impl IntoIterator<Item = &'a Key>) -> Cmd {
    let mut command = redis::cmd(name);
    for key in keys {
        command.arg(key.as_bytes());
    }
    command
}

/// Gives each caller its value.
fn answer(
    batch: Vec<QueuedLookup>,
    values: impl IntoIterator<Item = Value>,
    link: &Borrowed,
    by_mget: bool,
) {
    for (waiting, value) in batch.into_iter().zip(values) {
        // A caller may have left.
        let _ = waiting.reply.send(Ok(LookupReply { value, link: Arc::clone(&link.0), by_mget }));
    }
}

/// Gives each caller an error of its own.
fn refuse(batch: Vec<QueuedLookup>, error: &CacheError) {
    for waiting in batch {
        let _ = waiting.reply.send(Err(error.clone()));
    }
}

/// Returns whether this user is denied MGET, or the server does not know it.
fn is_denied(reply: &Value) -> bool {
    let Value::ServerError(error) = reply else { return false };
    let unknown = error.details().is_some_and(|text| text.starts_with("unknown command"));
    error.code() == "NOPERM" || error.code() == "ERR" && unknown
}

/// Returns how many keys the next MGET may have, if its values are as large as these on average.
fn max_keys_after(values: &[Value]) -> usize {
    let bytes = values.iter().map(|value| match value {
        Value::BulkString(bytes) => bytes.len(),
        _ => 0,
    });
    let total = bytes.sum::<usize>().max(1);
    (MAX_REPLY_BYTES.saturating_mul(values.len()) / total).clamp(1, MAX_KEYS)
}

/// A task that sends batches. Once it is dropped, also with its runtime, no caller joins the queue
/// any more, and those in it get an error.
struct Sender(Arc<Lookups>);

impl Sender {
    /// Sends batch after batch.
    async fn run(self) {
        let lookups = &self.0;
        loop {
            if let Some(batch) = lookups.take(Instant::now()) {
                lookups.get_together(batch).await;
                continue;
            }
            tokio::select! {
                () = lookups.arrived.notified() => {}
                () = lookups.links.stop.cancelled() => return,
            }
        }
    }

    /// Sends batches for which no sender is free, each by a task of its own. While callers wait, it
    /// looks once in [`MAX_WAIT`].
    async fn run_overdue(self) {
        let lookups = &self.0;
        loop {
            tokio::select! {
                () = lookups.waiting.notified() => {}
                () = lookups.links.stop.cancelled() => return,
            }
            while lock(&lookups.queue).since.is_some() {
                let looks = Instant::now();
                sleep(MAX_WAIT).await;
                while let Some(batch) = lookups.take(looks) {
                    let lookups = Arc::clone(lookups);
                    tokio::spawn(async move { lookups.get_together(batch).await });
                }
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        queue.is_closed = true;
        queue.waiting.clear();
    }
}

/// Counts a caller until it is dropped.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_of_a_batch_follows_the_last_values() {
        let of = |bytes: usize| max_keys_after(&vec![Value::BulkString(vec![0; bytes]); 3]);
        assert_eq!([of(300), of(4_096), of(16_384), of(262_144), of(1 << 20)], [64, 64, 16, 1, 1]);
        assert_eq!(max_keys_after(&[Value::Nil]), MAX_KEYS);
    }
}
