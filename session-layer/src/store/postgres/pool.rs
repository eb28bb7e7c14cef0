//! The store's own pool of connections for one purpose: validations, changes or the journal.
//!
//! sqlx's pool pings each connection that is released, retries a refused connection until the
//! deadline, and hides the reason (decision 062). In this pool a connection is opened by a task of
//! its own, which reports the reason to all waiting callers:
//!
//! ```text
//! acquire ── idle connection ──▶ checked, if it was idle for long ──▶ caller
//!    │ none                                                            ▲
//!    └──▶ queue ◀── a released connection, or one that a task opened ──┘
//!           ▲
//!           └── the reason, if Postgres refuses connections and none is in use
//! ```
//!
//! `slots.rs` decides. This file connects, pings and closes.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use self::slots::{Acquired, Given, Slots};
use super::connect_error;
use super::hosts::{Failed, Hosts};
use crate::model::credentials::{self, Credentials};
use crate::model::error::StoreError;
use crate::model::lock::lock;
use crate::store::PoolStatus;

mod slots;

/// How long the server's reply to a ping or a farewell may take.
const RELEASING: Duration = Duration::from_secs(1);
/// The delay before a connection is tried again that Postgres refused while callers wait for one
/// that is in use. Ten attempts a second do not harm a server that is starting.
const REFUSED: Duration = Duration::from_millis(100);
/// The delay before a server that had no connection left is asked again. Another pool of ours
/// closes one meanwhile.
const MADE_ROOM: Duration = Duration::from_millis(20);
/// How often that is repeated before the callers get the reason.
const MADE_ROOM_AT_MOST: u32 = 10;
/// How often it is repeated although no pool of ours closes one. A connection that was just closed
/// counts on the server until its process has ended.
const ENDING_AT_MOST: u32 = 5;
/// How long the source of credentials may take. A token may come from another service.
const CREDENTIALS: Duration = Duration::from_secs(5);
/// How often the source of credentials is asked at most.
const FETCHED_EVERY: Duration = Duration::from_secs(1);
/// How soon after a pool closed a connection for another one it closes the next.
const TAKEN_WITHIN: Duration = Duration::from_millis(200);

/// How a pool treats its connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) max_connections: u32,
    /// A connection that was idle for longer is pinged before its use, because a firewall or a
    /// restart may have ended it.
    pub(super) check_after: Duration,
    /// How long the reply to that ping may take.
    pub(super) patience: Duration,
}

/// The pool. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Pool(Arc<PoolState>);

struct PoolState {
    hosts: Hosts,
    /// The source of the user and the password, instead of those in the options.
    credentials: Option<Arc<dyn Credentials>>,
    /// The servers with the credentials that were fetched last, and when.
    last: Mutex<Option<(Instant, Hosts)>>,
    rules: Rules,
    /// Runs what continues after its caller left.
    runtime: Handle,
    slots: Mutex<Slots<PgConnection>>,
    /// Notified when a place is free.
    freed: Notify,
    /// The pool that closes a connection if the server has none left for this one.
    donor: OnceLock<Donor>,
}

struct Donor {
    pool: Weak<PoolState>,
    /// The number of connections that it keeps.
    keeps: u32,
    /// When it last closed a connection for this pool.
    gave: Mutex<Option<Instant>>,
}

