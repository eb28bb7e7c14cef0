//! The simulated world: one queue of events in virtual time, and the state that they change.
//!
//! A call of a port is three events: a request in the network, its effect at the server, and a
//! reply in the network. Between two events, every task runs until it waits. Each call has its own
//! random numbers ([`Random`]). They stay the same if another call is left out, which makes a
//! schedule shrink.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use session_layer::TokenDigest;
use session_testkit::history::{Fault, Nanos};
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use crate::coverage::{Coverage, Event};
use crate::network::{Fate, Network};
use crate::postgres::Postgres;
use crate::random::{Random, mix};
use crate::redis::Redis;

/// Milliseconds since the world began.
pub(crate) type Millis = u64;

type Happens = Box<dyn FnOnce(&mut State) + Send>;

/// The world that the nodes share.
pub(crate) struct World {
    state: Mutex<State>,
    /// An event was added.
    changed: Notify,
    began: Instant,
}

/// The state that events change.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) now: Millis,
    seed: u64,
    network: Network,
    queue: BTreeMap<(Millis, u64, u64), Happens>,
    events: u64,
    /// The last event was a reply that a task waited for.
    replied: bool,
    /// How often each call was made, by its name.
    calls: BTreeMap<(u32, &'static str, u64), u64>,
    /// When the last message on a connection arrives, for each direction.
    lanes: BTreeMap<(u64, bool), (Millis, u64)>,
    /// The number of the present process of each node.
    lives: BTreeMap<u32, u32>,
    pub(crate) cut_links: BTreeSet<u64>,
    pub(crate) redis: Redis,
    pub(crate) postgres: Postgres,
    /// When Postgres first received each login.
    logins: BTreeMap<TokenDigest, Nanos>,
    /// The digests that replace those of random tokens. A seed therefore replays everything.
    aliases: HashMap<TokenDigest, TokenDigest>,
    pub(crate) coverage: Coverage,
    pub(crate) faults: Vec<Fault>,
    stamp: Nanos,
    lines: Option<Vec<String>>,
}

/// A call of a port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) node: u32,
    /// The number of the process. A message of a former process may arrive. Its reply does not.
    pub(crate) life: u32,
    pub(crate) what: &'static str,
    /// The subject of the call, as a number.
    pub(crate) about: u64,
    /// The connection, which keeps the order of its requests.
    pub(crate) lane: Option<u64>,
}

/// The progress of an effect.
pub(crate) enum Step<T> {
    Done(T),
    /// It waits for a lock, or a COMMIT follows.
    Again,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        network: Network,
        redis: Redis,
        postgres: Postgres,
        trace: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                seed,
                network,
                redis,
                postgres,
                lines: trace.then(Vec::new),
                ..State::default()
            }),
            changed: Notify::new(),
            began: Instant::now(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        state
    }

    /// Returns a time for the history, in nanoseconds. No two are the same.
    pub(crate) fn stamp(&self) -> Nanos {
        self.lock().stamp()
    }

    /// Adds an event. The seed decides its order among the events of the same time.
    pub(crate) fn at(&self, when: Millis, event: impl FnOnce(&mut State) + Send + 'static) {
        let mut state = self.lock();
        let order = mix(&[state.seed, when, state.events]);
        state.enqueue((when, order), Box::new(event));
        drop(state);
        self.changed.notify_one();
    }

    /// Sends a request. The reply may never arrive.
    pub(crate) fn ask<T, E>(
        &self,
        call: Call,
        effect: E,
    ) -> impl Future<Output = T> + Send + use<T, E>
    where
        T: Send + 'static,
        E: FnMut(&mut State) -> Step<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.lock().send(call, effect, sender);
        self.changed.notify_one();
        async move {
            match receiver.await {
                Ok(reply) => reply,
                Err(_lost) => pending().await,
            }
        }
    }

    /// Executes events until the work is done.
    pub(crate) async fn run(&self, work: impl Future<Output = ()>) {
        let mut work = std::pin::pin!(work);
        loop {
            // Every task runs until it waits, before the next event.
            tokio::select! {
                biased;
                () = &mut work => return,
                () = yield_now() => {}
            }
            let Some(next) = self.lock().run_until_reply() else { continue };
            tokio::select! {
                biased;
                () = &mut work => return,
                _ = timeout(next, self.changed.notified()) => {}
            }
        }
    }

    /// Returns the lines of the trace.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.lock().lines.clone().unwrap_or_default()
    }
}

impl State {
    fn enqueue(&mut self, (at, order): (Millis, u64), event: Happens) {
        self.events += 1;
        self.queue.insert((at, order, self.events), event);
    }

    /// Adds an event that precedes the other events of its time.
    pub(crate) fn later(&mut self, at: Millis, event: impl FnOnce(&mut Self) + Send + 'static) {
        self.enqueue((at, 0), Box::new(event));
    }

    /// Executes the events that are due, up to the first reply, which wakes a task. All tasks wait
    /// meanwhile. Returns the time until the next event if no reply arrived.
    fn run_until_reply(&mut self) -> Option<Duration> {
        self.replied = false;
        while !self.replied {
            let Some(entry) = self.queue.first_entry() else {
                return Some(Duration::from_secs(3600));
            };
            let at = entry.key().0;
            if at > self.now {
                return Some(Duration::from_millis(at - self.now));
            }
            let event = entry.remove();
            event(self);
        }
        None
    }

