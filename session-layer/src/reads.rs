//! Reads of the store for validations: all of them are made here.
//!
//! As many readers as the bulkhead has slots, each a task that takes what has gathered, reads it in one
//! statement, and takes again until nothing is left. With few callers each is read for at once; while
//! every reader is busy the callers gather, so that under load reads grow larger by themselves.
//!
//! A read goes on when its callers leave: breaking it off would cost the store's connection, and its
//! fill is good for the next one who asks. A token whose callers all left before its read began is not
//! read for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::bulkhead::Bulkhead;
use crate::cache::SessionCache;
use crate::coalesce::Gathering;
use crate::deadline;
use crate::driver::Driver;
use crate::error::{StoreError, StoreErrorKind};
use crate::store::{Loaded, Row, SessionStore};
use crate::token::TokenDigest;
use crate::validate::{Open, ReadContext, Told};

/// How many callers may wait: some 2 MiB of them, and far more than can be answered within a budget
/// of 250 ms.
const MOST_WAITING: usize = 10_000;

/// Who waits, and who reads.
#[derive(Debug)]
pub(crate) struct Reads<L>(Mutex<State<L>>);

#[derive(Debug)]
struct State<L> {
    bulkhead: Bulkhead,
    waiting: Gathering<Caller<L>>,
}

/// One that waits for a token's row.
#[derive(Debug)]
struct Caller<L> {
    /// Granted before it came here, and so before the read it joins.
    lease: Option<L>,
    /// As of [`Open`].
    cache_failed: bool,
    /// Closed where it has left.
    tell: oneshot::Sender<Told>,
}

/// What there is to count of reads, at this moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadGauges {
    pub(crate) at_once: usize,
    pub(crate) in_flight: usize,
    pub(crate) most_in_flight: usize,
    pub(crate) waiting: usize,
}

/// Where a caller's answer will arrive, by the place of its digest in the look-up. An end without an
/// answer: nobody could say.
type Answer = (usize, oneshot::Receiver<Told>);

impl<L> Reads<L> {
    pub(crate) fn new(at_once: usize) -> Self {
        Self(Mutex::new(State {
            bulkhead: Bulkhead::new(at_once),
            waiting: Gathering::default(),
        }))
    }

    pub(crate) fn gauges(&self) -> ReadGauges {
        let state = self.lock();
        ReadGauges {
            at_once: state.bulkhead.limit(),
            in_flight: state.bulkhead.in_flight(),
            most_in_flight: state.bulkhead.most(),
            waiting: state.waiting.callers(),
        }
    }

    /// Waits for all of these, which go into one read where it has room; or for none of them where
    /// that would take beyond the deadline.
    fn join(
        self: &Arc<Self>,
        open: Vec<Open<L>>,
        now: Instant,
        deadline: Instant,
    ) -> Option<Joined<L>> {
        let mut state = self.lock();
        let State { bulkhead, waiting } = &mut *state;
        let late =
            |open: &Open<L>| bulkhead.expected(waiting.reads_before(&open.digest), now) > deadline;
        if waiting.callers() + open.len() > MOST_WAITING || open.iter().any(late) {
            return None;
        }
        let mut joined = Joined {
            answers: Vec::with_capacity(open.len()),
            shared: 0,
            slot: None,
        };
        for open in open {
            let (tell, told) = oneshot::channel();
            let caller = Caller {
                lease: open.lease,
                cache_failed: open.cache_failed,
                tell,
            };
            let shares = waiting.join(open.digest, caller);
            joined.shared += u64::from(shares);
            joined.answers.push((open.at, told));
        }
        if bulkhead.take() {
            joined.slot = Some(Slot {
                reads: Arc::clone(self),
                began: None,
                taken: true,
            });
        }
        Some(joined)
    }

    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Joined<L> {
    answers: Vec<Answer>,
    /// How many joined others who wait for the same token.
    shared: u64,
    /// There was a slot for one more reader.
    slot: Option<Slot<L>>,
}

/// A slot of the bulkhead, for as long as its reader lives: also where that ends with its runtime.
struct Slot<L> {
    reads: Arc<Reads<L>>,
    began: Option<Instant>,
    taken: bool,
}

impl<L> Slot<L> {
    /// The next read, which has begun with this; `None`, and the slot is given back, where nobody waits.
    fn next(&mut self, now: Instant) -> Option<Vec<(TokenDigest, Vec<Caller<L>>)>> {
        let mut state = self.reads.lock();
        let read = state.waiting.next(|caller| !caller.tell.is_closed());
        if read.is_empty() {
            state.bulkhead.give_back();
            self.taken = false;
            return None;
        }
        state.bulkhead.begin(now);
        self.began = Some(now);
        Some(read)
    }

