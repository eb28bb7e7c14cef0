//! The world that the nodes live in: one queue of events in virtual time, and the state they change.
//!
//! A call of a port is a request on its way, its effect at the server and a reply on its way, each an
//! event of its own; between two events every task runs until it waits. What takes how long and what is
//! lost is drawn for each call by its own name ([`Dice`]), so that the draws of one call stay the same
//! when another is left out: that is what makes a broken schedule shrink.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use session_layer::TokenDigest;
use session_testkit::history::{Fault, Nanos};
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use crate::coverage::Coverage;
use crate::dice::{Dice, mix};
use crate::postgres::Postgres;
use crate::redis::Redis;
use crate::weather::{Fate, Weather};

/// Milliseconds since the world began.
pub(crate) type Millis = u64;

type Event = Box<dyn FnOnce(&mut State) + Send>;

/// What the nodes share.
pub(crate) struct World {
    state: Mutex<State>,
    /// Something was put into the queue.
    changed: Notify,
    began: Instant,
}

/// Everything that events change.
pub(crate) struct State {
    pub(crate) now: Millis,
    seed: u64,
    weather: Weather,
    queue: BTreeMap<(Millis, u64, u64), Event>,
    events: u64,
    /// How often a call of this name was made.
    calls: BTreeMap<(u32, &'static str, u64), u64>,
    /// When the last thing sent on a connection arrives, each direction for itself.
    lanes: BTreeMap<(u64, bool), (Millis, u64)>,
    /// Which life of each node is the present one.
    lives: BTreeMap<u32, u32>,
    pub(crate) cut_links: BTreeSet<u64>,
    pub(crate) redis: Redis,
    pub(crate) postgres: Postgres,
    /// When Postgres first heard of a login, by its digest.
    heard: BTreeMap<TokenDigest, Nanos>,
    /// The digests that stand for those of random tokens, so that a seed replays everything.
    aliases: HashMap<TokenDigest, TokenDigest>,
    pub(crate) coverage: Coverage,
    pub(crate) faults: Vec<Fault>,
    stamp: Nanos,
    trace: Option<Vec<String>>,
}

/// A call of a port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) node: u32,
    /// Of the node: what a former life sent may arrive, what it sends now does not.
    pub(crate) life: u32,
    pub(crate) what: &'static str,
    /// What it is about, as a number.
    pub(crate) about: u64,
    /// The connection it goes over, where the order of its requests is kept.
    pub(crate) lane: Option<u64>,
}

/// What became of an effect.
pub(crate) enum Step<T> {
    Done(T),
    /// Not yet (a lock), or not all of it (a COMMIT that follows).
    Again,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        weather: Weather,
        redis: Redis,
        postgres: Postgres,
        trace: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                now: 0,
                seed,
                weather,
                queue: BTreeMap::new(),
                events: 0,
                calls: BTreeMap::new(),
                lanes: BTreeMap::new(),
                lives: BTreeMap::new(),
                cut_links: BTreeSet::new(),
                redis,
                postgres,
                heard: BTreeMap::new(),
                aliases: HashMap::new(),
                coverage: Coverage::default(),
                faults: Vec::new(),
                stamp: 0,
                trace: trace.then(Vec::new),
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

    /// Nanoseconds for the history: no two moments are the same, and their order is that of what
    /// happened.
    pub(crate) fn stamp(&self) -> Nanos {
        self.lock().stamp()
    }

    /// Has this happen at a time, before or after what else happens then as the seed wants it.
    pub(crate) fn at(&self, when: Millis, event: impl FnOnce(&mut State) + Send + 'static) {
        let mut state = self.lock();
        let order = mix(&[state.seed, when, state.events]);
        state.enqueue((when, order), Box::new(event));
        drop(state);
        self.changed.notify_one();
    }

    /// Sends a request. The answer comes, or never.
    pub(crate) fn ask<T, E>(
        &self,
        call: Call,
        effect: E,
    ) -> impl Future<Output = T> + Send + use<T, E>
    where
        T: Send + 'static,
        E: FnMut(&mut State) -> Step<T> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        self.lock().send(call, effect, tell);
        self.changed.notify_one();
        async move {
            match told.await {
                Ok(answer) => answer,
                Err(_lost) => pending().await,
            }
        }
    }

    /// Lets the world go on until the work is done.
    pub(crate) async fn run(&self, work: impl Future<Output = ()>) {
        let mut work = std::pin::pin!(work);
        loop {
            // Every task runs until it waits: only then is it the next event's turn.
            tokio::select! {
                biased;
                () = &mut work => return,
                () = yield_now() => {}
            }
            let next = {
                let mut state = self.lock();
                match state.next_event() {
                    Ok(event) => {
                        event(&mut state);
                        continue;
                    }
                    Err(wait) => wait,
                }
            };
            tokio::select! {
                biased;
                () = &mut work => return,
                _ = timeout(next, self.changed.notified()) => {}
            }
        }
    }

    /// The lines of the trace, if one was wanted.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.lock().trace.clone().unwrap_or_default()
    }
}

impl State {
    fn enqueue(&mut self, (at, order): (Millis, u64), event: Event) {
        self.events += 1;
        self.queue.insert((at, order, self.events), event);
    }

    /// Has this happen at a time, in the order of the calls, before what else happens then.
    pub(crate) fn later(&mut self, at: Millis, event: impl FnOnce(&mut Self) + Send + 'static) {
        self.enqueue((at, 0), Box::new(event));
    }

