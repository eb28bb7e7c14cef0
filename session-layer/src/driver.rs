//! What the parts of one [`Sessions`](crate::Sessions) share: the two ports, what is known of the
//! store, the mode, the counters and the tasks. What is done with it: `validate.rs`, `revoke.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::breaker::Gate;
use crate::cache::{Invalidated, NO_CACHE, SessionCache};
use crate::clock::StoreClock;
use crate::deadline;
use crate::error::{CacheError, Error, StoreError, StoreErrorKind};
use crate::journal::{Journal, Timing};
use crate::metrics::{Counters, Metrics};
use crate::pending::Pending;
use crate::reads::Reads;
use crate::session::CheckedSession;
use crate::sessions::Mode;
use crate::store::{Creation, Loaded, SessionStore, StoreId};
use crate::token::TokenDigest;
use crate::touch::Touches;
use crate::troubles::{Outage, Troubles, Work};

/// How often it is looked whether the store has to be asked if it answers.
const LEARN_EVERY: Duration = Duration::from_millis(500);

/// The driver of one cache and one store.
#[derive(Debug)]
pub(crate) struct Driver<C: SessionCache, S> {
    pub(crate) cache: C,
    pub(crate) store: S,
    pub(crate) settings: Settings,
    pub(crate) seen: StoreSeen,
    pub(crate) counters: Counters,
    pub(crate) troubles: Troubles,
    pub(crate) pending: Pending,
    pub(crate) touches: Arc<Touches>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) reads: Arc<Reads<C::Lease>>,
    pub(crate) journal: Journal,
    pub(crate) tasks: TaskTracker,
    /// Cancelled at shutdown: tasks that would go on for ever end.
    pub(crate) stop: CancellationToken,
    bypass: AtomicBool,
    /// The tasks that go on for as long as the driver lives were started.
    started: AtomicBool,
}

