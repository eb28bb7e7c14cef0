//! The encoding of the values in the shared cache.
//!
//! | prefix | value | written by |
//! |---|---|---|
//! | `L` | a lease: 16 random bytes, never reused | a node that missed |
//! | `Vp` | a plain session: header, digest, body | a lease holder without a sealing key |
//! | `Vs` | a [`sealed`] session: header, key ID, nonce, body | a lease holder with one |
//! | `T` | a fence | a node that changes a session |
//!
//! The header names the incarnation and the store of the session. The body is an [`Entry`] in
//! postcard's encoding. A node with keys accepts no `Vp`, because a planted one would bypass
//! sealing. A node without keys accepts no `Vs`, because it cannot read one.
//!
//! The key contains [`FORMAT`], so that two versions of a service do not compete for one key. Each
//! version sees only values that it can read. A value that does not decode is a miss.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use smallvec::SmallVec;

mod sealed;

use crate::cache::Entry;
use crate::cache::seal::SealingKeys;
use crate::model::clock::Timestamp;
use crate::model::error::RandomError;
use crate::model::identity::StoreId;
use crate::model::session::{MAX_DATA_BYTES, SessionId, SessionParts};
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
    let body = |start| postcard::to_extend(&Body::of(entry), start).unwrap_or_default();
    match keys {
        Some(keys) => sealed::seal(keys, &header, place.key, body),
        None => Ok(body(
            [
                PLAIN_MARK.as_slice(),
                &header.incarnation.0,
                place.digest.as_bytes(),
                &header.store_id,
            ]
            .concat(),
        )),
    }
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

/// Decodes the value at `place`.
pub(crate) fn decode(value: &[u8], place: &EntryContext<'_>, keys: Option<&SealingKeys>) -> Found {
    // Checked before anything is decrypted or copied.
    if value.len() > MAX_VALUE_BYTES {
        return Found::Rejected(EntryRejection::TooLarge);
    }
    match value {
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
    match (value.strip_prefix(sealed::MARK), keys) {
        (Some(sealed), Some(keys)) => sealed::open(keys, redis_key, sealed).err(),
        (Some(_), None) => Some(EntryRejection::UnknownKey),
        (None, Some(_)) if value.starts_with(PLAIN_MARK) => Some(EntryRejection::Unsealed),
        (None, _) => None,
    }
}

fn decode_entry(
    value: &[u8],
    place: &EntryContext<'_>,
    keys: Option<&SealingKeys>,
) -> Result<Entry, EntryRejection> {
    if let Some(sealed) = value.strip_prefix(sealed::MARK) {
        let keys = keys.ok_or(EntryRejection::UnknownKey)?;
        let (header, body) = sealed::open(keys, place.key, sealed)?;
        return read_entry(&header, &body, place);
    }
    let plain = value.strip_prefix(PLAIN_MARK).ok_or(EntryRejection::Undecodable)?;
    if keys.is_some() {
        return Err(EntryRejection::Unsealed);
    }
    let (header, body) = split_plain(plain, place.digest).ok_or(EntryRejection::Undecodable)?;
    read_entry(&header, body, place)
}

/// Splits a plain value. Returns `None` also if the value was moved from another key.
fn split_plain<'a>(plain: &'a [u8], digest: &TokenDigest) -> Option<(Header, &'a [u8])> {
    let (incarnation, rest) = plain.split_first_chunk()?;
    let rest = rest.strip_prefix(digest.as_bytes())?;
    let (store_id, body) = rest.split_first_chunk()?;
    let header = Header { incarnation: Incarnation(*incarnation), store_id: *store_id };
    Some((header, body))
}

fn read_entry(
    header: &Header,
    body: &[u8],
    place: &EntryContext<'_>,
) -> Result<Entry, EntryRejection> {
    if header.incarnation != place.incarnation {
        return Err(EntryRejection::StaleIncarnation);
    }
    match postcard::take_from_bytes::<Body<'_>>(body) {
        Ok((body, [])) => body.into_entry(header.store_id),
        _ => None,
    }
    .ok_or(EntryRejection::Undecodable)
}

/// An [`Entry`] without the fields of the header. Timestamps are microseconds since 1970.
#[derive(Serialize, Deserialize)]
struct Body<'a> {
    user_epoch: i64,
    xmin: u64,
    read_at: i64,
    not_after: i64,
    id: [u8; 16],
    version: i64,
    created_at: i64,
    authenticated_at: i64,
    last_seen_at: i64,
    expires_at: i64,
    idle_timeout_s: Option<u64>,
    user_id: &'a str,
    data: &'a str,
    persistent: bool,
}

impl<'a> Body<'a> {
    fn of(entry: &'a Entry) -> Self {
        let parts = entry.session.parts();
        Self {
            user_epoch: entry.user_epoch,
            xmin: entry.xmin,
            read_at: entry.read_at.as_micros(),
            not_after: entry.not_after.as_micros(),
            id: *parts.id.as_bytes(),
            version: parts.version,
            created_at: parts.created_at.as_micros(),
            authenticated_at: parts.authenticated_at.as_micros(),
            last_seen_at: parts.last_seen_at.as_micros(),
            expires_at: parts.expires_at.as_micros(),
            idle_timeout_s: parts.idle_timeout.map(|idle| idle.as_secs()),
            user_id: &parts.user_id,
            data: parts.data.get(),
            persistent: parts.persistent,
        }
    }

    /// Builds the entry. Returns `None` if the data is not JSON.
    fn into_entry(self, store_id: StoreId) -> Option<Entry> {
        let parts = SessionParts {
            id: SessionId::from_bytes(self.id),
            user_id: self.user_id.to_owned(),
            version: self.version,
            created_at: Timestamp::from_micros(self.created_at),
            authenticated_at: Timestamp::from_micros(self.authenticated_at),
            last_seen_at: Timestamp::from_micros(self.last_seen_at),
            expires_at: Timestamp::from_micros(self.expires_at),
            idle_timeout: self.idle_timeout_s.map(Duration::from_secs),
            persistent: self.persistent,
            data: RawValue::from_string(self.data.to_owned()).ok()?,
        };
        Some(Entry {
            session: parts.into(),
            user_epoch: self.user_epoch,
            store_id,
            xmin: self.xmin,
            read_at: Timestamp::from_micros(self.read_at),
            not_after: Timestamp::from_micros(self.not_after),
        })
    }
}

#[cfg(test)]
mod tests;