    fn ended(&mut self, now: Instant) {
        if let Some(began) = self.began.take() {
            self.reads.lock().bulkhead.end(began, now);
        }
    }
}

impl<L> Drop for Slot<L> {
    fn drop(&mut self) {
        if self.taken {
            let mut state = self.reads.lock();
            if let Some(began) = self.began {
                state.bulkhead.abandon(began);
            }
            state.bulkhead.give_back();
        }
    }
}

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    /// Step 2 of a validation: the store's word on what the cache did not answer, by the place of each
    /// digest in the look-up. What is missing in the answer nobody could say.
    pub(crate) async fn ask_store(
        self: &Arc<Self>,
        open: Vec<Open<C::Lease>>,
        deadline: Instant,
    ) -> Vec<(usize, Told)> {
        let Some(joined) = self.reads.join(open, Instant::now(), deadline) else {
            self.counters.shed.add_one();
            self.note_shed(&shed());
            return Vec::new();
        };
        self.counters.coalesced.add(joined.shared);
        if let Some(slot) = joined.slot {
            self.tasks.spawn(Arc::clone(self).read_on(slot));
        }
        let mut answers = Vec::with_capacity(joined.answers.len());
        for (at, answer) in joined.answers {
            match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(told)) => answers.push((at, told)),
                // What went wrong was noted where it did.
                Ok(Err(_)) => {}
                Err(_elapsed) => self.note_no_answer(),
            }
        }
        answers
    }

    /// A reader.
    async fn read_on(self: Arc<Self>, mut slot: Slot<C::Lease>) {
        loop {
            let asked = Instant::now();
            let Some(read) = slot.next(asked) else { return };
            let (digests, callers): (Vec<_>, Vec<_>) = read.into_iter().unzip();
            let loaded = self.load(&digests).await;
            slot.ended(Instant::now());
            let loaded = match loaded {
                Ok(loaded) => loaded,
                Err(error) => {
                    // Its callers learn of it by the end of their channels.
                    self.note_read(&error);
                    continue;
                }
            };
            self.seen.heard(asked, &loaded);
            let context = Arc::new(ReadContext::of(&loaded));
            for ((digest, callers), row) in digests.into_iter().zip(callers).zip(loaded.rows) {
                // Each on its own: one that has to be touched, or removed from a cache that hangs,
                // holds up neither the others' answers nor the next read.
                let concluding =
                    Arc::clone(&self).conclude(Arc::clone(&context), digest, row, callers);
                self.tasks.spawn(concluding);
            }
        }
    }

    /// One read. It is not given up while its fill may still be good.
    async fn load(&self, digests: &[TokenDigest]) -> Result<Loaded, StoreError> {
        self.counters.store_reads.add_one();
        self.counters.tokens_read.add(digests.len() as u64);
        deadline::question(self.for_validation(), self.store.load(digests)).await
    }

    /// What the row says to all who asked for it, and what is done behind that answer.
    async fn conclude(
        self: Arc<Self>,
        read: Arc<ReadContext>,
        digest: TokenDigest,
        row: Row,
        callers: Vec<Caller<C::Lease>>,
    ) {
        let (mut lease, mut cache_failed) = (None, false);
        let mut tell = Vec::with_capacity(callers.len());
        for caller in callers {
            // Each began before the read, so each may fill. Where there are several, the cache lost the
            // earlier ones, and only the last can still stand.
            lease = caller.lease.or(lease);
            cache_failed |= caller.cache_failed;
            tell.push(caller.tell);
        }
        let (told, behind) = self.answer(&read, digest, row, lease, cache_failed).await;
        for tell in tell {
            let _ = tell.send(told.clone());
        }
        if let Some(work) = behind {
            self.work_behind(work).await;
        }
    }
}

fn shed() -> StoreError {
    StoreError::new(
        StoreErrorKind::TimedOut,
        "load was shed: by the time reads take at present, no answer would have come within the request's \
         budget (see reads_at_once, and what slows Postgres down)",
    )
}