// The options have the user and the password.
impl fmt::Debug for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PoolState");
        shown.field("rules", &self.rules).field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(
        hosts: Hosts,
        credentials: Option<Arc<dyn Credentials>>,
        rules: Rules,
        runtime: Handle,
    ) -> Self {
        Self(Arc::new(PoolState {
            hosts,
            credentials,
            last: Mutex::default(),
            rules,
            runtime,
            slots: Mutex::new(Slots::new(rules.max_connections)),
            freed: Notify::new(),
            donor: OnceLock::new(),
        }))
    }

    /// Lets this pool take a connection from `pool` if the server has none left for it. `pool`
    /// keeps this many.
    pub(super) fn take_from(&self, pool: &Self, keeps: u32) {
        let pool = Arc::downgrade(&pool.0);
        let _once = self.0.donor.set(Donor { pool, keeps, gave: Mutex::default() });
    }

    /// Returns the servers for the next connection, with the present credentials. They are fetched
    /// once a second at most, because attempts may follow each other in an outage.
    pub(super) async fn hosts(&self) -> Result<Hosts, StoreError> {
        let PoolState { hosts, credentials, last, .. } = &*self.0;
        let Some(source) = credentials else {
            return Ok(hosts.clone());
        };
        if let Some((fetched, hosts)) = &*lock(last)
            && fetched.elapsed() < FETCHED_EVERY
        {
            return Ok(hosts.clone());
        }
        let credential = credentials::fetch(&**source, CREDENTIALS)
            .await
            .map_err(|error| connect_error::no_credentials(&hosts.first(), error))?;
        let hosts = hosts.map(|options| {
            let options = options.password(credential.secret());
            match credential.user_name() {
                Some(user) => options.username(user),
                None => options,
            }
        });
        *lock(last) = Some((Instant::now(), hosts.clone()));
        Ok(hosts)
    }

    pub(super) fn max_connections(&self) -> u32 {
        self.0.rules.max_connections
    }

    /// Returns the number of connections, if all that the pool may have are in use.
    pub(super) fn all_in_use(&self) -> Option<u32> {
        lock(&self.0.slots).all_in_use()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the pool's figures under this name.
    pub(super) fn status(&self, name: &'static str) -> PoolStatus {
        let [used, idle, pending] = lock(&self.0.slots).counts();
        PoolStatus { used, idle, pending, ..PoolStatus::new(name, self.max_connections()) }
    }

    /// Returns why the last attempt to connect failed.
    pub(super) fn failure(&self) -> Option<StoreError> {
        lock(&self.0.slots).failure()
    }

    /// Acquires a connection. It has replied to a ping if it was idle for long. Returns the reason
    /// if Postgres refuses connections and none is in use.
    pub(super) async fn acquire(&self) -> Result<Leased, StoreError> {
        let Rules { check_after, patience, .. } = self.0.rules;
        loop {
            let now = Instant::now();
            let (acquired, expired) = {
                let mut slots = lock(&self.0.slots);
                let expired = slots.take_expired(now);
                (slots.acquire(now), expired)
            };
            self.close_all(expired);
            match acquired {
                Acquired::Idle(connection, idle_for) => {
                    let mut leased = self.lease(connection);
                    if idle_for < check_after || leased.replies(patience).await {
                        return Ok(leased);
                    }
                    // The others were idle for longer.
                    self.close_all(lock(&self.0.slots).take_idle());
                }
                Acquired::Refused(reason) => return Err(reason),
                Acquired::Waiting(receiver) => {
                    self.open_if_needed();
                    return Waiter { receiver, pool: self }.wait().await;
                }
            }
        }
    }

    fn lease(&self, connection: AgedConnection) -> Leased {
        Leased { held: Some(connection), pool: self.clone() }
    }

    /// Starts tasks that open connections, as many as are wanted now. A runtime that ends drops
    /// each at once, and one more would be wanted without an end.
    fn open_if_needed(&self) {
        for _ in 0..self.max_connections() {
            if !lock(&self.0.slots).begin_opening() {
                return;
            }
            let opening = Opening { pool: self.clone(), is_counted: true };
            self.0.runtime.spawn(opening.run());
        }
    }

    /// Lets the donor close a connection. Returns `false` if it has none to spare, or if this pool
    /// has a connection that is in use.
    fn make_room(&self) -> bool {
        let has_in_use = lock(&self.0.slots).has_in_use();
        !has_in_use && self.0.donor.get().is_some_and(Donor::close_one)
    }

    /// Takes a connection back that can be used again.
    fn put_back(&self, connection: AgedConnection) {
        let left = lock(&self.0.slots).put_back(connection, Instant::now());
        self.close_all(left);
    }

    /// Closes connections in the background.
    fn close_all(&self, slots: impl IntoIterator<Item = AgedConnection>) {
        for slot in slots {
            let this = self.clone();
            self.0.runtime.spawn(async move {
                let _ = timeout(RELEASING, slot.connection.close()).await;
                lock(&this.0.slots).closed_one();
                this.place_is_free();
            });
        }
    }

    fn place_is_free(&self) {
        self.0.freed.notify_waiters();
        self.open_if_needed();
    }

    /// Closes the idle connections, and those that become idle before the next caller comes.
    pub(super) fn close_idle(&self) {
        self.close_all(lock(&self.0.slots).rest());
    }

    /// Closes the pool. It waits for connections in use, but no longer than `limit`.
    pub(super) async fn close(&self, limit: Duration) {
        self.close_all(lock(&self.0.slots).close(connect_error::closed()));
        let emptied = async {
            loop {
                let freed = self.0.freed.notified();
                if lock(&self.0.slots).is_empty() {
                    return;
                }
                freed.await;
            }
        };
        let _ = timeout(limit, emptied).await;
    }
}

impl Donor {
    /// Closes a connection: an idle one now, or else the next one released. It closes one at a
    /// time, because the server has none left until the other pool has used it.
    fn close_one(&self) -> bool {
        let Some(pool) = self.pool.upgrade().map(Pool) else { return false };
        let mut gave = lock(&self.gave);
        if gave.is_some_and(|gave| gave.elapsed() < TAKEN_WITHIN) {
            return true;
        }
        let given = lock(&pool.0.slots).give_up_one(self.keeps);
        match given {
            Given::Idle(slot) => pool.close_all([slot]),
            Given::Later => {}
            Given::Nothing => return false,
        }
        *gave = Some(Instant::now());
        true
    }
}

/// The opening of one connection. It continues if the callers leave. Otherwise each of them would
/// leave a connection behind, and a hanging Postgres must process and drop all of them when it
/// recovers. With 200 callers a second, that took a second and a half.
struct Opening {
    pool: Pool,
    /// Whether the pool counts it as a connection that is being opened.
    is_counted: bool,
}

