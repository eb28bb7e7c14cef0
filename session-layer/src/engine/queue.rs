//! A queue for reads of the store that callers share. It combines the waiting callers
//! (`engine/coalescing.rs`) with a limit of concurrent reads (`engine/bulkhead.rs`).
//!
//! There are as many readers as the bulkhead has slots. Each reader is a task. It makes one read
//! for all waiting callers, and continues until no caller waits. With few callers, each caller gets
//! a read at once. While all readers are busy, callers accumulate, and each read serves more of
//! them.

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;

use crate::engine::bulkhead::Bulkhead;
use crate::engine::coalescing::{Callers, CoalescingQueue};
use crate::model::lock::lock;

/// The limit of waiting callers: about 2 MiB, and far more than can get a reply in time.
pub(crate) const MAX_WAITING_CALLERS: usize = 10_000;

/// Callers of type `C` that wait for a read about `K`, and the reads in flight.
#[derive(Debug)]
pub(crate) struct Queue<K, C>(Mutex<QueueState<K, C>>);

#[derive(Debug)]
struct QueueState<K, C> {
    bulkhead: Bulkhead,
    waiting: CoalescingQueue<K, C>,
}

/// The queue's current figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gauges {
    pub(crate) max_concurrent: usize,
    pub(crate) in_flight: usize,
    pub(crate) peak_in_flight: usize,
    pub(crate) waiting: usize,
}

impl<K: Copy + Eq + Hash, C> Queue<K, C> {
    pub(crate) fn new(max_concurrent: usize) -> Self {
        Self(Mutex::new(QueueState {
            bulkhead: Bulkhead::new(max_concurrent),
            waiting: CoalescingQueue::default(),
        }))
    }

    pub(crate) fn gauges(&self) -> Gauges {
        let state = self.lock();
        Gauges {
            max_concurrent: state.bulkhead.limit(),
            in_flight: state.bulkhead.in_flight(),
            peak_in_flight: state.bulkhead.peak(),
            waiting: state.waiting.callers(),
        }
    }

    /// Adds these callers. One read serves all of them if it has room. Returns `None`, and adds no
    /// caller, if the reply for one of them would come after the deadline.
    pub(crate) fn join(
        self: &Arc<Self>,
        callers: Callers<(K, C)>,
        now: Instant,
        deadline: Instant,
    ) -> Option<Joined<K, C>> {
        let mut state = self.lock();
        let QueueState { bulkhead, waiting } = &mut *state;
        let late = |key: &K| bulkhead.expected(waiting.reads_before(key), now) > deadline;
        if waiting.callers() + callers.len() > MAX_WAITING_CALLERS
            || callers.iter().any(|(key, _)| late(key))
        {
            return None;
        }
        let mut shared = 0;
        for (key, caller) in callers {
            shared += u64::from(waiting.join(key, caller));
        }
        let slot = bulkhead.acquire().then(|| Slot {
            queue: Arc::clone(self),
            began: None,
            is_acquired: true,
        });
        Some(Joined { shared, slot })
    }
}

impl<K, C> Queue<K, C> {
    fn lock(&self) -> MutexGuard<'_, QueueState<K, C>> {
        lock(&self.0)
    }
}

/// Callers that were added to the queue.
pub(crate) struct Joined<K, C> {
    /// How many of them share a key with an earlier caller.
    pub(crate) shared: u64,
    /// The slot of a further reader, if there was a free one.
    pub(crate) slot: Option<Slot<K, C>>,
}

/// A slot of the bulkhead. Its drop releases it, also if the reader's task ends with its runtime.
pub(crate) struct Slot<K, C> {
    queue: Arc<Queue<K, C>>,
    began: Option<Instant>,
    /// Whether the slot was not released yet.
    is_acquired: bool,
}

impl<K: Copy + Eq + Hash, C> Slot<K, C> {
    /// Begins the next read, and returns its callers. If no caller waits, it releases the slot and
    /// returns `None`.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        is_there: impl Fn(&C) -> bool,
    ) -> Option<Vec<(K, Callers<C>)>> {
        let mut state = self.queue.lock();
        let read = state.waiting.next(is_there);
        if read.is_empty() {
            state.bulkhead.release();
            self.is_acquired = false;
            return None;
        }
        state.bulkhead.begin(now);
        self.began = Some(now);
        Some(read)
    }

    /// Records that the read in flight has ended.
    pub(crate) fn ended(&mut self, now: Instant) {
        if let Some(began) = self.began.take() {
            self.queue.lock().bulkhead.end(began, now);
        }
    }
}

impl<K, C> Drop for Slot<K, C> {
    fn drop(&mut self) {
        if self.is_acquired {
            let mut state = self.queue.lock();
            if let Some(began) = self.began {
                state.bulkhead.cancel(began);
            }
            state.bulkhead.release();
        }
    }
}
