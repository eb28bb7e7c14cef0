//! The protocol: validations and changes, over any cache and any store.
//!
//! A validation looks the token up in the cache. A fresh entry answers it, and a miss is read from
//! the store. The cache is filled after the response, and only with a lease that was granted before
//! the read.
//!
//! ```text
//! near_hit (near_cache) ─▶ verdict (freshness) ─▶ a hit: the answer
//!    │ miss, or no near cache
//! validate ─▶ look_up (guarded_cache) ─▶ verdict (freshness) ─▶ a hit: the answer
//!                 │ miss
//!                 ▼
//!             read (store_reads): waits in a queue, one read for many
//!                 │ each row
//!                 ▼
//!             touch (touch) ─▶ the answer ─▶ fill (guarded_cache)
//! ```
//!
//! A cache that is down, slow or wrong costs at most its deadline, and nothing while the breaker is
//! open. It never changes an answer: an error of any kind becomes
//! [`Unavailable`](validation::Validation::Unavailable), never `Invalid`.
//!
//! Every change goes one way (`change.rs`): fence, COMMIT with journal, UNLINK.
//!
//! Neither HTTP nor an adapter is known here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use smallvec::SmallVec;
use tokio::task::coop;
use tokio::time::Instant;
use tracing::Instrument as _;

pub(crate) mod admission;
pub(crate) mod breaker;
pub(crate) mod bulkhead;
pub(crate) mod cache_mode;
pub(crate) mod change;
pub(crate) mod changed_set;
pub(crate) mod coalescing;
pub(crate) mod counter;
pub(crate) mod deadline;
pub(crate) mod diagnostics;
pub(crate) mod fair_queue;
pub(crate) mod freshness;
pub(crate) mod guarded_cache;
pub(crate) mod guarded_store;
pub(crate) mod housekeeping;
pub(crate) mod instruments;
pub(crate) mod invalidator;
pub(crate) mod journal;
pub(crate) mod journal_reader;
pub(crate) mod lifetime;
pub(crate) mod login_snapshots;
pub(crate) mod metrics;
pub(crate) mod near_cache;
pub(crate) mod observed_store;
pub(crate) mod pause;
pub(crate) mod pending_invalidations;
pub(crate) mod queue;
pub(crate) mod registrar;
pub(crate) mod registry;
pub(crate) mod settings;
pub(crate) mod spans;
pub(crate) mod staleness;
pub(crate) mod store_reads;
pub(crate) mod tasks;
pub(crate) mod touch;
pub(crate) mod validation;

use self::cache_mode::CacheMode;
use self::change::Changes;
use self::diagnostics::Diagnostics;
use self::freshness::Freshness;
use self::guarded_cache::{GuardedCache, LookedUp};
use self::guarded_store::GuardedStore;
use self::housekeeping::keep_house;
use self::invalidator::Invalidator;
use self::journal::Journal;
use self::journal_reader::JournalReader;
use self::lifetime::renewal_is_due;
use self::login_snapshots::LoginSnapshots;
use self::metrics::{Counters, Metrics};
use self::near_cache::NearCache;
use self::observed_store::ObservedStore;
use self::pause::Pause;
use self::pending_invalidations::PendingInvalidations;
use self::queue::Queue;
use self::registrar::{Registrar, forget_former};
use self::registry::Registry;
use self::settings::Settings;
use self::store_reads::{Miss, StoreReads};
use self::tasks::{KeepLoops, Tasks};
use self::touch::Toucher;
use self::validation::{Answers, Source, Validation};
use crate::cache::{Entry, EntryVerdict, Lookup, SessionCache};
use crate::model::session::Session;
use crate::model::token::{Digests, TokenDigest};
use crate::store::SessionStore;

/// One cache and one store, and the parts that work on them.
pub(crate) struct Engine<C: SessionCache, S> {
    pub(crate) settings: Settings,
    pub(crate) cache: Arc<GuardedCache<C>>,
    pub(crate) store: Arc<GuardedStore<S>>,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) diagnostics: Arc<Diagnostics>,
    pub(crate) changes: Arc<Changes<C, S>>,
    pub(crate) logins: Arc<LoginSnapshots<S>>,
    near: Option<Arc<NearCache>>,
    reads: Arc<StoreReads<C, S>>,
    invalidator: Arc<Invalidator<C>>,
    counters: Arc<Counters>,
    pub(crate) pause: Arc<Pause>,
    tasks: Tasks,
    bypass: AtomicBool,
    _keep_loops: KeepLoops,
}

