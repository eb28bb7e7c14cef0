//! The places of a pool: which connection the next caller gets, and when one is opened or closed.
//! All moments are passed in.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::model::error::StoreError;

/// How long a connection is used. After a failover the address may lead to another server. Those
/// that were opened together end one by one, within a minute before that.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// The steps in which the ages of connections differ, and their number.
const AGE_STEP: Duration = Duration::from_secs(6);
const AGE_STEPS: u32 = 10;
/// How long a connection may be idle beside one that was used later. Load balancers drop flows
/// without packets silently, the strictest known one (Azure) after four minutes.
const MAX_IDLE: Duration = Duration::from_secs(3 * 60);
/// How long the first attempt to connect may take. Each attempt that takes longer doubles the
/// limit, up to [`OPENING`]. A packet sent while the server or its network was away may get no
/// reply (a container that starts, a retransmission after a second). A new attempt gets one at
/// once.
const ATTEMPT: Duration = Duration::from_millis(250);
/// How long an attempt may take at most. A distant database with TLS takes longer than one read
/// may.
pub(super) const OPENING: Duration = Duration::from_secs(5);
/// The maximum of concurrent attempts to connect. Ten connections are still opened within a few
/// tens of ms. After an attempt that failed or timed out, they are serialized. A hanging Postgres
/// must process and drop all pending connections when it recovers, and is silent meanwhile.
const OPENED_AT_ONCE: u32 = 3;

/// A connection and its age.
#[derive(Debug)]
pub(super) struct Aged<C> {
    pub(super) connection: C,
    pub(super) opened: Instant,
    /// The age at which it is replaced.
    max_age: Duration,
}

#[derive(Debug)]
struct Idle<C> {
    slot: Aged<C>,
    since: Instant,
}

/// The sender to a caller that waits.
type Caller<C> = oneshot::Sender<Result<Aged<C>, StoreError>>;

/// The places of a pool of at most `most` connections.
#[derive(Debug)]
pub(super) struct Slots<C> {
    most: u32,
    /// Connections that are idle, in use, being opened, or being closed.
    taken: u32,
    opening: u32,
    closing: u32,
    /// The longest idle one first.
    idle: VecDeque<Idle<C>>,
    waiting: VecDeque<Caller<C>>,
    /// How long the next attempt to connect may take.
    attempt_limit: Duration,
    /// Why the last attempt failed, and until when none is made for a new caller.
    failure: Option<(StoreError, Instant)>,
    /// Connections to open for no caller, because old ones were closed.
    replacements: u32,
    /// The number of connections opened so far, which spreads their ages.
    opened: u32,
    /// Whether another pool needs a connection. The next one that is released is then closed.
    close_next: bool,
    /// Whether connections that become idle are closed, until the next caller comes.
    rests: bool,
    /// Set once the pool is closed.
    closed: Option<StoreError>,
}

/// What a caller gets.
#[derive(Debug)]
pub(super) enum Acquired<C> {
    /// A connection that was idle this long.
    Idle(Aged<C>, Duration),
    Waiting(oneshot::Receiver<Result<Aged<C>, StoreError>>),
    Refused(StoreError),
}

/// What another pool gets.
#[derive(Debug)]
pub(super) enum Given<C> {
    /// The place of this connection, which must be closed.
    Idle(Aged<C>),
    /// The place of the next connection that is released.
    Later,
    /// No place: none is to spare.
    Nothing,
}

impl<C> Slots<C> {
    pub(super) fn new(most: u32) -> Self {
        Self {
            most,
            taken: 0,
            opening: 0,
            closing: 0,
            idle: VecDeque::new(),
            waiting: VecDeque::new(),
            attempt_limit: ATTEMPT,
            failure: None,
            replacements: 0,
            opened: 0,
            close_next: false,
            rests: false,
            closed: None,
        }
    }

    /// Returns the connection that was used last, so that surplus ones become old.
    pub(super) fn acquire(&mut self, now: Instant) -> Acquired<C> {
        if let Some(closed) = &self.closed {
            return Acquired::Refused(closed.clone());
        }
        self.rests = false;
        if let Some(last) = self.idle.pop_back() {
            return Acquired::Idle(last.slot, now.saturating_duration_since(last.since));
        }
        if let Some((reason, until)) = &self.failure
            && now < *until
            && !self.has_in_use()
        {
            return Acquired::Refused(reason.clone());
        }
        let (caller, receiver) = oneshot::channel();
        self.waiting.push_back(caller);
        Acquired::Waiting(receiver)
    }

