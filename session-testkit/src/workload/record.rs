//! The record of a run: its clock, its history, its numbers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::tally::{Answered, Tally};
use crate::history::{Entry, Header, History, Nanos, Operation, nanos};

/// The one clock of a run.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that shows 0 now.
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// What it shows now.
    #[must_use]
    pub fn now(&self) -> Nanos {
        nanos(self.start.elapsed())
    }

    /// When it shows, or showed, this.
    pub(super) fn at(&self, time: Nanos) -> Instant {
        self.start + Duration::from_nanos(time)
    }
}

/// Records what happens in a run. Cheap to clone; all clones are one. For samplers that observe beside
/// the workload.
#[derive(Debug, Clone)]
pub struct Recorder {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    history: History,
    tally: Tally,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Requests that were due by now.
    pub due: u64,
    /// Of those, how many were sent.
    pub sent: u64,
    /// Of those, how many were answered.
    pub answered: u64,
    /// Of those, how many by "nobody could say".
    pub unavailable: u64,
}

impl Recorder {
    pub(super) fn new(header: Header) -> Self {
        Self {
            clock: Clock::start(),
            state: Arc::new(Mutex::new(State {
                history: History::new(header),
                tally: Tally::default(),
            })),
        }
    }

    /// The run's clock. All times of its history are of it.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Adds to the history.
    pub fn record(&self, entry: Entry) {
        self.state().history.push(entry);
    }

    /// How far the run is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.state().tally.progress()
    }

    /// A request is due at this time after the load began, and is sent or will never be.
    pub(super) fn due(&self, due: Nanos, sent: bool) {
        self.state().tally.due(due, sent);
    }

    /// An operation is over; `None`: it was not part of the load.
    pub(super) fn operation(&self, operation: Operation, answered: Option<Answered>) {
        let mut state = self.state();
        if let Some(answered) = answered {
            state.tally.answered(&operation, answered);
        }
        state.history.operations.push(operation);
    }

    pub(super) fn unsupported(&self) {
        self.state().tally.unsupported();
    }

    pub(super) fn problem(&self, what: String) {
        self.state().tally.problem(what);
    }

    /// What was recorded. What clones of this record from now on is lost.
    pub(super) fn take(&self) -> (History, Tally) {
        let mut state = self.state();
        let header = state.history.header.clone();
        let history = std::mem::replace(&mut state.history, History::new(header));
        (history, std::mem::take(&mut state.tally))
    }

    /// It is whole at every time, so a panic elsewhere does no harm.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
