//! The encoding of the values in the shared cache.
//!
//! | prefix | value | written by |
//! |---|---|---|
//! | `L` | a lease: 16 random bytes, never reused | a node that missed |
//! | `Vp` | a plain session: header, digest, body | a lease holder without a sealing key |
//! | `Vs` | a [`sealed`] session: header, key ID, nonce, body | a lease holder with one |
//! | `T` | a fence | a node that changes a session |
//!
//! The header names the incarnation and the store of the session. The body is the rest of an
//! [`Entry`]: a [`Head`] in postcard's encoding, the user id and the data. A node with keys accepts
//! no `Vp`, because a planted one would bypass sealing. A node without keys accepts no `Vs`,
//! because it cannot read one.
//!
//! The key contains [`FORMAT`], so that two versions of a service do not compete for one key. Each
//! version sees only values that it can read. A value that does not decode is a miss.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

mod sealed;

use crate::cache::Entry;
use crate::cache::seal::SealingKeys;
use crate::model::clock::Timestamp;
use crate::model::error::RandomError;
use crate::model::identity::StoreId;
use crate::model::session::{MAX_DATA_BYTES, SessionFields, SessionId};
use crate::model::token::TokenDigest;

/// The version of the encoding below. Any change to a released encoding takes the next number.
pub(crate) const FORMAT: &str = "2";

pub(crate) const FENCE_VALUE: &[u8] = b"T";

/// The size limit of a value that is written or decoded: 256 KiB. A session's data may have 64 KiB.
/// Postgres formats it with spaces and full numbers, and may therefore return more.
pub(crate) const MAX_VALUE_BYTES: usize = 4 * MAX_DATA_BYTES;

/// One run of one Redis server. Two servers are two incarnations, and so is one server before and
/// after a restart or a promotion. An entry of another incarnation is never served, because it may
/// have missed an invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Incarnation(pub(crate) [u8; 16]);

/// The random part of a lease.
pub(crate) type Nonce = [u8; 16];

/// The Redis key of a session: `<namespace>:<format>:<digest>`. It contains no braces, which would
/// be a hash tag in a cluster. Namespaces of up to 34 characters need no allocation.
#[derive(Debug, Clone)]
pub(crate) struct Key(SmallVec<[u8; 80]>);

