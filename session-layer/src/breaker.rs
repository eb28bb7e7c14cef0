//! The breaker: should requests ask the cache at all?
//!
//! Which connection is good is decided below, by the cache's own links. Here it is decided whether asking
//! is worth it, from how look-ups went lately, whatever the reason they went badly. While it is *open* no
//! request waits for the cache: its sessions are read from the store. Look-ups of its own (*probes*, while it
//! is *half-open*) find out when to ask again, so that not even one request has to try.
//!
//! It stands before look-ups alone. Changes go on telling the cache: other nodes may be asking it, and one
//! that is merely slow still acknowledges, which is what lets a revocation promise `Propagated`. Fills go out
//! too; they belong to look-ups that went well.
//!
//! | number | why |
//! |---|---|
//! | a call is *slow* over 20 ms ([`DEFAULT_SLOW_CALL`]) | four times what a healthy validation may take (5 ms), and nearly all that the store's own answer may (25 ms): beyond it the detour costs more than it saves |
//! | opens when more than half of the calls were slow or failed … | with fewer, asking still saves the store more than half of its load |
//! | … of those in the last 100 ms, or of the last 10 where that is longer | so at 100 requests/s or more it is open within 200 ms of a fault: the 50 ms after which the first calls fail, and until they are the majority of the last 100 ms. Ten, so that one hiccup of a quiet service decides nothing |
//! | opens at once where no connection can be had | that is no matter of statistics |
//! | probes every 100 ms, closes after 5 good ones in a row | hits are back long before 2 s after the cache answers; and of a cache that is slow or failing half of the time, five good answers in a row come once in 32 tries |
//!
//! The state machine is a function of what it is told, the time included; `breaker/asking.rs` tells it.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::error::CacheErrorKind;

mod asking;

pub(crate) use self::asking::Gate;

/// A look-up in the cache that takes longer is slow, unless set otherwise: 20 ms.
pub const DEFAULT_SLOW_CALL: Duration = Duration::from_millis(20);

/// The calls of this span are judged …
const SPAN: Duration = Duration::from_millis(100);
/// … and at least so many, …
const LEAST: usize = 10;
/// … unless they are older than this.
const OLDEST: Duration = Duration::from_secs(10);
/// Not more than so many: at more than 10,000 calls/s the last ones tell enough.
const MOST: usize = 1_000;
/// From one probe that went badly to the next.
const PAUSE: Duration = Duration::from_millis(100);
/// So many probes in a row have to go well.
const PROBES: u32 = 5;

/// Is the cache being asked?
///
/// It opens when more than half of the look-ups of the last 100 ms (of the last 10, where that is longer) failed or were
/// slow, and at once where no connection can be had: with fewer, asking still saves the store more than half of its
/// load. *Slow* is over 20 ms ([`DEFAULT_SLOW_CALL`]). So at 100 requests/s or more it is open within 200 ms of a fault.
/// While it is open, a look-up of its own every 100 ms finds out; five good ones in a row close it, of which a cache that
/// fails half of the time has one series in 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BreakerState {
    /// Yes.
    Closed,
    /// No: too many look-ups failed or were slow.
    Open,
    /// Not by requests: probes are finding out whether it can be asked again.
    HalfOpen,
}

/// How one look-up went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Good,
    /// Answered, too late to be of use.
    Slow,
    Failed,
    /// There was no connection to ask over.
    Unreachable,
}

impl Outcome {
    /// Of a look-up that took this long, and failed or did not.
    pub(super) fn of(took: Duration, slow_call: Duration, failure: Option<CacheErrorKind>) -> Self {
        match failure {
            Some(CacheErrorKind::Unreachable) => Self::Unreachable,
            Some(_) => Self::Failed,
            None if took > slow_call => Self::Slow,
            None => Self::Good,
        }
    }
}

/// What to tell people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    Closed,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    opened: u64,
    /// Is somebody at work on closing it?
    probing: bool,
}

#[derive(Debug)]
enum State {
    /// Since then; calls that began before tell of the past.
    Closed {
        since: Option<Instant>,
        window: Window,
    },
    /// Until then no probe is made.
    Open { until: Instant },
    /// So many probes went well.
    HalfOpen { good: u32 },
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            state: State::Closed {
                since: None,
                window: Window::default(),
            },
            opened: 0,
            probing: false,
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How often it has opened.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// A request's look-up that began then has ended so.
    pub(super) fn ended(
        &mut self,
        began: Instant,
        now: Instant,
        outcome: Outcome,
    ) -> Option<Change> {
        let State::Closed { since, window } = &mut self.state else {
            return None;
        };
        if since.is_some_and(|since| began < since) {
            return None;
        }
        window.add(now, outcome != Outcome::Good);
        if outcome != Outcome::Unreachable && !window.is_bad() {
            return None;
        }
        self.state = State::Open { until: now + PAUSE };
        self.opened += 1;
        Some(Change::Opened)
    }

    /// True once for each prober that is needed: it is not closed and nobody is at work on it.
    #[must_use]
    pub(super) fn needs_prober(&mut self) -> bool {
        let open = !matches!(self.state, State::Closed { .. });
        open && !std::mem::replace(&mut self.probing, true)
    }

    /// The prober has gone without having closed it.
    pub(super) fn prober_left(&mut self) {
        self.probing = false;
        if matches!(self.state, State::HalfOpen { .. }) {
            self.state = State::HalfOpen { good: 0 };
        }
    }

    /// When the next probe is to be made; `None` where it is closed.
    pub(super) fn next_probe(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until } => Some(until),
            State::HalfOpen { .. } => Some(now),
        }
    }

    /// A probe begins.
    pub(super) fn probe(&mut self) {
        if matches!(self.state, State::Open { .. }) {
            self.state = State::HalfOpen { good: 0 };
        }
    }

    /// The probe has ended so.
    pub(super) fn probed(&mut self, now: Instant, outcome: Outcome) -> Option<Change> {
        let State::HalfOpen { good } = &mut self.state else {
            return None;
        };
        if outcome != Outcome::Good {
            self.state = State::Open { until: now + PAUSE };
            return None;
        }
        *good += 1;
        if *good < PROBES {
            return None;
        }
        self.state = State::Closed {
            since: Some(now),
            window: Window::default(),
        };
        self.probing = false;
        Some(Change::Closed)
    }
}

/// How the last look-ups went.
#[derive(Debug, Default)]
struct Window {
    /// When each ended, and whether it went badly.
    calls: VecDeque<(Instant, bool)>,
    bad: usize,
}

impl Window {
    fn add(&mut self, now: Instant, bad: bool) {
        self.calls.push_back((now, bad));
        self.bad += usize::from(bad);
        while let Some((ended, bad)) = self.calls.front().copied() {
            let age = now.saturating_duration_since(ended);
            let many = self.calls.len();
            if !(many > MOST || age > OLDEST || (many > LEAST && age > SPAN)) {
                return;
            }
            self.calls.pop_front();
            self.bad -= usize::from(bad);
        }
    }

    fn is_bad(&self) -> bool {
        self.calls.len() >= LEAST && self.bad * 2 > self.calls.len()
    }
}

#[cfg(test)]
mod tests;