/// Validations.
impl<C: SessionCache, S: SessionStore> Engine<C, S> {
    /// Returns the hits of the near cache, if it has a fresh entry for every digest. It never
    /// waits.
    pub(crate) fn near_hit(&self, digests: &[TokenDigest]) -> Option<Answers> {
        let near = self.near.as_deref().filter(|_| self.mode() == CacheMode::On)?;
        let now = Instant::now();
        let mut answers = Answers::of(Source::Near);
        for digest in digests {
            let entry = near.get(digest)?;
            match self.freshness.verdict_now(digest, &entry, now) {
                EntryVerdict::Fresh => self.add_hit(&mut answers, digest, entry.session, now),
                EntryVerdict::Unverified => return None,
                EntryVerdict::Stale | EntryVerdict::Foreign => {
                    near.remove(digest);
                    return None;
                }
            }
        }
        self.pause.request_came();
        let before = self.counters.near_hits.add_one();
        self.counters.instruments.near_hit(before, now);
        let span = spans::validate(digests.len());
        spans::validated(&span, &answers, self.settings.trace_ids);
        Some(answers)
    }

    fn add_hit(&self, answers: &mut Answers, digest: &TokenDigest, session: Session, now: Instant) {
        // No session whose cookie is renewed has an entry under a replaced token.
        if renewal_is_due(self.freshness.observed.at(now), &session) {
            answers.renewals.push((session.id(), *digest));
        }
        answers.validations.push(Validation::Valid(session));
    }

    /// Validates digests, in one round trip to the cache and, if need be, one to the store.
    pub(crate) async fn validate(self: Arc<Self>, digests: Digests) -> Answers {
        // A hit of a cache in this process and a read that is shed wait for nothing. A caller that
        // tries again at once must still let other tasks run.
        coop::consume_budget().await;
        self.pause.request_came();
        let began = Instant::now();
        let span = spans::validate(digests.len());
        let answers = self.answer(&digests, began).instrument(span.clone()).await;
        self.counters.instruments.validated(&answers, began);
        spans::validated(&span, &answers, self.settings.trace_ids);
        answers
    }

    async fn answer(&self, digests: &Digests, began: Instant) -> Answers {
        let (looked_up, degraded, tickets) = match self.mode() {
            CacheMode::Bypass => {
                self.counters.bypassed.add_one();
                let found = digests.iter().map(|_| Lookup::DoNotFill).collect();
                (LookedUp { found, at: began }, false, None)
            }
            CacheMode::On => {
                let tickets = self.near.as_ref().map(|near| near.tickets(digests));
                let (looked_up, failed) = self.look_up(digests, began).await;
                (looked_up, failed, tickets)
            }
        };
        let LookedUp { found, at: now } = looked_up;
        let mut answers = Answers { degraded, ..Answers::of(Source::Cache) };
        let mut misses = SmallVec::new();
        for (at, (digest, lookup)) in digests.iter().zip(found).enumerate() {
            let ticket = tickets.as_ref().map(|tickets| tickets[at]);
            let (lease, cache_failed) = match lookup {
                Lookup::Hit(entry) => {
                    if let Some((near, ticket)) = self.near.as_ref().zip(ticket) {
                        near.insert(digest, ticket, &entry);
                    }
                    self.add_hit(&mut answers, digest, entry.session, now);
                    continue;
                }
                Lookup::Leased(lease) => (Some(lease), false),
                Lookup::DoNotFill | Lookup::Refused(_) => (None, false),
                Lookup::Failed(_) => (None, true),
            };
            answers.validations.push(Validation::Unavailable);
            misses.push(Miss { at, digest: *digest, lease, ticket, cache_failed });
        }
        if misses.is_empty() {
            return answers;
        }
        if misses.len() == digests.len() {
            answers.source = Source::None;
        }
        // In an allocation of its own, which a hit does not need.
        let deadline = began + self.settings.validation_timeout;
        let reading = self.reads.read(misses, deadline).boxed();
        for (at, answer) in reading.await {
            match &answer.validation {
                Validation::Unavailable => continue,
                Validation::Valid(session) if answer.renews_cookie => {
                    answers.renewals.push((session.id(), digests[at]));
                }
                Validation::Valid(_) | Validation::Invalid => {}
            }
            answers.source = Source::Store;
            answers.validations[at] = answer.validation;
        }
        if answers.source == Source::None {
            self.counters.unavailable.add_one();
        }
        answers
    }