    /// Returns the idle connections that are too old, or were idle for too long, to be closed. One
    /// stays for the next caller, who checks it. Its replacement follows when it is put back.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Aged<C>> {
        let spare = self.idle.len().saturating_sub(1);
        if self.idle.iter().take(spare).all(|idle| idle.is_usable(now)) {
            return Vec::new();
        }
        let mut idle = std::mem::take(&mut self.idle);
        self.idle.extend(idle.pop_back());
        let (usable, expired): (VecDeque<_>, _) =
            idle.into_iter().partition(|idle| idle.is_usable(now));
        for idle in usable.into_iter().rev() {
            self.idle.push_front(idle);
        }
        self.closing_all(expired)
    }

    /// Returns all idle connections, to be closed.
    pub(super) fn take_idle(&mut self) -> Vec<Aged<C>> {
        let idle = std::mem::take(&mut self.idle);
        self.closing_all(idle)
    }

    /// Returns all idle connections, to be closed. No connection is idle until the next caller
    /// comes.
    pub(super) fn rest(&mut self) -> Vec<Aged<C>> {
        self.rests = true;
        self.replacements = 0;
        self.take_idle()
    }

    fn closing_all(&mut self, idle: VecDeque<Idle<C>>) -> Vec<Aged<C>> {
        idle.into_iter().map(|idle| self.closing(idle.slot)).collect()
    }

    fn closing(&mut self, slot: Aged<C>) -> Aged<C> {
        self.closing += 1;
        slot
    }

    /// Returns whether to open another connection now, and counts it as being opened.
    pub(super) fn begin_opening(&mut self) -> bool {
        let begins = self.taken < self.most && self.opening < self.wanted();
        if begins {
            self.taken += 1;
            self.opening += 1;
        }
        begins
    }

    /// Returns how many connections should be opened at once: one for each caller that waits and
    /// for each replacement, but at most three, or one after a failure.
    fn wanted(&mut self) -> u32 {
        self.waiting.retain(|caller| !caller.is_closed());
        let at_once = if self.failure.is_some() { 1 } else { OPENED_AT_ONCE };
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        at_once.min(waiting.saturating_add(self.replacements))
    }

    pub(super) fn attempt_limit(&self) -> Duration {
        self.attempt_limit
    }

    /// Takes a new connection. The next attempt may take twice as long as this one took. Returns
    /// the connection if it must be closed.
    pub(super) fn opened(
        &mut self,
        connection: C,
        began: Instant,
        now: Instant,
    ) -> Option<Aged<C>> {
        self.opening -= 1;
        self.failure = None;
        self.replacements = self.replacements.saturating_sub(1);
        self.attempt_limit = (now.saturating_duration_since(began) * 2).clamp(ATTEMPT, OPENING);
        let max_age = MAX_AGE - AGE_STEP * (self.opened % AGE_STEPS);
        self.opened = self.opened.wrapping_add(1);
        self.hand_over(Aged { connection, opened: now, max_age }, now)
    }

    /// Records an attempt that timed out after `limit`. The callers wait on, because the next
    /// attempt may succeed.
    pub(super) fn attempt_timed_out(&mut self, limit: Duration, reason: StoreError, now: Instant) {
        self.attempt_limit = (limit * 2).min(OPENING);
        self.failure = Some((reason, now));
        self.replacements = 0;
    }

    /// Records that Postgres refused a connection. If none is in use that could serve them, all
    /// callers get the reason, and so does each new one until `until`.
    pub(super) fn refused(&mut self, reason: &StoreError, until: Instant) {
        self.failure = Some((reason.clone(), until));
        self.replacements = 0;
        if !self.has_in_use() {
            for caller in self.waiting.drain(..) {
                let _ = caller.send(Err(reason.clone()));
            }
        }
    }

    /// Returns whether the connections that are being opened are still wanted, all of them.
    pub(super) fn is_wanted(&mut self) -> bool {
        self.opening <= self.wanted()
    }

    /// Records that a connection is no longer being opened.
    pub(super) fn gave_up(&mut self) {
        self.opening -= 1;
        self.taken -= 1;
    }

    /// Takes a connection that can be used again, and returns it if it must be closed.
    pub(super) fn put_back(&mut self, slot: Aged<C>, now: Instant) -> Option<Aged<C>> {
        let is_old = slot.is_old(now);
        if std::mem::take(&mut self.close_next) || is_old {
            self.replacements += u32::from(is_old && self.closed.is_none() && !self.rests);
            return Some(self.closing(slot));
        }
        self.hand_over(slot, now)
    }

    /// Gives a connection to the caller that waits longest. Returns it if it must be closed.
    fn hand_over(&mut self, mut slot: Aged<C>, now: Instant) -> Option<Aged<C>> {
        if self.closed.is_some() {
            return Some(self.closing(slot));
        }
        while let Some(caller) = self.waiting.pop_front() {
            match caller.send(Ok(slot)) {
                Err(Ok(unused)) => slot = unused,
                _ => return None,
            }
        }
        if self.rests {
            return Some(self.closing(slot));
        }
        self.idle.push_back(Idle { slot, since: now });
        None
    }

    /// Records that a connection in use was dropped.
    pub(super) fn dropped(&mut self) {
        self.taken -= 1;
    }

    /// Records that a connection has been closed.
    pub(super) fn closed_one(&mut self) {
        self.closing -= 1;
        self.taken -= 1;
    }

    /// Gives up a connection for another pool, if more than `keeps` are left.
    pub(super) fn give_up_one(&mut self, keeps: u32) -> Given<C> {
        if self.taken - self.opening - self.closing <= keeps {
            return Given::Nothing;
        }
        match self.idle.pop_front() {
            Some(idle) => Given::Idle(self.closing(idle.slot)),
            None => {
                self.close_next = true;
                Given::Later
            }
        }
    }

    /// Returns why the last attempt failed.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failure.as_ref().map(|(reason, _)| reason.clone())
    }

    pub(super) fn has_in_use(&self) -> bool {
        self.in_use() > 0
    }

    fn in_use(&self) -> u32 {
        let idle = u32::try_from(self.idle.len()).unwrap_or(u32::MAX);
        self.taken - self.opening - self.closing - idle
    }

    /// Returns the number of connections, if all that the pool may have are in use.
    pub(super) fn all_in_use(&self) -> Option<u32> {
        let in_use = self.in_use();
        (in_use >= self.most).then_some(in_use)
    }

    /// Returns the numbers of connections that are not idle, of idle ones, and of waiting callers.
    pub(super) fn counts(&self) -> [u32; 3] {
        let [idle, waiting] =
            [self.idle.len(), self.waiting.len()].map(|it| u32::try_from(it).unwrap_or(u32::MAX));
        [self.taken.saturating_sub(idle), idle, waiting]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Closes the pool, and returns its idle connections. All callers get `reason`.
    pub(super) fn close(&mut self, reason: StoreError) -> Vec<Aged<C>> {
        for caller in self.waiting.drain(..) {
            let _ = caller.send(Err(reason.clone()));
        }
        self.closed = Some(reason);
        self.replacements = 0;
        self.take_idle()
    }
}

