//! The registry: which cache each node serves entries from, recorded in the store.
//!
//! An invalidation in one Redis reaches only the nodes that serve entries from there. While a
//! namespace, a database or a server is being changed, other nodes may serve from another cache. A
//! change is therefore [`Propagated`](crate::Visibility::Propagated) only if all registered nodes
//! share one cache.
//!
//! 1. A node registers its cache. It serves entries only after a read of the journal that *began
//!    later* has succeeded. Each change is then either in its changed set, or was committed after
//!    the registration, which that change then finds.
//! 2. A node serves entries only while its cache is the registered one. With a near cache that is
//!    a cache of its own, which never changes. It registers another cache
//!    first. While that registration is under way the node serves no entries, because it may have
//!    been made.
//! 3. A registration lasts longer in the store than this node relies on it. The node renews it
//!    every few seconds. A node that cannot renew it stops serving in time, by its own clock. A
//!    renewal that comes too late is a new registration.
//! 4. A change reads the registrations *after* its COMMIT.
//!
//! The state is here. `engine/registrar.rs` reads and writes the store.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::cache::{CacheId, CacheIdentity};
use crate::model::lock::lock;
use crate::store::{RegistrationId, StoreId};

/// How often a registration is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// The limit of registrations of former caches that are remembered for removal.
const MOST_FORMER: usize = 100;

/// This node's registration.
#[derive(Debug)]
pub(crate) struct Registry {
    /// The id of a cache that only this node uses.
    own_cache: CacheId,
    /// Whether this node serves entries from a near cache, whatever cache it shares.
    has_near_cache: bool,
    state: Mutex<RegistryState>,
    wanted: Notify,
}

#[derive(Debug, Default)]
struct RegistryState {
    /// The registration that this node relies on.
    registered: Option<Registered>,
    /// A registration that is under way or has failed. It may have been made all the same.
    attempt: Option<(RegistrationId, CacheId)>,
    /// Registrations of caches that this node no longer serves entries from.
    former: Vec<RegistrationId>,
}

/// A registration that the store has confirmed.
#[derive(Debug, Clone, Copy)]
struct Registered {
    /// Each cache gets a new id. A statement that was cancelled may be executed late, and must not
    /// change the registration of another cache.
    id: RegistrationId,
    cache: CacheId,
    /// The life of the store that has it. The next life may lack it.
    store_id: Option<StoreId>,
    /// The store had it by then.
    since: Instant,
    /// The call that renewed it last began then.
    renewed: Instant,
    /// This node relies on it until then.
    until: Instant,
}

/// The step that the registration needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// Register this cache, and serve no entries meanwhile.
    Register(CacheId),
    /// Register the same cache once more.
    Renew(RegistrationId, CacheId),
}

impl Registry {
    pub(crate) fn new(has_near_cache: bool) -> Self {
        Self {
            has_near_cache,
            own_cache: CacheId::of(&[b"node", Uuid::new_v4().as_bytes()]),
            state: Mutex::default(),
            wanted: Notify::new(),
        }
    }

    /// Returns whether entries of this cache may be served. `journal` is when the last successful
    /// read of the journal began, and the life that was read. If not, a registration is requested.
    pub(crate) fn admits(
        &self,
        identity: CacheIdentity,
        journal: Option<(Instant, StoreId)>,
        now: Instant,
    ) -> bool {
        let registered = self.lock().registered;
        let admitted = registered.zip(journal).is_some_and(|(registered, (began, life))| {
            Some(registered.cache) == self.id_of(identity)
                && registered.store_id.is_none_or(|registered| registered == life)
                && began >= registered.since
                && now < registered.until
        });
        if !admitted {
            self.wanted.notify_one();
        }
        admitted
    }

    /// Returns the id under which this node registers. With a near cache it is this node's own: no
    /// removal in a shared cache reaches its entries, and it serves them without a shared cache.
    pub(crate) fn id_of(&self, identity: CacheIdentity) -> Option<CacheId> {
        match identity {
            _ if self.has_near_cache => Some(self.own_cache),
            CacheIdentity::Shared(id) => Some(id),
            CacheIdentity::OfThisNode => Some(self.own_cache),
            CacheIdentity::Unsettled => None,
        }
    }

    /// Returns what must be done, at `now`.
    pub(crate) fn due(
        &self,
        identity: CacheIdentity,
        store_id: Option<StoreId>,
        now: Instant,
    ) -> Due {
        let Some(cache) = self.id_of(identity) else {
            return Due::Nothing;
        };
        match self.lock().registered {
            Some(known) if known.cache == cache && known.is_of(store_id) => {
                if now >= known.renewed + RENEW_EVERY {
                    Due::Renew(known.id, cache)
                } else {
                    Due::Nothing
                }
            }
            _ => Due::Register(cache),
        }
    }

    /// Begins to register a cache. The registration that this node relied on becomes a former one.
    /// Returns the id of the new one.
    pub(crate) fn begin(&self, cache: CacheId) -> RegistrationId {
        let mut state = self.lock();
        let last = state.registered.take().map(|known| known.id);
        let attempt = state.attempt.take_if(|(_, of)| *of != cache);
        let former = last.into_iter().chain(attempt.map(|(id, _)| id));
        state.former.extend(former);
        // Each of them expires by itself.
        let excess = state.former.len().saturating_sub(MOST_FORMER);
        state.former.drain(..excess);
        let new = || (Uuid::new_v4().into_bytes(), cache);
        state.attempt.get_or_insert_with(new).0
    }

    /// Records that the store has confirmed a registration by a call that began at `sent`. The node
    /// relies on it for `lasts` from then. Returns whether it is new: serving begins after the next
    /// read of the journal.
    pub(crate) fn confirmed(
        &self,
        (id, cache): (RegistrationId, CacheId),
        store_id: Option<StoreId>,
        sent: Instant,
        lasts: Duration,
        now: Instant,
    ) -> bool {
        let mut state = self.lock();
        let is_renewal =
            |known: &Registered| known.id == id && now < known.until && known.store_id == store_id;
        let renewed = state.registered.filter(is_renewal);
        state.attempt = None;
        state.registered = Some(Registered {
            id,
            cache,
            store_id,
            since: renewed.map_or(now, |known| known.since),
            renewed: sent,
            until: sent + lasts,
        });
        renewed.is_none()
    }

    /// Stops relying on any registration: this node serves no entries any more.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        let last = state.registered.take().map(|known| known.id);
        let attempt = state.attempt.take().map(|(id, _)| id);
        state.former.extend(last.into_iter().chain(attempt));
    }

    /// Returns the registrations that are to be removed from the store.
    pub(crate) fn former(&self) -> Vec<RegistrationId> {
        self.lock().former.clone()
    }

    /// Records that a former registration was removed.
    pub(crate) fn forgotten(&self, id: RegistrationId) {
        self.lock().former.retain(|other| *other != id);
    }

    /// Waits until a look-up finds that this node's cache is not registered.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        lock(&self.state)
    }
}

impl Registered {
    /// Returns whether it was made in the life whose journal was read.
    fn is_of(&self, journal: Option<StoreId>) -> bool {
        let lives = self.store_id.zip(journal);
        lives.is_none_or(|(registered, read)| registered == read)
    }
}
