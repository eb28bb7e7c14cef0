//! A node: a `Sessions` with its own connections, which validates and observes.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use session_layer::{Metrics, Sessions, Validation};
use tokio::{
    sync::watch::Receiver,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    Error,
    plan::KEPT,
    sql::{Kind, token},
};

/// The interval at which one of the sessions that stay valid is validated.
const KEEP: Duration = Duration::from_millis(10);
/// The interval at which a node's counters are read.
const SAMPLE: Duration = Duration::from_millis(10);
/// The number of validations after which Redis should have an entry of a session.
const WARM: u32 = 3;
/// The time between them, because the fill runs after the response.
const BETWEEN: Duration = Duration::from_millis(30);
/// The interval at which an active session is validated that will end. It is short enough for hits,
/// and long enough to cause no load.
const BEFORE: Duration = Duration::from_millis(20);
/// The interval at which an ended session is validated. It grows after half a second.
const POLL: Duration = Duration::from_millis(5);
/// The divisor of an age that gives its precision. Many sessions may stay valid for seconds. Their
/// validations would otherwise keep the node from reading the journal.
const EXACT: u32 = 100;
/// The deadline of the node's shutdown.
const SHUTDOWN: Duration = Duration::from_secs(2);
/// The deadline of the node's first hit, and of a read of the journal.
const LONG: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) sessions: Sessions,
    /// The prefix of the node's keys in Redis.
    pub(crate) namespace: String,
    pub(crate) started: Instant,
    figures: Arc<Mutex<Figures>>,
    /// Validates the sessions that stay valid.
    keeping: JoinHandle<()>,
}

/// The time from which a session must not be accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The time when the COMMIT or the revocation returned.
    pub(crate) at: Instant,
    /// The time after that in which a connected node may still accept the session.
    pub(crate) within: Duration,
    /// D: a node whose journal is older than that is cut off from Postgres.
    pub(crate) staleness_bound: Duration,
}

impl Bounds {
    /// Returns whether a validation that began at this time must not accept the session.
    fn are_exceeded_by(self, began: Instant) -> bool {
        began > self.at + self.within
    }
}

impl Node {
    /// Starts to validate the sessions that stay valid.
    pub(crate) fn start(sessions: Sessions, namespace: String, seed: u64) -> Self {
        let started = Instant::now();
        let figures = Arc::new(Mutex::new(Figures::default()));
        let (of, to) = (sessions.clone(), Arc::clone(&figures));
        let keeping = tokio::spawn(async move {
            let mut turn = interval(KEEP);
            turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for n in (0..KEPT).cycle() {
                turn.tick().await;
                let token = token(seed, Kind::Kept, n);
                let is_refused = matches!(of.validate(&token).await, Validation::Invalid);
                locked(&to).refused += u64::from(is_refused);
            }
        });
        Self { sessions, namespace, started, figures, keeping }
    }

    /// Stops the node, and closes its connections.
    pub(crate) async fn stop(self) {
        self.keeping.abort();
        let _late = self.sessions.shutdown(SHUTDOWN).await;
    }

    /// Restarts the figures.
    pub(crate) fn mark(&self) {
        *locked(&self.figures) = Figures { marked: self.sessions.metrics(), ..Figures::default() };
    }

    /// Returns the figures since the mark.
    pub(crate) fn figures(&self) -> Figures {
        let (now, figures) = (self.sessions.metrics(), *locked(&self.figures));
        Figures {
            hits: now.hits - figures.marked.hits,
            validations: now.total() - figures.marked.total(),
            unavailable: now.unavailable - figures.marked.unavailable,
            ..figures
        }
    }

    /// Waits until the node has served an entry from Redis. Returns when that was observed.
    pub(crate) async fn first_hit(&self) -> Result<Instant, Error> {
        wait("hit", || (self.sessions.metrics().hits > 0).then(Instant::now)).await
    }

    /// Waits until a read of the journal has succeeded that began after this moment.
    pub(crate) async fn catch_up(&self, after: Instant) -> Result<Instant, Error> {
        wait("read of the journal", || {
            let (now, age) = (Instant::now(), self.sessions.metrics().journal_age);
            age.is_some_and(|age| now - age > after).then_some(now)
        })
        .await
    }

    /// Validates sessions in the background, so that Redis has entries of them.
    pub(crate) fn warm(&self, tokens: Vec<String>) {
        let sessions = self.sessions.clone();
        tokio::spawn(async move {
            for _ in 0..WARM {
                for token in &tokens {
                    let _only_for_the_entry = sessions.validate(token).await;
                }
                sleep(BETWEEN).await;
            }
        });
    }

    /// Validates a session until it is invalid. Returns when that was.
    pub(crate) fn watch(
        &self,
        token: String,
        mut ended: Receiver<Option<Bounds>>,
    ) -> JoinHandle<Instant> {
        let (sessions, figures) = (self.sessions.clone(), Arc::clone(&self.figures));
        tokio::spawn(async move {
            loop {
                let (began, age) = (Instant::now(), sessions.metrics().journal_age);
                let answer = sessions.validate(&token).await;
                let bounds = *ended.borrow_and_update();
                match (answer, bounds) {
                    (Validation::Invalid, _) => return Instant::now(),
                    (Validation::Valid(_), Some(bounds)) if bounds.are_exceeded_by(began) => {
                        let in_touch = age.is_some_and(|age| age <= bounds.staleness_bound);
                        let mut figures = locked(&figures);
                        figures.let_in += 1;
                        figures.let_in_in_touch += u64::from(in_touch);
                    }
                    // In an outage, the session was not accepted, and the next validation decides.
                    _ => {}
                }
                match bounds {
                    Some(bounds) => sleep(POLL.max(bounds.at.elapsed() / EXACT)).await,
                    None => {
                        tokio::select! {
                            () = sleep(BEFORE) => {}
                            _ = ended.changed() => {}
                        }
                    }
                }
            }
        })
    }
}

/// A node's figures since its mark.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// The counters at the mark.
    pub(crate) marked: Metrics,
    /// Validations that were served from Redis.
    pub(crate) hits: u64,
    pub(crate) validations: u64,
    /// Validations that returned Unavailable.
    pub(crate) unavailable: u64,
    /// Validations that accepted an ended session although they began after the bound.
    pub(crate) let_in: u64,
    /// Those of them during which the node considered itself connected to Postgres.
    pub(crate) let_in_in_touch: u64,
    /// Validations of valid sessions that returned Invalid.
    pub(crate) refused: u64,
}

/// Waits until `found` returns a value.
async fn wait<T>(what: &str, found: impl Fn() -> Option<T>) -> Result<T, Error> {
    let deadline = Instant::now() + LONG;
    while Instant::now() < deadline {
        if let Some(found) = found() {
            return Ok(found);
        }
        sleep(SAMPLE).await;
    }
    Err(format!("a node had no {what} within {LONG:?}").into())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_counts_from_the_commit() {
        let (at, staleness_bound) = (Instant::now(), Duration::from_secs(2));
        for within in [staleness_bound, Duration::ZERO] {
            let bounds = Bounds { at, within, staleness_bound };
            assert!(!bounds.are_exceeded_by(at + within));
            assert!(bounds.are_exceeded_by(at + within + Duration::from_nanos(1)));
        }
    }
}
