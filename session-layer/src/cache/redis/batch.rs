//! Look-ups that travel together.
//!
//! A look-up that is alone is one GET, sent at once by its caller. A look-up that begins while
//! others are in flight joins a queue. One task, the [`Dispatcher`], takes what waits there and
//! sends it as one MGET. No timer ever waits for a batch to fill: while fewer than
//! [`MAX_IN_FLIGHT`] batches are in flight, what is there is sent at once. Otherwise a batch is
//! sent when it is full, or when it has waited for [`MAX_WAIT`] for an earlier one. A distant Redis
//! therefore delays no look-up by more than that.
//!
//! Each caller has its own deadline and gets its own value or its own error. No caller depends on
//! another caller being polled, because only the dispatcher sends batches.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::command::{pipe, send};
use super::errors::{again, timed_out};
use super::link::{Borrowed, Link};
use super::links::{Links, closed};
use crate::cache::codec::Key;
use crate::model::error::{CacheError, CacheErrorKind};
use crate::model::lock::lock;

/// How many batches are in flight before the next one waits: 2. The client and Redis then work at
/// the same time. More of them make smaller batches.
const MAX_IN_FLIGHT: usize = 2;
/// How long a batch waits for those in flight: 1 ms, a multiple of a nearby Redis' round trip.
const MAX_WAIT: Duration = Duration::from_millis(1);
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
    queue: Mutex<Queue>,
    arrived: Notify,
    /// The number of callers, those in the queue included.
    in_flight: AtomicUsize,
    /// The limit of keys of the next MGET.
    max_keys: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// When the first of them joined.
    since: Option<Instant>,
    /// Whether callers may not join: the dispatcher has ended, or Redis denies MGET.
    is_closed: bool,
}

/// A caller in the queue.
#[derive(Debug)]
struct Waiting {
    key: Key,
    reply: oneshot::Sender<Result<Found, CacheError>>,
}

impl Lookups {
    /// Starts the dispatcher. Must be called within a runtime.
    pub(super) fn start(links: Arc<Links>) -> Arc<Self> {
        let lookups = Arc::new(Self {
            links,
            queue: Mutex::default(),
            arrived: Notify::new(),
            in_flight: AtomicUsize::new(0),
            max_keys: AtomicUsize::new(MAX_KEYS),
        });
        tokio::spawn(Dispatcher(Arc::clone(&lookups)).run());
        lookups
    }

    /// Gets the value of one key, by itself or together with others.
    pub(super) async fn get(&self, key: &Key, deadline: Instant) -> Result<Found, CacheError> {
        let is_alone = self.in_flight.fetch_add(1, Ordering::Relaxed) == 0;
        let _in_flight = InFlight(&self.in_flight);
        let queued = if is_alone { None } else { self.join(key) };
        let Some(replied) = queued else {
            // In an allocation of its own, which a batched look-up does not need.
            return self.get_alone(key, deadline).boxed().await;
        };
        match timeout_at(deadline, replied).await {
            Ok(Ok(reply)) => reply,
            // The dispatcher has ended.
            Ok(Err(_)) => Err(closed()),
            Err(_elapsed) => Err(timed_out()),
        }
    }

    /// Joins the queue, unless it is closed.
    fn join(&self, key: &Key) -> Option<oneshot::Receiver<Result<Found, CacheError>>> {
        let (reply, replied) = oneshot::channel();
        let mut queue = lock(&self.queue);
        if queue.is_closed {
            return None;
        }
        queue.waiting.push(Waiting { key: key.clone(), reply });
        let joined = queue.waiting.len();
        if joined == 1 {
            queue.since = Some(Instant::now());
        }
        drop(queue);
        // The dispatcher knows of those before.
        if joined == 1 || joined == self.max_keys.load(Ordering::Relaxed) {
            self.arrived.notify_one();
        }
        Some(replied)
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

    /// Takes the next batch if it is to be sent now. Otherwise returns the time at which it is, if
    /// any caller waits. Callers that have left are dropped.
    fn next(&self, in_flight: usize, now: Instant) -> Next {
        let mut queue = lock(&self.queue);
        let max_keys = self.max_keys.load(Ordering::Relaxed);
        let Some(since) = queue.since else { return Next::Wait(None) };
        let due = since + MAX_WAIT;
        if in_flight >= MAX_IN_FLIGHT && queue.waiting.len() < max_keys && now < due {
            return Next::Wait(Some(due));
        }
        queue.waiting.retain(|waiting| !waiting.reply.is_closed());
        let taken = max_keys.min(queue.waiting.len());
        let rest = queue.waiting.split_off(taken);
        // The rest has not waited for longer than this batch.
        queue.since = queue.since.filter(|_| !rest.is_empty());
        Next::Send(std::mem::replace(&mut queue.waiting, rest))
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
                self.get_each(batch, &link, deadline).await;
                if is_denied(&refusal) {
                    tracing::warn!("Redis denies MGET, so each look-up costs a GET of its own");
                    // Those that wait already are sent in the same way.
                    lock(&self.queue).is_closed = true;
                }
            }
            Err(error) => {
                if error.kind() == CacheErrorKind::TimedOut {
                    let fewer = (batch.len() / 2).max(1);
                    self.max_keys.store(fewer, Ordering::Relaxed);
                }
                refuse(batch, &error);
            }
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

/// What the dispatcher does next.
enum Next {
    Send(Vec<Waiting>),
    /// Waits for callers, for a reply, and until this time.
    Wait(Option<Instant>),
}

/// The task that sends batches. Once it is dropped, also with its runtime, no caller joins the queue
/// any more, and those in it get an error.
struct Dispatcher(Arc<Lookups>);

impl Dispatcher {
    async fn run(self) {
        let lookups = &*self.0;
        let mut batches = FuturesUnordered::new();
        loop {
            let due = match lookups.next(batches.len(), Instant::now()) {
                Next::Send(batch) => {
                    if !batch.is_empty() {
                        batches.push(lookups.get_together(batch));
                    }
                    continue;
                }
                Next::Wait(due) => due,
            };
            let overdue = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = lookups.arrived.notified() => {}
                Some(()) = batches.next() => {}
                () = overdue => {}
                () = lookups.links.stop.cancelled() => return,
            }
        }
    }
}

impl Drop for Dispatcher {
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
