//! The near cache: entries in this process, in front of the shared cache.
//!
//! It holds entries that were fresh, and proves nothing: every hit passes the verdict of
//! `engine/freshness.rs` again, as an entry of Redis does. Other nodes' invalidations do not reach
//! it. A change is therefore visible here within D, when this node has read the journal, and a node
//! with a near cache registers as one with a cache of its own.
//!
//! On its own node a change is visible at once, and after an "invalid" there is no "valid". A
//! *ticket* ensures this, as a lease does in Redis. It is taken before a look-up begins. Each drop
//! of an entry voids the tickets of its digest, so that an older copy is not inserted after it. A
//! drop follows the invalidation of the shared cache, or the record that it is pending. A look-up
//! that begins between the two could otherwise insert what it reads there.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};
use smallvec::SmallVec;

use crate::cache::Entry;
use crate::model::clock::Timestamp;
use crate::model::identity::StoreId;
use crate::model::lock::lock;
use crate::model::session::Session;
use crate::model::token::TokenDigest;

/// The groups into which digests are divided, one for each first byte. A drop voids all tickets
/// of a group.
const GROUPS: usize = 256;
/// What an entry costs in addition to its own bytes: the table's share, and the rounding of its
/// allocation. Measured by `benches/tests/allocations.rs`.
const OVERHEAD_BYTES: usize = 80;
/// The minimum for the share of a shard. The library rounds the number of shards up, which leaves
/// at least half of it. An entry larger than its shard's share is not kept.
const MIN_SHARD_BYTES: usize = 512 * 1024;
/// The mean size of an entry that the table is laid out for at first. It grows as needed.
const USUAL_ENTRY_BYTES: usize = 512;
/// The number of lives of the store whose entries are kept. A process that sees more of them needs
/// a restart for its near cache.
const LIVES: usize = 256;

/// Entries by digest, bounded in bytes.
#[derive(Debug)]
pub(crate) struct NearCache {
    entries: Cache<TokenDigest, NearEntry, EntryBytes, BuildHasherDefault<DigestHasher>>,
    lives: Lives,
    /// The number of drops per group.
    drops: Box<[Mutex<u64>]>,
}

/// An [`Entry`] in fewer bytes.
#[derive(Debug, Clone)]
struct NearEntry {
    session: Session,
    user_epoch: i64,
    xmin: u64,
    read_at: Timestamp,
    /// The time from `read_at` to the end of the entry, in ms.
    lifetime_ms: u32,
    life: u8,
}

/// The lives of the store that entries are of. A place is never used for another life.
#[derive(Debug)]
struct Lives(Box<[OnceLock<StoreId>]>);

impl Lives {
    fn new() -> Self {
        Self((0..LIVES).map(|_| OnceLock::new()).collect())
    }

    /// Returns the place of a life, if there is room for it.
    fn place(&self, id: StoreId) -> Option<u8> {
        let place = self.0.iter().position(|life| *life.get_or_init(|| id) == id)?;
        u8::try_from(place).ok()
    }

    /// Returns the entry in fewer bytes. `None`: it has ended when it was read, or it is of a life
    /// that has no place.
    fn pack(&self, entry: &Entry) -> Option<NearEntry> {
        // Rounded down, so that it does not end later.
        let lifetime_ms = entry.not_after.since(entry.read_at).as_millis();
        Some(NearEntry {
            session: entry.session.clone(),
            user_epoch: entry.user_epoch,
            xmin: entry.xmin,
            read_at: entry.read_at,
            lifetime_ms: u32::try_from(lifetime_ms).unwrap_or(u32::MAX),
            life: self.place(entry.store_id).filter(|_| lifetime_ms > 0)?,
        })
    }

    fn unpack(&self, entry: NearEntry) -> Option<Entry> {
        Some(Entry {
            session: entry.session,
            user_epoch: entry.user_epoch,
            store_id: *self.0.get(usize::from(entry.life))?.get()?,
            xmin: entry.xmin,
            read_at: entry.read_at,
            not_after: entry.read_at.after(Duration::from_millis(entry.lifetime_ms.into())),
        })
    }
}

