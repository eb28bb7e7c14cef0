//! Look-ups that travel together.
//!
//! A look-up that is alone is one GET, sent at once by its caller. A look-up that begins while
//! others are in flight joins a queue. A few sender tasks take all that wait and send one MGET. No
//! timer ever waits for a batch to fill: a sender that is free sends what is there.
//!
//! Each caller has its own deadline and gets its own value or its own error. No caller depends on
//! another caller being polled, because only the sender tasks send batches.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::command::{pipe, send};
use super::errors::{again, timed_out};
use super::link::{Borrowed, Link};
use super::links::{Links, closed};
use crate::cache::codec::Key;
use crate::model::error::CacheError;
use crate::model::lock::lock;

/// How many batches may be in flight. With two, the senders and Redis work at the same time. More
/// of them make smaller batches.
const SENDERS: usize = 2;
/// The limit of keys of one MGET. Redis serves no other client meanwhile.
const MAX_KEYS: usize = 64;
/// The size that a reply should have at most, judged by the sizes of the last one: 256 KiB. One
/// reply that takes longer than the deadline would fail for all its callers.
const MAX_REPLY_BYTES: usize = 256 * 1024;

/// The reply to one look-up.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) value: Value,
    /// The link that replied.
    pub(super) link: Arc<Link>,
    /// Whether the value came by MGET, which reports a value of a wrong type as missing.
    pub(super) by_mget: bool,
}

/// The look-ups in flight.
#[derive(Debug)]
pub(super) struct Lookups {
    links: Arc<Links>,
    queue: Mutex<Vec<Waiting>>,
    arrived: Notify,
    /// The number of callers, those in the queue included.
    in_flight: AtomicUsize,
    /// Whether look-ups may join the queue: the senders run, and Redis accepts MGET.
    batching: AtomicBool,
    /// The limit of keys of the next MGET.
    max_keys: AtomicUsize,
}

/// A caller in the queue.
#[derive(Debug)]
struct Waiting {
    key: Key,
    reply: oneshot::Sender<Result<Found, CacheError>>,
}

impl Lookups {
    /// Starts the senders. Must be called within a runtime.
    pub(super) fn start(links: Arc<Links>) -> Arc<Self> {
        let lookups = Arc::new(Self {
            links,
            queue: Mutex::default(),
            arrived: Notify::new(),
            in_flight: AtomicUsize::new(0),
            batching: AtomicBool::new(true),
            max_keys: AtomicUsize::new(MAX_KEYS),
        });
        for _ in 0..SENDERS {
            tokio::spawn(Sender(Arc::clone(&lookups)).run());
        }
        lookups
    }

    /// Gets the value of one key, by itself or together with others.
    pub(super) async fn get(&self, key: &Key, deadline: Instant) -> Result<Found, CacheError> {
        let is_alone = self.in_flight.fetch_add(1, Ordering::Relaxed) == 0;
        let _in_flight = InFlight(&self.in_flight);
        if is_alone || !self.batching.load(Ordering::Relaxed) {
            // In an allocation of its own, which a batched look-up does not need.
            return self.get_alone(key, deadline).boxed().await;
        }
        let (reply, replied) = oneshot::channel();
        if self.push(Waiting { key: key.clone(), reply }) {
            self.arrived.notify_one();
        }
        match timeout_at(deadline, replied).await {
            Ok(Ok(reply)) => reply,
            // The senders have stopped.
            Ok(Err(_)) => Err(closed()),
            Err(_elapsed) => Err(timed_out()),
        }
    }

    /// Gets the value of one key with a GET of its own.
    pub(super) async fn get_alone(
        &self,
        key: &Key,
        deadline: Instant,
    ) -> Result<Found, CacheError> {
        let (value, link) = self.send(command("GET", [key]), deadline).await?;
        Ok(Found { value, link: Arc::clone(&link.0), by_mget: false })
    }

    /// Adds a caller to the queue. Returns whether a sender must be woken.
    fn push(&self, waiting: Waiting) -> bool {
        let mut queue = lock(&self.queue);
        queue.push(waiting);
        queue.len() == 1
    }

    /// Takes the next batch. Callers that have left are dropped.
    fn take(&self) -> Vec<Waiting> {
        let mut queue = lock(&self.queue);
        queue.retain(|waiting| !waiting.reply.is_closed());
        let max_keys = self.max_keys.load(Ordering::Relaxed);
        if queue.len() <= max_keys {
            return std::mem::take(&mut queue);
        }
        let batch = queue.drain(..max_keys).collect();
        self.arrived.notify_one();
        batch
    }

    /// Gets the values of a batch, and replies to each caller.
    async fn get_together(&self, batch: Vec<Waiting>) {
        let deadline = Instant::now() + self.links.deadline;
        let keys = batch.iter().map(|waiting| &waiting.key);
        let by_mget = batch.len() > 1;
        let gets = command(if by_mget { "MGET" } else { "GET" }, keys);
        match self.send(gets, deadline).await {
            Ok((Value::Array(values), link)) if by_mget && values.len() == batch.len() => {
                self.max_keys.store(max_keys_after(&values), Ordering::Relaxed);
                answer(batch, values, &link, true);
            }
            Ok((value, link)) if !by_mget => answer(batch, [value], &link, false),
            // Redis has refused the MGET as a whole. Its users may be denied this command alone, so
            // each key gets a GET, and each caller the reply to it.
            Ok((refusal, link)) => {
                if is_denied(&refusal) {
                    self.batching.store(false, Ordering::Relaxed);
                }
                self.get_each(batch, &link, deadline).await;
            }
            Err(error) => refuse(batch, &error),
        }
    }

    /// Sends one command. The client's future has 1.2 KB, so it gets an allocation of its own.
    async fn send(&self, command: Cmd, deadline: Instant) -> Result<(Value, Borrowed), CacheError> {
        let send = |mut link: MultiplexedConnection| {
            let command = &command;
            async move { link.send_packed_command(command).await }.boxed()
        };
        self.links.run(deadline, send).await
    }

    /// Gets the values of a batch by one GET each.
    async fn get_each(&self, batch: Vec<Waiting>, link: &Borrowed, deadline: Instant) {
        let mut gets = pipe();
        for waiting in &batch {
            gets.get(waiting.key.as_bytes());
        }
        match self.links.run_on(link, deadline, send(&gets, link.0.connection())).await {
            Ok(values) => answer(batch, values, link, false),
            Err(failure) => refuse(batch, &failure.into_error()),
        }
    }
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
    batch: Vec<Waiting>,
    values: impl IntoIterator<Item = Value>,
    link: &Borrowed,
    by_mget: bool,
) {
    for (waiting, value) in batch.into_iter().zip(values) {
        // A caller may have left.
        let _ = waiting.reply.send(Ok(Found { value, link: Arc::clone(&link.0), by_mget }));
    }
}

/// Gives each caller an error of its own.
fn refuse(batch: Vec<Waiting>, error: &CacheError) {
    for waiting in batch {
        let _ = waiting.reply.send(Err(again(error)));
    }
}

/// Returns whether this user is denied MGET, or the server does not know it.
fn is_denied(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if matches!(error.code(), "NOPERM" | "ERR"))
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
    async fn run(self) {
        let lookups = &self.0;
        loop {
            let batch = lookups.take();
            if !batch.is_empty() {
                lookups.get_together(batch).await;
                continue;
            }
            tokio::select! {
                () = lookups.arrived.notified() => {}
                () = lookups.links.stop.cancelled() => return,
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.batching.store(false, Ordering::Relaxed);
        lock(&self.0.queue).clear();
    }
}

/// Counts a caller until it is dropped.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