impl<C> Aged<C> {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.opened) > self.max_age
    }
}

impl<C> Idle<C> {
    fn is_usable(&self, now: Instant) -> bool {
        !self.slot.is_old(now) && now.saturating_duration_since(self.since) <= MAX_IDLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::StoreErrorKind;

    /// A pool of three connections, which are numbers.
    struct Scene {
        slots: Slots<u32>,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            Self { slots: Slots::new(3), now: Instant::now() }
        }

        fn wait(&mut self, span: Duration) {
            self.now += span;
        }

        fn open(&mut self, connection: u32) -> Option<u32> {
            let began = self.now;
            self.slots.opened(connection, began, self.now).map(|slot| slot.connection)
        }

        fn queue(&mut self) -> oneshot::Receiver<Result<Aged<u32>, StoreError>> {
            match self.slots.acquire(self.now) {
                Acquired::Waiting(receiver) => receiver,
                other => panic!("{other:?}"),
            }
        }

        fn idle(&mut self) -> Aged<u32> {
            match self.slots.acquire(self.now) {
                Acquired::Idle(slot, _) => slot,
                other => panic!("{other:?}"),
            }
        }

        fn put_back(&mut self, slot: Aged<u32>) -> Option<u32> {
            self.slots.put_back(slot, self.now).map(|slot| slot.connection)
        }

        /// Opens one connection for a caller, who uses it.
        fn in_use(&mut self, connection: u32) -> Aged<u32> {
            let mut caller = self.queue();
            assert!(self.slots.begin_opening());
            assert_eq!(self.open(connection), None);
            caller.try_recv().expect("a connection came").expect("it was opened")
        }

        fn refuse(&mut self) {
            let until = self.now + Duration::from_millis(100);
            self.slots.refused(&StoreError::new(StoreErrorKind::Denied, "refused"), until);
        }
    }