    /// Looks digests up in the cache. Returns also whether the cache failed.
    async fn look_up(&self, digests: &[TokenDigest], began: Instant) -> (LookedUp<C::Lease>, bool) {
        let check = self.freshness.begin_check(digests, self.cache.identity(), began);
        // The verdict is passed when the entry is there, so what was learnt meanwhile counts.
        let verdict = |entry: &Entry| self.freshness.verdict(&check, entry, Instant::now());
        let mut looked_up = self.cache.look_up(digests, &verdict, began).await;
        let LookedUp { found, at } = &mut looked_up;
        self.freshness.end_check(check, digests, self.cache.identity(), *at, found);
        let failed = self.cache.record_look_up(found);
        (looked_up, failed)
    }
}

/// The engine's life.
impl<C: SessionCache, S: SessionStore> Engine<C, S> {
    /// Wires the parts and starts the loops. Must be called within a Tokio runtime.
    pub(crate) fn new(cache: C, store: S, settings: Settings, mode: CacheMode) -> Arc<Self> {
        let tasks = Tasks::new();
        let keep_loops = tasks.keep_loops();
        let (counters, diagnostics) = (Arc::<Counters>::default(), Arc::<Diagnostics>::default());
        let (observed, pending) =
            (Arc::<ObservedStore>::default(), Arc::<PendingInvalidations>::default());
        let (is_exclusive, pause) = (store.is_exclusive(), Arc::new(Pause::new()));
        let reads_at_once = settings.max_concurrent_reads.unwrap_or(store.max_concurrent_reads());
        let cache = GuardedCache::new(
            cache,
            settings,
            tasks.clone(),
            Arc::clone(&counters),
            Arc::clone(&diagnostics),
        );
        let store = GuardedStore::new(
            store,
            Arc::clone(&observed),
            settings,
            Arc::clone(&counters),
            Arc::clone(&diagnostics),
            Arc::clone(&pause),
        );
        let journal = if is_exclusive {
            Journal::of_an_exclusive_store(settings.journal)
        } else {
            Journal::new(settings.journal)
        };
        // Without a journal, nothing would bound what another handle on the same store changes.
        let has_journal = !is_exclusive && cache.is_present();
        let near_bytes = settings.near_cache_bytes.filter(|_| has_journal);
        if near_bytes != settings.near_cache_bytes {
            tracing::warn!(
                "there is no near cache, because no other process uses this store or there is no \
                 cache"
            );
        }
        let near = near_bytes.map(|bytes| Arc::new(NearCache::new(bytes.get())));
        let freshness = Arc::new(Freshness {
            journal: Arc::new(journal),
            pending: Arc::clone(&pending),
            registry: Arc::new(Registry::new(near.is_some())),
            observed,
            ttl: settings.ttl,
            has_journal,
        });
        let invalidator = Arc::new(Invalidator {
            cache: Arc::clone(&cache),
            near: near.clone(),
            pending,
            settings,
            tasks: tasks.clone(),
        });
        let changes = Arc::new(Changes {
            cache: Arc::clone(&cache),
            store: Arc::clone(&store),
            counters: Arc::clone(&counters),
            freshness: Arc::clone(&freshness),
            invalidator: Arc::clone(&invalidator),
            settings,
            tasks: tasks.clone(),
            _keep_loops: Arc::clone(&keep_loops),
        });
        let reads = Arc::new(StoreReads {
            queue: Arc::new(Queue::new(reads_at_once)),
            cache: Arc::clone(&cache),
            near: near.clone(),
            store: Arc::clone(&store),
            freshness: Arc::clone(&freshness),
            invalidator: Arc::clone(&invalidator),
            toucher: Toucher::new(Arc::clone(&store), settings, tasks.clone()),
            settings,
            tasks: tasks.clone(),
            counters: Arc::clone(&counters),
            diagnostics: Arc::clone(&diagnostics),
            _keep_loops: Arc::clone(&keep_loops),
        });
        let logins = LoginSnapshots::new(
            Arc::clone(&store),
            settings,
            tasks.clone(),
            Arc::clone(&keep_loops),
        );
        let engine = Arc::new(Self {
            settings,
            cache,
            store,
            freshness,
            diagnostics,
            changes,
            logins,
            near,
            reads,
            invalidator,
            counters,
            pause,
            tasks,
            bypass: AtomicBool::new(false),
            _keep_loops: keep_loops,
        });
        engine.set_mode(mode);
        engine.start();
        engine
    }