impl Key {
    pub(crate) fn new(namespace: &str, digest: &TokenDigest) -> Self {
        let mut key = SmallVec::new();
        for part in [namespace.as_bytes(), b":", FORMAT.as_bytes(), b":", &digest.base64url()] {
            key.extend_from_slice(part);
        }
        Self(key)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

pub(crate) fn lease_value(nonce: &Nonce) -> Vec<u8> {
    [b"L".as_slice(), nonce].concat()
}

/// The location to which an entry is bound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryContext<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) digest: &'a TokenDigest,
    pub(crate) incarnation: Incarnation,
}

/// The plain header in front of a session.
#[derive(Debug, Clone, Copy)]
struct Header {
    incarnation: Incarnation,
    store_id: StoreId,
}

const PLAIN_MARK: &[u8; 2] = b"Vp";

/// Encodes a session, sealed if there are keys.
///
/// # Errors
/// Returns an error if the system has no random bytes for the nonce.
pub(crate) fn entry_value(
    entry: &Entry,
    place: &EntryContext<'_>,
    keys: Option<&SealingKeys>,
) -> Result<Vec<u8>, RandomError> {
    let header = Header { incarnation: place.incarnation, store_id: entry.store_id };
    // Serializing into a growing vector cannot fail. If it did, the result would not decode.
    let body = |start: Vec<u8>| {
        let mut body = postcard::to_extend(&Head::of(entry), start).unwrap_or_default();
        body.extend_from_slice(entry.session.user_id().as_bytes());
        body.extend_from_slice(entry.session.data_json().as_bytes());
        body
    };
    match keys {
        Some(keys) => sealed::seal(keys, &header, place.key, body),
        None => Ok(body(
            [
                PLAIN_MARK.as_slice(),
                &header.incarnation.0,
                digest_check(place.digest),
                &header.store_id,
            ]
            .concat(),
        )),
    }
}

/// Returns the part of the digest by which a plain value is bound to its key. It is against
/// accidents, such as a RENAME. Whoever can write plain values can write any.
fn digest_check(digest: &TokenDigest) -> &[u8] {
    &digest.as_bytes()[..8]
}

/// The content of a key.
#[derive(Debug)]
pub(crate) enum Found {
    /// A session's copy of this incarnation. The caller decides whether it is fresh.
    Entry(Entry),
    /// A lease or a fence.
    Held,
    /// A value that can never be served.
    Rejected(EntryRejection),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryRejection {
    /// A foreign or damaged value, or one moved from another key.
    Undecodable,
    /// A value above the size limit.
    TooLarge,
    /// A plain value, found by a node that accepts only sealed ones.
    Unsealed,
    /// A value sealed with an unknown key.
    UnknownKey,
    /// A value that names a known key but does not open for this Redis key.
    Forged,
    /// An entry of another incarnation.
    StaleIncarnation,
}

/// Decodes the value at `place`. An entry keeps the value's memory for its texts.
pub(crate) fn decode(
    value: Vec<u8>,
    place: &EntryContext<'_>,
    keys: Option<&SealingKeys>,
) -> Found {
    // Checked before anything is decrypted or copied.
    if value.len() > MAX_VALUE_BYTES {
        return Found::Rejected(EntryRejection::TooLarge);
    }
    match value.as_slice() {
        [b'L', nonce @ ..] if nonce.len() == size_of::<Nonce>() => Found::Held,
        FENCE_VALUE => Found::Held,
        [b'V', b'p' | b's', ..] => {
            decode_entry(value, place, keys).map_or_else(Found::Rejected, Found::Entry)
        }
        _ => Found::Rejected(EntryRejection::Undecodable),
    }
}

/// Returns why a node with these keys rejects an entry, wherever it comes from. `None`: it opens,
/// or it is no entry.
#[cfg(feature = "redis")]
pub(crate) fn unopened(
    value: &[u8],
    redis_key: &[u8],
    keys: Option<&SealingKeys>,
) -> Option<EntryRejection> {
    match (value.starts_with(sealed::MARK), keys) {
        (true, Some(keys)) => sealed::open(keys, redis_key, &mut value.to_vec()).err(),
        (true, None) => Some(EntryRejection::UnknownKey),
        (false, Some(_)) if value.starts_with(PLAIN_MARK) => Some(EntryRejection::Unsealed),
        (false, _) => None,
    }
}

fn decode_entry(
    mut value: Vec<u8>,
    place: &EntryContext<'_>,
    keys: Option<&SealingKeys>,
) -> Result<Entry, EntryRejection> {
    let (header, start) = if value.starts_with(sealed::MARK) {
        let keys = keys.ok_or(EntryRejection::UnknownKey)?;
        sealed::open(keys, place.key, &mut value)?
    } else if keys.is_some() {
        return Err(EntryRejection::Unsealed);
    } else {
        split_plain(&value, place.digest).ok_or(EntryRejection::Undecodable)?
    };
    if header.incarnation != place.incarnation {
        return Err(EntryRejection::StaleIncarnation);
    }
    let body = value.get(start..).unwrap_or_default();
    read_body(body, header.store_id).ok_or(EntryRejection::Undecodable)
}

/// Returns the header of a plain value, and where its body starts. Returns `None` also if the value
/// was moved from another key.
fn split_plain(value: &[u8], digest: &TokenDigest) -> Option<(Header, usize)> {
    let (incarnation, rest) = value.strip_prefix(PLAIN_MARK)?.split_first_chunk()?;
    let rest = rest.strip_prefix(digest_check(digest))?;
    let (store_id, body) = rest.split_first_chunk()?;
    let header = Header { incarnation: Incarnation(*incarnation), store_id: *store_id };
    Some((header, value.len() - body.len()))
}

fn read_body(body: &[u8], store_id: StoreId) -> Option<Entry> {
    let (head, texts) = postcard::take_from_bytes::<Head>(body).ok()?;
    head.into_entry(std::str::from_utf8(texts).ok()?, store_id)
}

/// An [`Entry`] without the fields of the header, and without the texts that follow: the user id
/// and the data. Moments are microseconds, the first since 1970. The others are relative to one of
/// those before, which makes most of them short.
#[derive(Serialize, Deserialize)]
struct Head {
    user_epoch: i64,
    xmin: u64,
    read_at: i64,
    not_after_since_read: i64,
    id: [u8; 16],
    version: i64,
    created_since_read: i64,
    authenticated_since_created: i64,
    last_seen_since_created: i64,
    expires_since_created: i64,
    idle_timeout_s: Option<u64>,
    persistent: bool,
    user_id_bytes: usize,
}

impl Head {
    fn of(entry: &Entry) -> Self {
        let session = &entry.session;
        let since =
            |moment: Timestamp, base: Timestamp| moment.as_micros().wrapping_sub(base.as_micros());
        let since_created = |moment| since(moment, session.created_at());
        Self {
            user_epoch: entry.user_epoch,
            xmin: entry.xmin,
            read_at: entry.read_at.as_micros(),
            not_after_since_read: since(entry.not_after, entry.read_at),
            id: *session.id().as_bytes(),
            version: session.version(),
            created_since_read: since(session.created_at(), entry.read_at),
            authenticated_since_created: since_created(session.authenticated_at()),
            last_seen_since_created: since_created(session.last_seen_at()),
            expires_since_created: since_created(session.expires_at()),
            idle_timeout_s: session.idle_timeout().map(|idle| idle.as_secs()),
            persistent: session.is_persistent(),
            user_id_bytes: session.user_id().len(),
        }
    }

    /// Builds the entry. Returns `None` if the texts are not a user id and JSON.
    fn into_entry(self, texts: &str, store_id: StoreId) -> Option<Entry> {
        let after = |base: i64, micros: i64| base.wrapping_add(micros);
        let created_at = after(self.read_at, self.created_since_read);
        let after_created = |micros| Timestamp::from_micros(after(created_at, micros));
        let session = SessionFields {
            id: SessionId::from_bytes(self.id),
            version: self.version,
            created_at: Timestamp::from_micros(created_at),
            authenticated_at: after_created(self.authenticated_since_created),
            last_seen_at: after_created(self.last_seen_since_created),
            expires_at: after_created(self.expires_since_created),
            idle_timeout: self.idle_timeout_s.map(|idle| Duration::from_secs(idle).into()),
            persistent: self.persistent,
            user_id_bytes: self.user_id_bytes,
        };
        Some(Entry {
            session: session.with_texts(texts)?,
            user_epoch: self.user_epoch,
            store_id,
            xmin: self.xmin,
            read_at: Timestamp::from_micros(self.read_at),
            not_after: Timestamp::from_micros(after(self.read_at, self.not_after_since_read)),
        })
    }
}

#[cfg(test)]
mod tests;