impl Opening {
    /// Tries until it succeeds, or until no connection is wanted any more.
    async fn run(mut self) {
        let slots = &self.pool.0.slots;
        // How often the server had none left although room was to be made.
        let mut full = 0;
        while lock(slots).is_wanted() {
            let limit = lock(slots).attempt_limit();
            let hosts = match self.pool.hosts().await {
                Ok(hosts) => hosts,
                Err(reason) => {
                    lock(slots).refused(&reason, Instant::now() + REFUSED);
                    sleep(REFUSED).await;
                    continue;
                }
            };
            let began = Instant::now();
            let result = hosts.connect(limit).await;
            let now = Instant::now();
            match result {
                Ok(connection) => {
                    self.is_counted = false;
                    let left = lock(slots).opened(connection, began, now);
                    self.pool.close_all(left);
                    // More callers may wait than are served at once.
                    self.pool.open_if_needed();
                    return;
                }
                Err(Failed::TimedOut(reason)) => {
                    lock(slots).attempt_timed_out(limit, reason, now);
                }
                Err(Failed::Full(_))
                    if full < MADE_ROOM_AT_MOST
                        && (self.pool.make_room() || full < ENDING_AT_MOST) =>
                {
                    full += 1;
                    sleep(MADE_ROOM).await;
                }
                Err(failed) => {
                    let reason = failed.reason();
                    lock(slots).refused(&reason, now + REFUSED);
                    sleep(REFUSED).await;
                }
            }
        }
        self.give_up();
        self.pool.place_is_free();
    }

    fn give_up(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            lock(&self.pool.0.slots).gave_up();
        }
    }
}

impl Drop for Opening {
    /// It was cancelled, because its runtime ends or it panicked. It starts no other one: a runtime
    /// that ends would drop that one here. The next caller does.
    fn drop(&mut self) {
        self.give_up();
        self.pool.0.freed.notify_waiters();
    }
}

/// A connection with its age.
type AgedConnection = slots::Aged<PgConnection>;

/// A caller in the queue. A connection that arrives after the caller left returns to the pool.
struct Waiter<'a> {
    receiver: oneshot::Receiver<Result<AgedConnection, StoreError>>,
    pool: &'a Pool,
}

impl Waiter<'_> {
    async fn wait(mut self) -> Result<Leased, StoreError> {
        match (&mut self.receiver).await {
            Ok(got) => got.map(|connection| self.pool.lease(connection)),
            Err(_closed) => Err(connect_error::closed()),
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(Ok(unused)) = self.receiver.try_recv() {
            self.pool.put_back(unused);
        }
    }
}

/// A connection in use. It is closed if it is dropped before its release, because its caller left
/// before the end of a reply.
#[derive(Debug)]
pub(super) struct Leased {
    held: Option<AgedConnection>,
    pool: Pool,
}

const HELD: &str = "a connection is held until it is released";

impl Leased {
    pub(super) fn connection(&self) -> &PgConnection {
        &self.held.as_ref().expect(HELD).connection
    }

    pub(super) fn connection_mut(&mut self) -> &mut PgConnection {
        &mut self.held.as_mut().expect(HELD).connection
    }

    /// Returns when the connection was opened.
    pub(super) fn opened(&self) -> Instant {
        self.held.as_ref().expect(HELD).opened
    }

    async fn replies(&mut self, patience: Duration) -> bool {
        matches!(timeout(patience, self.connection_mut().ping()).await, Ok(Ok(())))
    }

    /// Returns the connection to the pool, after every reply was read to its end.
    pub(super) fn release(mut self) {
        if let Some(connection) = self.held.take() {
            self.pool.put_back(connection);
        }
    }

    /// Returns the connection after a failed statement, once it has replied to a ping. The rest of
    /// a reply and the end of a transaction come before that.
    pub(super) fn release_after_failure(mut self) {
        let runtime = self.pool.0.runtime.clone();
        runtime.spawn(async move {
            if self.replies(RELEASING).await {
                self.release();
            }
        });
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(connection) = self.held.take() {
            drop(connection);
            lock(&self.pool.0.slots).dropped();
            self.pool.place_is_free();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use std::net::TcpListener;

    use crate::store::{PostgresStore, SessionStore as _};

    // An application may end its runtime in an outage. A caller that waits must not make the
    // dropped attempt begin another one, which the runtime would drop as well, without an end.
    #[test]
    fn attempt_to_connect_ends_with_its_runtime() {
        // The kernel accepts connections, and nothing replies.
        let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://app@{}/app", hangs.local_addr().unwrap());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = runtime.block_on(async { PostgresStore::builder(url).build() }).unwrap();
        let mut caller = Box::pin(store.load(&[]));
        runtime.block_on(async {
            while store.pools().iter().all(|pool| pool.used == 0 || pool.pending == 0) {
                let waiting = futures_util::poll!(&mut caller);
                assert!(waiting.is_pending(), "{waiting:?}");
                tokio::task::yield_now().await;
            }
        });
        drop(runtime);
        drop(caller);
    }
}