    /// Starts the loops.
    fn start(&self) {
        let (cache, store) = (&self.cache, &self.store);
        // No other process uses an exclusive store, so that nothing sleeps.
        if let Some(after) = self.settings.pause_after.filter(|_| !store.is_exclusive()) {
            self.tasks.spawn(Arc::clone(&self.pause).watch(after, self.tasks.clone()));
        }
        self.tasks.spawn(Arc::clone(store).keep_probing(self.tasks.clone()));
        if self.freshness.has_journal {
            let reader = JournalReader {
                store: Arc::clone(store),
                freshness: Arc::clone(&self.freshness),
                invalidator: Arc::clone(&self.invalidator),
                counters: Arc::clone(&self.counters),
            };
            self.tasks.spawn(reader.run(self.tasks.clone()));
            let registrar = Registrar {
                cache: Arc::clone(cache),
                store: Arc::clone(store),
                freshness: Arc::clone(&self.freshness),
                settings: self.settings,
            };
            self.tasks.spawn(registrar.run(self.tasks.clone()));
        }
        self.tasks.spawn(keep_house(Arc::clone(store), self.settings, self.tasks.clone()));
    }

    /// Ends the loops, waits for what is under way, and closes the connections.
    pub(crate) async fn shutdown(self: Arc<Self>) {
        self.tasks.begin_shutdown();
        // First of all: the journal is not read any more, so no entry may be served.
        self.freshness.registry.leave();
        // A paused node wakes no store to leave. What the store still has expires by itself.
        if !self.pause.is_paused() {
            forget_former(&self.store, &self.freshness).await;
        }
        self.tasks.finish().await;
        self.cache.close().await;
        self.store.close().await;
    }

    pub(crate) fn mode(&self) -> CacheMode {
        if self.bypass.load(Ordering::SeqCst) { CacheMode::Bypass } else { CacheMode::On }
    }

    /// Switches the cache on or off. Without a cache it stays off.
    pub(crate) fn set_mode(&self, mode: CacheMode) {
        let bypass = mode == CacheMode::Bypass || !self.cache.is_present();
        if self.bypass.swap(bypass, Ordering::SeqCst) != bypass {
            if let Some(near) = &self.near {
                near.clear();
            }
            tracing::info!(?mode, "the session cache's mode was changed");
        }
    }

    /// Returns the counters and gauges.
    pub(crate) fn metrics(&self) -> Metrics {
        let (c, reads, journal) = (&self.counters, self.reads.gauges(), &self.freshness.journal);
        let near_hits = c.near_hits.get();
        let (near_entries, near_bytes, near_limit_bytes) =
            self.near.as_ref().map(|near| near.size()).unwrap_or_default();
        Metrics {
            hits: c.hits.get() + near_hits,
            near_hits,
            near_entries,
            near_bytes,
            near_limit_bytes,
            misses: c.misses.get(),
            errors: c.errors.get(),
            skipped_by_breaker: c.skipped_by_breaker.get(),
            breaker_opened: self.cache.breaker_opened(),
            bypassed: c.bypassed.get(),
            unavailable: c.unavailable.get(),
            store_reads: c.store_reads.get(),
            tokens_read: c.tokens_read.get(),
            coalesced: c.coalesced.get(),
            reads_in_flight: reads.in_flight as u64,
            peak_reads_in_flight: reads.peak_in_flight as u64,
            max_concurrent_reads: reads.max_concurrent as u64,
            reads_waiting: reads.waiting as u64,
            shed: c.shed.get(),
            login_reads: c.login_reads.get(),
            changes_waiting: (self.store.waiting() + self.logins.waiting()) as u64,
            changes_shed: c.changes_shed.get(),
            fills: c.fills.get(),
            fills_refused: c.fills_refused.get(),
            pending_invalidations: self.freshness.pending.len() as u64,
            touches: c.touches.get(),
            journal_reads: c.journal_reads.get(),
            journal_age: if self.freshness.has_journal {
                journal.age(Instant::now())
            } else {
                None
            },
            changed_sessions: journal.len() as u64,
            paused: self.pause.is_paused(),
        }
    }
}

/// The figures that the metrics show beside [`Metrics`].
#[cfg(feature = "metrics")]
impl<C: SessionCache, S: SessionStore> Engine<C, S> {
    pub(crate) fn instruments(&self) -> &instruments::Instruments {
        &self.counters.instruments
    }

    /// Returns the age of the journal. If it was not read yet, that is the time since the start, or
    /// since the last pause. `None`: there is no journal, or this node is paused.
    pub(crate) fn journal_age_or_uptime(&self) -> Option<std::time::Duration> {
        let Freshness { has_journal, journal, .. } = &*self.freshness;
        let awake_since = self.pause.awake_since().filter(|_| *has_journal)?;
        let now = Instant::now();
        Some(journal.age(now).unwrap_or_else(|| now.saturating_duration_since(awake_since)))
    }
}