    #[test]
    fn as_many_are_opened_as_callers_wait_up_to_three_at_once() {
        let mut slots = Slots::<u32>::new(10);
        let mut callers = Vec::new();
        for _ in 0..2 {
            let Acquired::Waiting(caller) = slots.acquire(Instant::now()) else { panic!("idle") };
            callers.push(caller);
        }
        assert_eq!([(); 4].map(|()| slots.begin_opening()), [true, true, false, false]);
        for _ in 0..8 {
            let Acquired::Waiting(caller) = slots.acquire(Instant::now()) else { panic!("idle") };
            callers.push(caller);
        }
        assert_eq!([(); 2].map(|()| slots.begin_opening()), [true, false]);
        // One by one, once an attempt timed out.
        let reason = StoreError::new(StoreErrorKind::TimedOut, "silent");
        slots.attempt_timed_out(ATTEMPT, reason, Instant::now());
        assert_eq!(slots.attempt_limit(), ATTEMPT * 2);
        for _ in 0..2 {
            assert!(!slots.is_wanted());
            slots.gave_up();
        }
        assert!(slots.is_wanted() && !slots.begin_opening());
        callers.clear();
        assert!(!slots.is_wanted());
    }

    #[test]
    fn no_more_are_opened_than_allowed() {
        let mut pool = Scene::new();
        let in_use = [1, 2, 3].map(|n| pool.in_use(n));
        assert_eq!(pool.slots.all_in_use(), Some(3));
        let mut caller = pool.queue();
        assert!(!pool.slots.begin_opening());
        // The caller gets the first one that is released.
        let [first, ..] = in_use;
        assert_eq!(pool.put_back(first), None);
        assert_eq!(
            caller.try_recv().expect("a connection came").expect("it is good").connection,
            1
        );
        pool.slots.dropped();
        assert_eq!(pool.slots.all_in_use(), None);
    }

    #[test]
    fn callers_are_served_in_order_without_those_who_left() {
        let mut pool = Scene::new();
        let in_use = pool.in_use(1);
        let [left, mut first, mut second] = [(); 3].map(|()| pool.queue());
        drop(left);
        assert_eq!(pool.put_back(in_use), None);
        let slot = first.try_recv().expect("a connection came").expect("it is good");
        assert!(second.try_recv().is_err());
        drop(second);
        assert_eq!(pool.put_back(slot), None);
        assert_eq!(pool.idle().connection, 1);
    }

    #[test]
    fn the_last_used_is_used_next_and_surplus_ones_are_closed() {
        let mut pool = Scene::new();
        let [first, second] = [1, 2].map(|n| pool.in_use(n));
        pool.put_back(first);
        pool.put_back(second);
        pool.wait(MAX_IDLE);
        assert!(pool.slots.take_expired(pool.now).is_empty());
        let used = pool.idle();
        assert_eq!(used.connection, 2);
        pool.put_back(used);
        pool.wait(MAX_IDLE / 3);
        let expired = pool.slots.take_expired(pool.now);
        assert_eq!(expired.len(), 1);
        assert_eq!(expired[0].connection, 1);
        pool.slots.closed_one();
        assert_eq!(pool.idle().connection, 2);
    }

    #[test]
    fn old_connection_is_closed_even_if_it_is_never_idle() {
        let mut pool = Scene::new();
        let in_use = pool.in_use(1);
        let mut caller = pool.queue();
        pool.wait(MAX_AGE + Duration::from_secs(1));
        assert_eq!(pool.put_back(in_use), Some(1));
        pool.slots.closed_one();
        assert!(pool.slots.begin_opening());
        assert_eq!(pool.open(2), None);
        assert!(caller.try_recv().is_ok());
    }

    // Connections that were opened together would otherwise end together.
    #[test]
    fn old_connections_end_one_by_one_and_are_replaced() {
        let mut pool = Scene::new();
        let in_use = [1, 2, 3].map(|n| pool.in_use(n));
        pool.wait(MAX_AGE - AGE_STEP);
        for (slot, closed) in in_use.into_iter().zip([None, None, Some(3)]) {
            assert_eq!(pool.put_back(slot), closed);
        }
        pool.slots.closed_one();
        // Its replacement is opened for no caller.
        assert_eq!([(); 2].map(|()| pool.slots.begin_opening()), [true, false]);
        assert_eq!(pool.open(4), None);
        assert_eq!(pool.idle().connection, 4);
    }

    #[test]
    fn last_idle_connection_stays_for_the_next_caller() {
        let mut pool = Scene::new();
        let [first, second] = [1, 2].map(|n| pool.in_use(n));
        pool.put_back(first);
        pool.put_back(second);
        pool.wait(MAX_AGE * 2);
        assert_eq!(pool.slots.take_expired(pool.now).len(), 1);
        assert_eq!(pool.idle().connection, 2);
    }