impl<C: SessionCache, S> Drop for Driver<C, S> {
    /// Tasks that wait for their next turn end now, not when it comes.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the builder decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How long an entry may be served.
    pub(crate) ttl: Duration,
    /// How long a validation may take in all.
    pub(crate) budget: Duration,
    /// A look-up in the cache that takes longer is slow.
    pub(crate) slow_call: Duration,
    /// How many reads of the store may be in flight at once; `None`: as the store advises.
    pub(crate) reads_at_once: Option<usize>,
    /// How the journal is read.
    pub(crate) journal: Timing,
    /// How long sessions that ended stay in the store; `None`: for ever.
    pub(crate) retention: Option<Duration>,
}

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    pub(crate) fn new(cache: C, store: S, settings: Settings, mode: Mode) -> Arc<Self> {
        let reads_at_once = settings.reads_at_once.unwrap_or(store.reads_at_once());
        let journal = if store.is_exclusive() {
            Journal::of_an_exclusive_store(settings.journal)
        } else {
            Journal::new(settings.journal)
        };
        let driver = Arc::new(Self {
            cache,
            store,
            journal,
            settings,
            seen: StoreSeen::default(),
            counters: Counters::default(),
            troubles: Troubles::default(),
            pending: Pending::default(),
            touches: Arc::default(),
            gate: Gate::new(),
            reads: Arc::new(Reads::new(reads_at_once)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            bypass: AtomicBool::new(false),
            started: AtomicBool::new(false),
        });
        driver.set_mode(mode);
        driver.start();
        driver
    }

    /// Starts the tasks that go on for as long as the driver lives: when it is made, or where that was
    /// outside of a runtime, with the first validation.
    pub(crate) fn start(self: &Arc<Self>) {
        if self.started.load(Ordering::Relaxed)
            || tokio::runtime::Handle::try_current().is_err()
            || self.started.swap(true, Ordering::SeqCst)
        {
            return;
        }
        let (driver, stop) = (Arc::downgrade(self), self.stop.clone());
        self.tasks
            .spawn(Self::watch_the_store(driver.clone(), stop.clone()));
        if self.needs_the_journal() {
            self.tasks
                .spawn(Self::read_the_journal(driver.clone(), stop.clone()));
        }
        self.tasks.spawn(Self::keep_house(driver, stop));
    }

    /// Asks the store while it is not known to answer. At first which one it is: before that no cached copy can be
    /// checked, and none is believed. Later whether an outage is over that nobody meets any more.
    async fn watch_the_store(driver: Weak<Self>, stop: CancellationToken) {
        loop {
            {
                let Some(driver) = driver.upgrade() else {
                    return;
                };
                let asked = Instant::now();
                if driver.seen.id().is_none() || driver.seen.outage.is_quiet(asked) {
                    let asking =
                        deadline::question(driver.for_validation(), driver.store.load(&[]));
                    let answer = tokio::select! {
                        answer = asking => answer,
                        () = stop.cancelled() => return,
                    };
                    match answer {
                        Ok(answer) => driver.seen.heard(asked, &answer),
                        Err(error) => driver.seen.failed(asked, &error),
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LEARN_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        if self.bypass.load(Ordering::SeqCst) {
            Mode::Bypass
        } else {
            Mode::On
        }
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        // Where there is no cache there is nothing to turn on.
        let bypass = mode == Mode::Bypass || self.cache.status().backend == NO_CACHE;
        if self.bypass.swap(bypass, Ordering::SeqCst) != bypass {
            tracing::info!(?mode, "the session cache's mode was changed");
        }
    }

    /// Creates a session. Its key is removed, since a token that was issued elsewhere may have had
    /// another session, ended by plain SQL, of which a copy is left.
    pub(crate) async fn create(
        self: Arc<Self>,
        digest: TokenDigest,
        new: CheckedSession,
        issued_here: bool,
    ) -> Result<Creation, Error> {
        let driver = Arc::clone(&self);
        let creating = async move {
            let created = deadline::change(driver.store.create(digest, &new)).await;
            // Also where its fate is unknown.
            if !issued_here {
                let _ = driver.unlink(&[digest]).await;
            }
            Ok(driver.noted(Work::Create, created)?)
        };
        if issued_here {
            // Nobody has this token yet: a caller who leaves takes nothing along.
            return creating.await;
        }
        let created = self.tasks.spawn(creating).await;
        created.unwrap_or_else(|stopped| Err(Error::Unknown(stopped_in(stopped))))
    }

    /// How long a validation's call of a port may take at the very most, and any of the cache.
    pub(crate) fn for_validation(&self) -> Duration {
        deadline::for_validation(self.settings.budget)
    }

    /// Removes whatever the cache has under these.
    pub(crate) async fn invalidate(
        &self,
        digests: &[TokenDigest],
    ) -> Result<Invalidated, CacheError> {
        deadline::of_cache(self.for_validation(), self.cache.invalidate(digests)).await
    }

    /// Ends the background tasks, waits for what is under way, closes what was opened.
    pub(crate) async fn shutdown(self: Arc<Self>) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.cache.close().await;
        self.store.close().await;
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let (c, reads) = (&self.counters, self.reads.gauges());
        Metrics {
            hits: c.hits.get(),
            misses: c.misses.get(),
            errors: c.errors.get(),
            not_asked: c.not_asked.get(),
            breaker_opened: self.gate.status().1,
            bypassed: c.bypassed.get(),
            unavailable: c.unavailable.get(),
            store_reads: c.store_reads.get(),
            tokens_read: c.tokens_read.get(),
            coalesced: c.coalesced.get(),
            reads_in_flight: reads.in_flight as u64,
            most_reads_in_flight: reads.most_in_flight as u64,
            reads_at_once: reads.at_once as u64,
            reads_waiting: reads.waiting as u64,
            shed: c.shed.get(),
            fills: c.fills.get(),
            fills_refused: c.fills_refused.get(),
            unacknowledged: self.pending.len() as u64,
            journal_reads: c.journal_reads.get(),
            journal_age: self
                .needs_the_journal()
                .then(|| self.journal.age(Instant::now()))
                .flatten(),
            changed_sessions: self.journal.len() as u64,
        }
    }
}

/// A change's task, which is stopped with its runtime alone.
pub(crate) fn stopped_in(task: tokio::task::JoinError) -> StoreError {
    let why = "the task making the change was stopped";
    StoreError::new(StoreErrorKind::Uncertain, why).with_source(task)
}

/// What the store's answers have told about it: its clock, and which store it is.
#[derive(Debug, Default)]
pub(crate) struct StoreSeen {
    pub(crate) clock: StoreClock,
    /// Is it failing?
    outage: Outage,
    id: Mutex<Option<StoreId>>,
}

impl StoreSeen {
    /// Takes note of an answer to a question sent at `asked`.
    pub(crate) fn heard(&self, asked: Instant, answer: &Loaded) {
        if self.outage.succeeded(asked) {
            tracing::info!("the session store answers");
        }
        self.clock.heard(asked, answer.now);
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer.store_id);
    }

    /// Takes note of a failure: one event for all of an outage.
    pub(crate) fn failed(&self, now: Instant, error: &StoreError) {
        if !self.outage.failed(now) {
            return;
        }
        if self.id().is_some() {
            tracing::warn!(%error, "the session store cannot answer");
        } else {
            tracing::warn!(%error, "the session store does not answer yet");
        }
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.outage.is_on()
    }

    /// Which store it is; `None` before its first answer.
    pub(crate) fn id(&self) -> Option<StoreId> {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
