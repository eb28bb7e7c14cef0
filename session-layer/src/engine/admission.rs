//! Admission: logins, changes and lists wait for a turn to query the store, or are shed at once.
//!
//! Each kind has slots of its own (`engine/bulkhead.rs`). A kind has fewer slots than there are
//! connections, and a flood of one kind leaves connections to the others.
//!
//! Within a kind, the parties take turns (`engine/fair_queue.rs`). A party is the user whose
//! sessions are affected, or the session or token if the user is not known. A caller that would
//! start too late is shed, and has changed nothing.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::coop;
use tokio::time::{Instant, timeout_at};

use crate::engine::bulkhead::Bulkhead;
use crate::engine::fair_queue::FairQueue;
use crate::engine::queue::MAX_WAITING_CALLERS;
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::lock::lock;
use crate::model::session::SessionId;
use crate::model::token::TokenDigest;
use crate::store::Target;

/// The purpose of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnKind {
    /// The read before a change, which finds the digests of the session.
    LookUp,
    Change,
    Create,
    List,
}

/// The party of a caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    User(String),
    Session(SessionId),
    Token(TokenDigest),
    /// An operator's tool, which changes many sessions.
    Operator,
}

impl From<&Target> for Party {
    fn from(target: &Target) -> Self {
        match target {
            Target::Token(digest) => Self::Token(*digest),
            Target::Id(id) => Self::Session(*id),
            // A batch of an operator's tool waits as one party. The ids of the next batch are
            // others.
            Target::Ids(_) => Self::Operator,
            Target::OwnedBy(_, user_id) | Target::User { user_id, .. } => {
                Self::User(user_id.clone())
            }
        }
    }
}

/// The turns of all kinds.
#[derive(Debug)]
pub(crate) struct Admission([Arc<Lane>; 4]);

/// The turns of one kind.
#[derive(Debug)]
struct Lane(Mutex<LaneState>);

#[derive(Debug)]
struct LaneState {
    bulkhead: Bulkhead,
    callers: FairQueue<Party, oneshot::Sender<Turn>>,
}

impl Admission {
    pub(crate) fn new(max_concurrent: usize) -> Self {
        Self(std::array::from_fn(|_| {
            Arc::new(Lane(Mutex::new(LaneState {
                bulkhead: Bulkhead::new(max_concurrent),
                callers: FairQueue::new(max_concurrent),
            })))
        }))
    }

    /// Returns how many callers wait.
    pub(crate) fn waiting(&self) -> usize {
        self.0.iter().map(|lane| lane.lock().callers.waiting()).sum()
    }

    /// Waits for the party's turn, and then queries the store. Returns `None`, and does not query
    /// the store, if the turn would not come within `wait`.
    pub(crate) async fn run<T>(
        &self,
        kind: TurnKind,
        party: Party,
        wait: Duration,
        query: impl Future<Output = T>,
    ) -> Option<T> {
        // A caller that is shed may retry at once. It must still let other tasks run.
        coop::consume_budget().await;
        let mut turn = self.turn(kind, party, wait).await?;
        let reply = query.await;
        turn.replied = Some(Instant::now());
        Some(reply)
    }

    /// Waits for a turn. Returns `None` if it would begin too late.
    async fn turn(&self, kind: TurnKind, party: Party, wait: Duration) -> Option<Turn> {
        let lane = &self.0[kind as usize];
        let now = Instant::now();
        let deadline = now + wait;
        let turn = {
            let mut state = lane.lock();
            if state.callers.has_share_left(&party) && state.bulkhead.acquire() {
                state.callers.begin(party.clone());
                state.bulkhead.begin(now);
                return Some(Turn::new(lane, party, now));
            }
            let before = state.callers.turns_before(&party);
            if state.callers.waiting() >= MAX_WAITING_CALLERS
                || state.bulkhead.earliest_start(before, now) > deadline
            {
                return None;
            }
            let (sender, turn) = oneshot::channel();
            state.callers.join(party, sender);
            turn
        };
        timeout_at(deadline, turn).await.ok()?.ok()
    }
}

impl Lane {
    /// Begins turns of waiting callers while there are free slots.
    fn begin_turns(self: &Arc<Self>) {
        let now = Instant::now();
        loop {
            let (caller, turn) = {
                let mut state = self.lock();
                if !state.bulkhead.acquire() {
                    return;
                }
                let Some((party, caller)) = state.callers.next(|caller| !caller.is_closed()) else {
                    state.bulkhead.release();
                    return;
                };
                state.bulkhead.begin(now);
                (caller, Turn::new(self, party, now))
            };
            // If the caller has just left, the turn is dropped, which ends it. The drop acquires
            // the lock, which is free here.
            let _ = caller.send(turn);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LaneState> {
        lock(&self.0)
    }
}

/// A turn. It ends when it is dropped.
#[derive(Debug)]
struct Turn {
    lane: Arc<Lane>,
    party: Party,
    began: Instant,
    /// The time of the store's reply. `None`: the turn was cancelled, and its duration is not used.
    replied: Option<Instant>,
}

impl Turn {
    fn new(lane: &Arc<Lane>, party: Party, began: Instant) -> Self {
        Self { lane: Arc::clone(lane), party, began, replied: None }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.lane.lock();
            match self.replied {
                Some(replied) => state.bulkhead.end(self.began, replied),
                None => state.bulkhead.cancel(self.began),
            }
            state.bulkhead.release();
            state.callers.end(&self.party);
        }
        self.lane.begin_turns();
    }
}

/// Returns the error of a caller that was shed.
pub(crate) fn shed() -> StoreError {
    StoreError::new(
        StoreErrorKind::Shed,
        "load was shed: too many logins, changes and lists of sessions wait for the store, and \
         this one would have begun too late, nothing was changed: find out what slows the store \
         down, or limit the request rate of each client",
    )
}
