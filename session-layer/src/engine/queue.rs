//! A queue for reads of the store that callers share. It combines the waiting callers
//! (`engine/coalescing.rs`) with a limit of concurrent reads (`engine/bulkhead.rs`).
//!
//! Each reader is a task. It makes one read for all waiting callers, and continues until no caller
//! waits. [`READERS_AT_ONCE`] readers start with their callers. While they are busy, callers
//! accumulate, and each read serves more of them. A further reader starts only if a caller has
//! waited for [`MAX_WAIT`], until the slots of the bulkhead are all acquired. A store whose reads
//! take longer than that therefore has as many reads in flight as the bulkhead allows.

use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::engine::bulkhead::Bulkhead;
use crate::engine::coalescing::{Callers, CoalescingQueue};
use crate::engine::tasks::Tasks;
use crate::model::lock::lock;

/// The limit of waiting callers: about 2 MiB, and far more than can get a reply in time.
pub(crate) const MAX_WAITING_CALLERS: usize = 10_000;
/// The number of readers that start at once: 2. The node and the store then work at the same time.
/// More of them make smaller reads. With 16 callers of a local Postgres, two readers reached 1.9
/// times the rate of nine (`docs/decisions/013-readers-not-permits.md`).
const READERS_AT_ONCE: usize = 2;
/// How long a caller waits before a further reader starts: 1 ms, a multiple of a local read.
const MAX_WAIT: Duration = Duration::from_millis(1);

/// Callers of type `C` that wait for a read about `K`, and the reads in flight.
#[derive(Debug)]
pub(crate) struct Queue<K, C>(Mutex<QueueState<K, C>>);

#[derive(Debug)]
struct QueueState<K, C> {
    bulkhead: Bulkhead,
    waiting: CoalescingQueue<K, C>,
    /// When the first caller joined since the queue was empty, or the watch last started a reader.
    since: Option<Instant>,
    /// Whether a task starts readers for callers that wait too long.
    is_watched: bool,
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
            since: None,
            is_watched: false,
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
        let QueueState { bulkhead, waiting, since, is_watched } = &mut *state;
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
        since.get_or_insert(now);
        let reader = if bulkhead.acquired() < READERS_AT_ONCE && bulkhead.acquire() {
            Some(Reader::Now(Slot::acquired(self)))
        } else if !*is_watched && bulkhead.acquired() < bulkhead.limit() {
            *is_watched = true;
            Some(Reader::Watched(Watch { queue: Arc::clone(self), is_over: false }))
        } else {
            None
        };
        Some(Joined { shared, reader })
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
    /// What must start, so that no caller waits for long.
    pub(crate) reader: Option<Reader<K, C>>,
}

/// A reader, or the watch that starts readers.
pub(crate) enum Reader<K, C> {
    /// A reader that starts at once.
    Now(Slot<K, C>),
    /// A watch that starts a reader whenever a caller waits too long.
    Watched(Watch<K, C>),
}

impl<K: Send + 'static, C: Send + 'static> Reader<K, C> {
    /// Starts it in a task. `read` makes reads with a slot until no caller waits.
    pub(crate) fn start<R>(self, tasks: &Tasks, read: impl Fn(Slot<K, C>) -> R + Send + 'static)
    where
        R: Future<Output: Send + 'static> + Send + 'static,
    {
        match self {
            Self::Now(slot) => drop(tasks.spawn(read(slot))),
            Self::Watched(watch) => drop(tasks.spawn(watch.run(tasks.clone(), read))),
        }
    }
}

/// Watches for callers that wait too long. There is one at a time. If it is dropped, the next
/// caller that joins brings another one.
pub(crate) struct Watch<K, C> {
    queue: Arc<Queue<K, C>>,
    is_over: bool,
}

/// What a watch has found.
enum Overdue<K, C> {
    /// A caller that has waited too long. A reader must start.
    Caller(Slot<K, C>),
    /// No caller, if this moment has not come.
    NothingUntil(Instant),
    /// No caller that waits, or no free slot. The watch is over.
    Nothing,
}

impl<K, C> Watch<K, C> {
    async fn run<R>(mut self, tasks: Tasks, read: impl Fn(Slot<K, C>) -> R)
    where
        R: Future<Output: Send + 'static> + Send + 'static,
    {
        loop {
            match self.look(Instant::now()) {
                Overdue::Caller(slot) => drop(tasks.spawn(read(slot))),
                Overdue::NothingUntil(then) => sleep_until(then).await,
                Overdue::Nothing => return,
            }
        }
    }