    pub(crate) fn stamp(&mut self) -> Nanos {
        self.stamp = (self.stamp + 1).max(self.now * 1_000_000);
        self.stamp
    }

    /// Returns whether Postgres refuses one more statement of this name.
    pub(crate) fn is_refused(&mut self, what: &'static str, about: u64) -> bool {
        let mut random = self.random(u32::MAX, what, about);
        self.network.refuses(&mut random)
    }

    /// Returns the random numbers of one more call of this name.
    fn random(&mut self, node: u32, what: &'static str, about: u64) -> Random {
        let count = self.calls.entry((node, what, about)).or_default();
        *count += 1;
        let name = what.bytes().fold(0, |hash, byte| mix(&[hash, byte.into()]));
        Random::new(&[self.seed, node.into(), name, about, *count])
    }

    fn send<T: Send + 'static>(
        &mut self,
        call: Call,
        effect: impl FnMut(&mut Self) -> Step<T> + Send + 'static,
        sender: oneshot::Sender<T>,
    ) {
        if self.is_over(call.node, call.life) {
            return;
        }
        let mut random = self.random(call.node, call.what, call.about);
        let fate = self.network.fate(call.what, &mut random);
        if fate == Fate::RequestLost {
            self.trace(call, "the request is lost");
            self.coverage.saw_if(Event::LostUnlink, call.what == "UNLINK");
            self.coverage.saw_if(Event::LostFence, call.what == "fence");
            return;
        }
        let arrives = self.after(&mut random, call.lane.map(|lane| (lane, true)));
        let arrived = Box::new(move |state: &mut Self| {
            state.arrive(call, random, fate, effect, sender);
        });
        self.enqueue(arrives, arrived);
    }

    /// Executes a request that has arrived at the server.
    fn arrive<T: Send + 'static>(
        &mut self,
        call: Call,
        mut random: Random,
        fate: Fate,
        mut effect: impl FnMut(&mut Self) -> Step<T> + Send + 'static,
        sender: oneshot::Sender<T>,
    ) {
        match effect(self) {
            Step::Again => {
                let again = self.after(&mut random, None);
                let later =
                    move |state: &mut Self| state.arrive(call, random, fate, effect, sender);
                self.enqueue(again, Box::new(later));
            }
            Step::Done(_) if fate == Fate::ReplyLost => {
                self.trace(call, "done, the reply is lost");
                self.coverage.saw(Event::LostReply);
            }
            Step::Done(result) => {
                self.trace(call, "done");
                let delay = self.network.delay(call.what, &mut random);
                let (at, order) = self.after(&mut random, call.lane.map(|lane| (lane, false)));
                let at = (at + delay, order);
                let reply = move |state: &mut Self| {
                    if !state.is_over(call.node, call.life) {
                        state.trace(call, "the reply arrives");
                        state.replied |= sender.send(result).is_ok();
                    }
                };
                self.enqueue(at, Box::new(reply));
            }
        }
    }

    /// Returns when a message that is sent now arrives, after those before on its lane.
    fn after(&mut self, random: &mut Random, lane: Option<(u64, bool)>) -> (Millis, u64) {
        let at = (self.now + self.network.latency(random), random.next());
        let Some(lane) = lane else { return at };
        let last = self.lanes.entry(lane).or_default();
        *last = at.max(*last);
        *last
    }

    /// Returns whether a process was killed. Its replies never arrive.
    fn is_over(&self, node: u32, life: u32) -> bool {
        self.lives.get(&node).copied().unwrap_or(0) != life
    }

    /// Kills a node's process. Returns the number of the next one.
    pub(crate) fn end_life(&mut self, node: u32) -> u32 {
        self.coverage.saw(Event::NodeRestart);
        let life = self.lives.entry(node).or_default();
        *life += 1;
        *life
    }

    /// Returns the digest that replaces the one of a new token.
    pub(crate) fn alias(&mut self, real: TokenDigest) -> TokenDigest {
        let mut bytes = [0; 32];
        let mut random = Random::new(&[self.seed, 0xa11a5, self.aliases.len() as u64]);
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&random.next().to_be_bytes());
        }
        let alias = TokenDigest::from_bytes(bytes);
        self.aliases.insert(real, alias);
        alias
    }

    /// Returns the digest under which a token's session is stored.
    pub(crate) fn known_as(&self, real: TokenDigest) -> TokenDigest {
        self.aliases.get(&real).copied().unwrap_or(real)
    }

    /// Records that Postgres has received the login of this token.
    pub(crate) fn record_login(&mut self, digest: TokenDigest) {
        if !self.logins.contains_key(&digest) {
            let now = self.stamp();
            self.logins.insert(digest, now);
        }
    }

    /// Returns when Postgres first received it.
    pub(crate) fn login_began(&self, digest: &TokenDigest) -> Option<Nanos> {
        self.logins.get(digest).copied()
    }

    fn trace(&mut self, call: Call, what: &str) {
        if self.lines.is_some() {
            let Call { node, what: verb, about, .. } = call;
            let about = about & 0xffff;
            self.say(&format!("node {node}: {verb} {about:04x}: {what}"));
        }
    }

    /// Adds a line to the trace.
    pub(crate) fn say(&mut self, line: &str) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>7} ms  {line}", self.now));
        }
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.lines.is_some()
    }
}

/// Returns a digest as a number, for the name of a call.
pub(crate) fn number(digest: &TokenDigest) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
