//! The task that keeps this node's registration in the store (`engine/registry.rs`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cache::SessionCache;
use crate::engine::freshness::Freshness;
use crate::engine::guarded_cache::GuardedCache;
use crate::engine::guarded_store::GuardedStore;
use crate::engine::registry::Due;
use crate::engine::settings::Settings;
use crate::engine::tasks::Tasks;
use crate::store::{NodeRegistration, SessionStore};

/// How often the task examines whether the cache is still the registered one. A look-up that finds
/// that it is not wakes the task at once.
const EXAMINE_EVERY: Duration = Duration::from_millis(500);
/// The pause after a failure.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// The least time between two registrations that look-ups request.
const MIN_REGISTRATION_INTERVAL: Duration = Duration::from_millis(20);
/// How long renewals may fail before it costs a hit: a registration outlives by this the time that
/// a node may serve without the store.
const RENEWALS_MAY_FAIL_FOR: Duration = Duration::from_secs(30);
/// How much longer the store keeps a registration than its node relies on it. The two clocks may
/// differ in pace, and the store's may be stepped forward.
const CLOCK_MARGIN: Duration = Duration::from_secs(30);

/// The keeper of one node's registration.
#[derive(Debug)]
pub(crate) struct Registrar<C, S> {
    pub(crate) cache: Arc<GuardedCache<C>>,
    pub(crate) store: Arc<GuardedStore<S>>,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) settings: Settings,
}

impl<C: SessionCache, S: SessionStore> Registrar<C, S> {
    /// Registers this node's cache for as long as the engine lives, except during pauses.
    pub(crate) async fn run(self, tasks: Tasks) -> Option<()> {
        let registry = Arc::clone(&self.freshness.registry);
        loop {
            if self.store.is_paused() {
                // As at the shutdown. Other nodes' changes do not wait for this node any more.
                registry.leave();
                tasks.or_end(forget_former(&self.store, &self.freshness)).await?;
                tasks.or_end(self.store.rest()).await?;
            }
            let registered = tasks.or_end(self.register_if_due()).await?;
            let pause = if registered { EXAMINE_EVERY } else { RETRY_AFTER };
            let next = async {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = registry.wanted() => sleep(MIN_REGISTRATION_INTERVAL).await,
                }
            };
            tasks.or_end(next).await?;
        }
    }

    /// Returns `false` if the store failed.
    async fn register_if_due(&self) -> bool {
        let Freshness { registry, journal, .. } = &*self.freshness;
        let sent = Instant::now();
        let (id, cache) = match registry.due(self.cache.identity(), journal.store_id(), sent) {
            Due::Nothing => return true,
            Due::Register(cache) => (registry.begin(cache), cache),
            Due::Renew(id, cache) => (id, cache),
        };
        let relied_on = self.settings.longest_entry_life()
            + journal.timing().staleness_bound()
            + RENEWALS_MAY_FAIL_FOR;
        let lasts = relied_on + CLOCK_MARGIN;
        let registration = NodeRegistration { id, cache, lasts };
        let Ok(store_id) = self.store.register_node(&registration).await else {
            return false;
        };
        if registry.confirmed((id, cache), store_id, sent, relied_on, Instant::now()) {
            journal.request_read();
        }
        forget_former(&self.store, &self.freshness).await;
        true
    }
}

/// Removes the registrations of caches that this node no longer serves entries from. After a
/// failure the rest expires by itself.
pub(crate) async fn forget_former<S: SessionStore>(store: &GuardedStore<S>, freshness: &Freshness) {
    for id in freshness.registry.former() {
        if !store.forget_node(id).await {
            return;
        }
        freshness.registry.forgotten(id);
    }
}