/// The right to insert one entry, unless it was dropped meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl NearCache {
    /// Creates a cache with this limit in bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(bytes / USUAL_ENTRY_BYTES)
            .weight_capacity(bytes as u64)
            .shards((bytes / MIN_SHARD_BYTES).clamp(1, 4 * available_cores()))
            .build()
            .expect("both capacities are set");
        let (hashers, lifecycle) = Default::default();
        let entries = Cache::with_options(options, EntryBytes, hashers, lifecycle);
        let drops = (0..GROUPS).map(|_| Mutex::default()).collect();
        Self { entries, lives: Lives::new(), drops }
    }

    pub(crate) fn get(&self, digest: &TokenDigest) -> Option<Entry> {
        self.lives.unpack(self.entries.get(digest)?)
    }

    fn ticket(&self, digest: &TokenDigest) -> Ticket {
        Ticket(*lock(self.drops_of(digest)))
    }

    /// Takes the tickets for the insertion of these digests, in order. Take them before the look-up
    /// whose results are inserted.
    pub(crate) fn tickets(&self, digests: &[TokenDigest]) -> SmallVec<[Ticket; 1]> {
        digests.iter().map(|digest| self.ticket(digest)).collect()
    }

    /// Inserts an entry, unless its digest was dropped since the ticket was taken.
    pub(crate) fn insert(&self, digest: &TokenDigest, ticket: Ticket, entry: &Entry) {
        let drops = lock(self.drops_of(digest));
        if Ticket(*drops) != ticket {
            return;
        }
        match self.lives.pack(entry) {
            Some(entry) => self.entries.insert(*digest, entry),
            // No older one stays in its place.
            None => {
                self.entries.remove(digest);
            }
        }
    }

    /// Drops the entries under these digests, and voids their tickets.
    pub(crate) fn drop_entries(&self, digests: &[TokenDigest]) {
        for digest in digests {
            let mut drops = lock(self.drops_of(digest));
            *drops += 1;
            self.entries.remove(digest);
        }
    }

    /// Removes an entry that the verdict rejected. It would only take room.
    pub(crate) fn remove(&self, digest: &TokenDigest) {
        self.entries.remove(digest);
    }

    /// Removes all entries, and voids all tickets.
    pub(crate) fn clear(&self) {
        for drops in &self.drops {
            *lock(drops) += 1;
        }
        self.entries.clear();
    }

    /// Returns the number of entries, their bytes, and the limit of those.
    pub(crate) fn size(&self) -> (u64, u64, u64) {
        (self.entries.len() as u64, self.entries.weight(), self.entries.capacity())
    }

    fn drops_of(&self, digest: &TokenDigest) -> &Mutex<u64> {
        &self.drops[usize::from(digest.as_bytes()[0])]
    }
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The weight of an entry: the bytes that it takes in this process.
#[derive(Debug, Clone)]
struct EntryBytes;

impl Weighter<TokenDigest, NearEntry> for EntryBytes {
    fn weight(&self, _: &TokenDigest, entry: &NearEntry) -> u64 {
        let own = size_of::<TokenDigest>() + size_of::<NearEntry>() + entry.session.bytes();
        (own + OVERHEAD_BYTES) as u64
    }
}