    /// The next event that is due, or how long until there is one.
    fn next_event(&mut self) -> Result<Event, Duration> {
        let Some(entry) = self.queue.first_entry() else {
            return Err(Duration::from_secs(3600));
        };
        let at = entry.key().0;
        if at > self.now {
            return Err(Duration::from_millis(at - self.now));
        }
        Ok(entry.remove())
    }

    fn stamp(&mut self) -> Nanos {
        self.stamp = (self.stamp + 1).max(self.now * 1_000_000);
        self.stamp
    }

    /// A point of the run's time, for a fault.
    pub(crate) fn moment(&mut self) -> Nanos {
        self.stamp()
    }

    pub(crate) fn weather(&self) -> &Weather {
        &self.weather
    }

    /// The draws for one more call of this name.
    pub(crate) fn dice(&mut self, node: u32, what: &'static str, about: u64) -> Dice {
        let count = self.calls.entry((node, what, about)).or_default();
        *count += 1;
        let name = what.bytes().fold(0, |hash, byte| mix(&[hash, byte.into()]));
        Dice::new(&[self.seed, node.into(), name, about, *count])
    }

    fn send<T: Send + 'static>(
        &mut self,
        call: Call,
        effect: impl FnMut(&mut Self) -> Step<T> + Send + 'static,
        tell: oneshot::Sender<T>,
    ) {
        if self.is_over(call.node, call.life) {
            return;
        }
        let mut dice = self.dice(call.node, call.what, call.about);
        let fate = self.weather.fate(call.what, &mut dice);
        if fate == Fate::RequestLost {
            self.note(call, "the request is lost");
            self.coverage.lost_request(call.what);
            return;
        }
        let arrives = self.after(&mut dice, call.lane.map(|lane| (lane, true)));
        let arrived = Box::new(move |state: &mut Self| {
            state.arrive(call, dice, fate, effect, tell);
        });
        self.enqueue(arrives, arrived);
    }

    /// The request is at the server.
    fn arrive<T: Send + 'static>(
        &mut self,
        call: Call,
        mut dice: Dice,
        fate: Fate,
        mut effect: impl FnMut(&mut Self) -> Step<T> + Send + 'static,
        tell: oneshot::Sender<T>,
    ) {
        match effect(self) {
            Step::Again => {
                let again = self.after(&mut dice, None);
                let later = move |state: &mut Self| state.arrive(call, dice, fate, effect, tell);
                self.enqueue(again, Box::new(later));
            }
            Step::Done(_) if fate == Fate::ReplyLost => {
                self.note(call, "done; the reply is lost");
                self.coverage.lost_reply();
            }
            Step::Done(answer) => {
                self.note(call, "done");
                let delay = self.weather.delay(call.what, &mut dice);
                let (at, order) = self.after(&mut dice, call.lane.map(|lane| (lane, false)));
                let at = (at + delay, order);
                let reply = move |state: &mut Self| {
                    if !state.is_over(call.node, call.life) {
                        state.note(call, "answered");
                        let _ = tell.send(answer);
                    }
                };
                self.enqueue(at, Box::new(reply));
            }
        }
    }

    /// When something that is sent now arrives; behind what was sent before on its lane.
    fn after(&mut self, dice: &mut Dice, lane: Option<(u64, bool)>) -> (Millis, u64) {
        let at = (self.now + self.weather.latency(dice), dice.roll());
        let Some(lane) = lane else { return at };
        let last = self.lanes.entry(lane).or_default();
        *last = at.max(*last);
        *last
    }

    /// A process that was killed. What it still waits for never comes.
    fn is_over(&self, node: u32, life: u32) -> bool {
        self.lives.get(&node).copied().unwrap_or(0) != life
    }

    /// Ends a node's life; the next one's number.
    pub(crate) fn end_life(&mut self, node: u32) -> u32 {
        let life = self.lives.entry(node).or_default();
        *life += 1;
        *life
    }

    /// The digest that stands for that of a token that was just made.
    pub(crate) fn alias(&mut self, real: TokenDigest) -> TokenDigest {
        let mut bytes = [0; 32];
        let mut dice = Dice::new(&[self.seed, 0xa11a5, self.aliases.len() as u64]);
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&dice.roll().to_be_bytes());
        }
        let alias = TokenDigest::from_bytes(bytes);
        self.aliases.insert(real, alias);
        alias
    }

    /// The digest under which a token's session is known here.
    pub(crate) fn known_as(&self, real: TokenDigest) -> TokenDigest {
        self.aliases.get(&real).copied().unwrap_or(real)
    }

    /// Postgres hears of the login that gives out this token.
    pub(crate) fn hears_of(&mut self, digest: TokenDigest) {
        if !self.heard.contains_key(&digest) {
            let now = self.stamp();
            self.heard.insert(digest, now);
        }
    }

    /// When it did.
    pub(crate) fn heard_of(&self, digest: &TokenDigest) -> Option<Nanos> {
        self.heard.get(digest).copied()
    }

    fn note(&mut self, call: Call, what: &str) {
        if self.trace.is_some() {
            let Call {
                node,
                what: verb,
                about,
                ..
            } = call;
            let about = about & 0xffff;
            self.say(&format!("node {node}: {verb} {about:04x}: {what}"));
        }
    }

    /// A line of the trace.
    pub(crate) fn say(&mut self, line: &str) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7} ms  {line}", self.now));
        }
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }
}

/// A digest as a number, to name a call by.
pub(crate) fn number(digest: &TokenDigest) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
