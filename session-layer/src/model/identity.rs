//! Identifiers of the life of a store, and of a cache.

use sha2::{Digest as _, Sha256};

/// The id of one life of one store. A life is one run of one database server. Within it no
/// transaction id is used twice, and all statements see one history.
///
/// Crash recovery, a promotion, a restart and a copy of the database (a dump, a base backup, a
/// template) each begin another life. Two environments that share one Redis therefore never accept
/// each other's sessions. Transaction ids of two lives are never compared.
pub type StoreId = [u8; 16];

/// The id of a cache that several nodes may share: one incarnation of one server, one database of
/// it, one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheId([u8; 32]);

impl CacheId {
    /// Creates the id of the cache that these parts identify, such as a server's run id and a
    /// prefix of keys.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // The length keeps any two lists of parts distinct.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// Returns the 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