    fn look(&mut self, now: Instant) -> Overdue<K, C> {
        let mut state = self.queue.lock();
        if let Some(since) = state.since {
            if now < since + MAX_WAIT {
                return Overdue::NothingUntil(since + MAX_WAIT);
            }
            if state.bulkhead.acquire() {
                // The new reader takes those that wait now.
                state.since = Some(now);
                return Overdue::Caller(Slot::acquired(&self.queue));
            }
        }
        (state.is_watched, self.is_over) = (false, true);
        Overdue::Nothing
    }
}

impl<K, C> Drop for Watch<K, C> {
    fn drop(&mut self) {
        if !self.is_over {
            self.queue.lock().is_watched = false;
        }
    }
}

/// A slot of the bulkhead. Its drop releases it, also if the reader's task ends with its runtime.
pub(crate) struct Slot<K, C> {
    queue: Arc<Queue<K, C>>,
    began: Option<Instant>,
    /// Whether the slot was not released yet.
    is_acquired: bool,
}

impl<K, C> Slot<K, C> {
    /// Returns a slot that its caller has acquired in the bulkhead.
    fn acquired(queue: &Arc<Queue<K, C>>) -> Self {
        Self { queue: Arc::clone(queue), began: None, is_acquired: true }
    }
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
        if state.waiting.callers() == 0 {
            state.since = None;
        }
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

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    type Numbers = Arc<Queue<u32, ()>>;

    fn join(queue: &Numbers, key: u32, now: Instant) -> Option<Reader<u32, ()>> {
        queue
            .join(smallvec![(key, ())], now, now + Duration::from_secs(9))
            .expect("it joins")
            .reader
    }

    fn reader(queue: &Numbers, key: u32, now: Instant) -> Slot<u32, ()> {
        match join(queue, key, now) {
            Some(Reader::Now(mut slot)) => {
                assert_eq!(keys_of_next(&mut slot, now), [key]);
                slot
            }
            _ => panic!("no reader starts at once"),
        }
    }

    fn keys_of_next(slot: &mut Slot<u32, ()>, now: Instant) -> Vec<u32> {
        let read = slot.next(now, |()| true);
        read.into_iter().flatten().map(|(key, _)| key).collect()
    }

    /// Returns a queue whose first readers read, a caller that waits since `now`, and its watch.
    fn watched(limit: usize, now: Instant) -> (Numbers, Vec<Slot<u32, ()>>, Watch<u32, ()>) {
        let queue = Arc::new(Queue::new(limit));
        let reading = vec![reader(&queue, 1, now), reader(&queue, 2, now)];
        match join(&queue, 3, now) {
            Some(Reader::Watched(watch)) => (queue, reading, watch),
            _ => panic!("the third caller brings no watch"),
        }
    }

    #[test]
    fn further_reader_starts_for_a_caller_that_waited() {
        let now = Instant::now();
        let (queue, _reading, mut watch) = watched(4, now);
        assert!(join(&queue, 4, now).is_none(), "there is one watch");
        assert!(matches!(watch.look(now), Overdue::NothingUntil(then) if then == now + MAX_WAIT));
        let then = now + MAX_WAIT;
        let Overdue::Caller(mut third) = watch.look(then) else { panic!("no reader starts") };
        assert_eq!(keys_of_next(&mut third, then), [3, 4]);
        assert!(matches!(watch.look(then), Overdue::Nothing), "no caller waits");
        assert!(matches!(join(&queue, 5, then), Some(Reader::Watched(_))));
    }

    #[test]
    fn caller_that_a_full_read_left_behind_gets_a_reader() {
        let now = Instant::now();
        let (queue, mut reading, mut watch) = watched(4, now);
        for key in 4..4 + u32::try_from(crate::engine::coalescing::READ_BATCH).unwrap() {
            assert!(join(&queue, key, now).is_none());
        }
        let then = now + MAX_WAIT;
        reading[0].ended(then);
        assert_eq!(keys_of_next(&mut reading[0], then).len(), 128);
        let Overdue::Caller(mut third) = watch.look(then) else { panic!("no reader starts") };
        assert_eq!(keys_of_next(&mut third, then).len(), 1);
        assert!(matches!(watch.look(then), Overdue::Nothing));
    }

    #[test]
    fn watch_starts_no_more_readers_than_there_are_slots() {
        let now = Instant::now();
        let (queue, _reading, mut watch) = watched(3, now);
        let then = now + MAX_WAIT;
        let Overdue::Caller(mut third) = watch.look(then) else { panic!("no reader starts") };
        assert_eq!(keys_of_next(&mut third, then), [3]);
        assert!(join(&queue, 4, then).is_none(), "all slots are acquired");
        assert!(matches!(watch.look(then + MAX_WAIT), Overdue::Nothing));
        drop(third);
        assert!(matches!(join(&queue, 5, then), Some(Reader::Watched(_))));
    }

    #[test]
    fn dropped_watch_is_replaced() {
        let now = Instant::now();
        let (queue, _reading, watch) = watched(4, now);
        drop(watch);
        assert!(matches!(join(&queue, 4, now), Some(Reader::Watched(_))));
    }

    #[test]
    fn one_slot_has_one_reader() {
        let now = Instant::now();
        let queue = Arc::new(Queue::new(1));
        let _reading = reader(&queue, 1, now);
        assert!(join(&queue, 2, now).is_none());
    }
}