    #[test]
    fn refusal_reaches_all_callers_and_the_next_ones() {
        let mut pool = Scene::new();
        let mut callers = [(); 3].map(|()| pool.queue());
        assert!(pool.slots.begin_opening());
        pool.refuse();
        assert!(!pool.slots.is_wanted());
        pool.slots.gave_up();
        assert!(callers.iter_mut().all(|caller| matches!(caller.try_recv(), Ok(Err(_)))));
        assert!(matches!(pool.slots.acquire(pool.now), Acquired::Refused(_)));
        pool.wait(Duration::from_millis(100));
        // Then one attempt at a time, until one succeeds.
        let mut callers = [(); 3].map(|()| pool.queue());
        assert_eq!([(); 2].map(|()| pool.slots.begin_opening()), [true, false]);
        assert_eq!(pool.open(1), None);
        assert!(matches!(callers[0].try_recv(), Ok(Ok(_))));
        assert_eq!([(); 3].map(|()| pool.slots.begin_opening()), [true, true, false]);
    }

    // A role may have fewer connections than the pool may open.
    #[test]
    fn callers_wait_for_connections_in_use_despite_a_refusal() {
        let mut pool = Scene::new();
        let in_use = pool.in_use(1);
        let mut caller = pool.queue();
        assert!(pool.slots.begin_opening());
        pool.refuse();
        assert!(pool.slots.is_wanted());
        assert!(caller.try_recv().is_err());
        let mut later = pool.queue();
        assert_eq!(pool.put_back(in_use), None);
        let slot = caller.try_recv().expect("a connection came").expect("it is good");
        assert_eq!(pool.put_back(slot), None);
        assert!(matches!(later.try_recv(), Ok(Ok(_))));
        assert!(!pool.slots.is_wanted());
    }

    #[test]
    fn other_pool_gets_an_idle_connection_or_the_next_one_released() {
        let mut pool = Scene::new();
        let [first, second] = [1, 2].map(|n| pool.in_use(n));
        pool.put_back(first);
        assert!(matches!(pool.slots.give_up_one(1), Given::Idle(slot) if slot.connection == 1));
        assert!(matches!(pool.slots.give_up_one(1), Given::Nothing));
        assert!(matches!(pool.slots.give_up_one(0), Given::Later));
        assert_eq!(pool.put_back(second), Some(2));
        for _ in 0..2 {
            pool.slots.closed_one();
        }
        assert!(pool.slots.is_empty());
    }

    #[test]
    fn resting_pool_has_no_idle_connection_until_the_next_caller() {
        let mut pool = Scene::new();
        let [first, second] = [1, 2].map(|n| pool.in_use(n));
        pool.put_back(first);
        assert_eq!(pool.slots.rest().len(), 1);
        // It is old by now, and is not replaced.
        pool.wait(MAX_AGE * 2);
        assert_eq!(pool.put_back(second), Some(2));
        assert!(!pool.slots.begin_opening());
        for _ in 0..2 {
            pool.slots.closed_one();
        }
        assert!(pool.slots.is_empty());
        let third = pool.in_use(3);
        assert_eq!(pool.slots.rest().len(), 0);
        assert_eq!(pool.put_back(third), Some(3));
        let fourth = pool.in_use(4);
        assert_eq!(pool.put_back(fourth), None);
        assert_eq!(pool.idle().connection, 4);
    }

    #[test]
    fn closed_pool_closes_what_comes_back() {
        let mut pool = Scene::new();
        let [first, second] = [1, 2].map(|n| pool.in_use(n));
        let mut caller = pool.queue();
        assert!(pool.slots.begin_opening());
        let reason = StoreError::new(StoreErrorKind::Unreachable, "closed");
        assert!(pool.slots.close(reason).is_empty());
        assert!(matches!(caller.try_recv(), Ok(Err(_))));
        assert!(matches!(pool.slots.acquire(pool.now), Acquired::Refused(_)));
        assert_eq!(pool.put_back(first), Some(1));
        assert_eq!(pool.put_back(second), Some(2));
        assert_eq!(pool.open(3), Some(3));
        assert!(!pool.slots.is_empty());
        for _ in 0..3 {
            pool.slots.closed_one();
        }
        assert!(pool.slots.is_empty());
    }

    #[test]
    fn a_slow_success_lets_the_next_attempt_take_longer() {
        let mut pool = Scene::new();
        let _caller = pool.queue();
        assert!(pool.slots.begin_opening());
        let began = pool.now;
        pool.wait(Duration::from_secs(1));
        assert!(pool.slots.opened(1, began, pool.now).is_none());
        assert_eq!(pool.slots.attempt_limit(), Duration::from_secs(2));
    }
}