/// The hash of a digest: its last 8 bytes, which are as good as any.
#[derive(Debug, Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk() {
            self.0 = u64::from_le_bytes(*last);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::session::{SessionId, SessionParts};

    fn entry(user: &str, data: usize) -> Entry {
        let now = Timestamp::from_micros(1_000_000);
        let parts = SessionParts::new(SessionId::from_bytes([1; 16]), user, now);
        let data = serde_json::value::to_raw_value(&"d".repeat(data)).unwrap();
        Entry {
            session: SessionParts { data, ..parts }.into(),
            user_epoch: 0,
            store_id: [1; 16],
            xmin: 0,
            read_at: now,
            not_after: now.after(Duration::from_secs(300)),
        }
    }

    fn user(near: &NearCache, digest: &TokenDigest) -> Option<String> {
        near.get(digest).map(|entry| entry.session.user_id().to_owned())
    }

    #[test]
    fn drop_voids_the_tickets_of_its_digest() {
        let near = NearCache::new(1 << 20);
        let digest = TokenDigest::of("a");
        let early = near.ticket(&digest);
        near.insert(&digest, early, &entry("alice", 10));
        assert_eq!(user(&near, &digest).as_deref(), Some("alice"));
        near.drop_entries(&[digest]);
        assert_eq!(user(&near, &digest), None);
        near.insert(&digest, early, &entry("alice", 10));
        assert_eq!(user(&near, &digest), None, "the read began before the drop");
        near.insert(&digest, near.ticket(&digest), &entry("bob", 10));
        assert_eq!(user(&near, &digest).as_deref(), Some("bob"));
    }

    #[test]
    fn rejected_entry_leaves_tickets_valid() {
        let near = NearCache::new(1 << 20);
        let digest = TokenDigest::of("a");
        let ticket = near.ticket(&digest);
        near.insert(&digest, ticket, &entry("old", 10));
        near.remove(&digest);
        near.insert(&digest, ticket, &entry("new", 10));
        assert_eq!(user(&near, &digest).as_deref(), Some("new"));
        near.clear();
        assert_eq!((near.size().0, near.size().1), (0, 0));
    }

    #[test]
    fn entry_is_kept_as_it_was_and_ends_no_later() {
        let near = NearCache::new(1 << 20);
        let digest = TokenDigest::of("a");
        let insert = |entry: &Entry| {
            near.insert(&digest, near.ticket(&digest), entry);
            near.get(&digest)
        };
        for life in [1, 2, 1] {
            let entry = Entry {
                user_epoch: 3,
                xmin: 7,
                store_id: [life; 16],
                not_after: Timestamp::from_micros(2_234_567),
                ..entry("alice", 10)
            };
            let kept = insert(&entry).unwrap();
            assert_eq!((kept.user_epoch, kept.xmin, kept.store_id), (3, 7, [life; 16]));
            assert_eq!((kept.read_at, kept.session.user_id()), (entry.read_at, "alice"));
            assert_eq!(kept.not_after, Timestamp::from_micros(2_234_000));
        }
        let ended = Entry { not_after: Timestamp::from_micros(1_000_999), ..entry("bob", 10) };
        assert!(insert(&ended).is_none());
        let long = Entry { not_after: Timestamp::from_micros(i64::MAX), ..entry("bob", 10) };
        assert!(insert(&long).unwrap().not_after < long.not_after);
    }

    #[test]
    fn entry_of_a_life_without_a_place_is_not_kept() {
        let near = NearCache::new(1 << 20);
        let digest = TokenDigest::of("a");
        for life in 0..=LIVES {
            let entry = Entry { store_id: (life as u128).to_be_bytes(), ..entry("alice", 10) };
            near.insert(&digest, near.ticket(&digest), &entry);
            let kept = near.get(&digest).map(|entry| entry.store_id);
            assert_eq!(kept, (life < LIVES).then_some(entry.store_id));
        }
    }

    #[test]
    fn bytes_are_bounded() {
        const BOUND: usize = 1 << 20;
        let near = NearCache::new(BOUND);
        for n in 0..5_000 {
            let digest = TokenDigest::of(&n.to_string());
            near.insert(&digest, near.ticket(&digest), &entry("alice", n % 2_000));
            assert!(near.size().1 <= BOUND as u64);
        }
        assert!(near.size().0 > 300, "{:?}", near.size());
        // An entry beyond a shard's share is not kept, and no older one stays in its place.
        let digest = TokenDigest::of("large");
        near.insert(&digest, near.ticket(&digest), &entry("small", 10));
        near.insert(&digest, near.ticket(&digest), &entry("large", BOUND));
        assert_eq!(user(&near, &digest), None);
    }
}
