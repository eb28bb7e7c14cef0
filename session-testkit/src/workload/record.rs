//! The record of a run: its clock, its history and its numbers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Counts,
    tally::{Answered, Tally},
};
use crate::history::{Entry, Header, History, Nanos, Operation, nanos};

/// The clock of a run.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Returns the time since the start.
    pub fn now(&self) -> Nanos {
        nanos(self.start.elapsed())
    }

    pub(super) fn at(&self, time: Nanos) -> Instant {
        self.start + Duration::from_nanos(time)
    }
}

/// The recorder of a run, also for samplers that observe beside the workload. All clones share one
/// record.
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

    /// Returns the run's clock, which all times of its history use.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Adds an entry to the history.
    pub fn record(&self, entry: Entry) {
        self.state().history.push(entry);
    }

    /// Returns the counts of the run so far.
    pub fn progress(&self) -> Counts {
        self.state().tally.total()
    }

    /// Counts a request that is due at this time after the load began. It is sent now or never.
    pub(super) fn due(&self, due: Nanos, sent: bool) {
        self.state().tally.due(due, sent);
    }

    /// Records an operation that has ended. `None`: it was not part of the load.
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

    /// Returns the record. Clones of the recorder lose what they record later.
    pub(super) fn take(&self) -> (History, Tally) {
        let mut state = self.state();
        let header = state.history.header.clone();
        let history = std::mem::replace(&mut state.history, History::new(header));
        (history, std::mem::take(&mut state.tally))
    }

    /// Locks the state, which is consistent even after a panic elsewhere.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
