//! What stands under a key of the shared cache, as bytes.
//!
//! | begins with | value | who writes it |
//! |---|---|---|
//! | `L` | a lease: `L` and 16 random bytes, never used twice | whoever missed |
//! | `Vp` | a session, plain: header, digest, body | whoever holds the lease, without a key to seal |
//! | `Vs` | a session, sealed: header, key ID, nonce, body ([`sealed`]) | whoever holds the lease, with one |
//! | `T` | a fence: `T` | whoever changes a session |
//!
//! The header says which incarnation and which store the session is from, the body is an [`Entry`]
//! in postcard's encoding. A node with keys accepts no `Vp`, or sealing would be worth nothing; one
//! without them no `Vs`, which it can't read.
//!
//! The key carries [`FORMAT`], so that two versions of a service side by side don't fight over one
//! key: each sees only what it can read. What can't be decoded all the same is a miss.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

mod sealed;

use crate::cache::Entry;
use crate::clock::Timestamp;
use crate::error::RandomError;
use crate::seal::SealingKeys;
use crate::session::{MAX_DATA_BYTES, SessionId, SessionParts};
use crate::store::StoreId;
use crate::token::TokenDigest;

/// The version of the encoding below. Any change to what was released takes the next number.
pub(crate) const FORMAT: u32 = 1;

/// The fence.
pub(crate) const FENCE_VALUE: &[u8] = b"T";

/// The largest value that is written or looked into: 256 KiB. A session's data may be 64 KiB; Postgres
/// prints it with spaces, and numbers in full, so it may come back longer.
pub(crate) const MAX_VALUE_BYTES: usize = 4 * MAX_DATA_BYTES;

/// Which server, and which life of it, a connection leads to: two servers, or one server before and
/// after a restart or a promotion, are different incarnations. An entry of another incarnation may
/// have missed an invalidation and is never served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Incarnation(pub(crate) [u8; 16]);

/// The random part of a lease.
pub(crate) type Nonce = [u8; 16];

/// The key of a session: `<namespace>:<format>:<digest>`. Without braces, which in a cluster would
/// be a hash tag.
pub(crate) fn key(namespace: &str, digest: &TokenDigest) -> String {
    format!("{namespace}:{FORMAT}:{}", digest.to_base64url())
}

/// A lease's value.
pub(crate) fn lease_value(nonce: &Nonce) -> Vec<u8> {
    [b"L".as_slice(), nonce].concat()
}

/// Where a value stands: what an entry there is bound to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The whole key.
    pub(crate) key: &'a str,
    /// The digest in it.
    pub(crate) digest: &'a TokenDigest,
    pub(crate) incarnation: Incarnation,
}

/// What stands in front of a session, in the clear.
#[derive(Debug, Clone, Copy)]
struct Header {
    incarnation: Incarnation,
    store_id: StoreId,
}

const PLAIN_MARK: &[u8; 2] = b"Vp";

/// A session's value, sealed where there are keys.
///
/// # Errors
/// Where there are no random bytes to seal it with.
pub(crate) fn entry_value(
    entry: &Entry,
    place: &Place<'_>,
    keys: Option<&SealingKeys>,
) -> Result<Vec<u8>, RandomError> {
    let header = Header {
        incarnation: place.incarnation,
        store_id: entry.store_id,
    };
    // Serializing into a growing vector has nothing to fail on; were it to, what comes out would be
    // a value that nobody decodes.
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

/// What was found under a key.
#[derive(Debug)]
pub(crate) enum Found {
    /// A session's copy of this incarnation. Whether it is believed is decided elsewhere.
    Entry(Entry),
    /// Someone's lease, or a fence.
    Held,
    /// What can never be served.
    Rejected(Rejection),
}

/// Why a value can never be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// No value of ours, or one that is broken or stands under another key than its own.
    Undecodable,
    /// Longer than any value of ours.
    TooLarge,
    /// Not sealed, where sealed ones alone are accepted.
    Unsealed,
    /// Sealed with a key that is not one of ours.
    UnknownKey,
    /// Said to be sealed with a key of ours, for this Redis key, and was not.
    Forged,
    /// Another incarnation's.
    Outlived,
}

/// Reads the value at `place`.
pub(crate) fn decode(value: &[u8], place: &Place<'_>, keys: Option<&SealingKeys>) -> Found {
    // Before anything is decrypted or copied.
    if value.len() > MAX_VALUE_BYTES {
        return Found::Rejected(Rejection::TooLarge);
    }
    match value {
        [b'L', nonce @ ..] if nonce.len() == size_of::<Nonce>() => Found::Held,
        FENCE_VALUE => Found::Held,
        [b'V', b'p' | b's', ..] => {
            decode_entry(value, place, keys).map_or_else(Found::Rejected, Found::Entry)
        }
        _ => Found::Rejected(Rejection::Undecodable),
    }
}

fn decode_entry(
    value: &[u8],
    place: &Place<'_>,
    keys: Option<&SealingKeys>,
) -> Result<Entry, Rejection> {
    if let Some(sealed) = value.strip_prefix(sealed::MARK) {
        let keys = keys.ok_or(Rejection::UnknownKey)?;
        let (header, body) = sealed::open(keys, place.key, sealed)?;
        return read_entry(&header, &body, place);
    }
    let plain = value
        .strip_prefix(PLAIN_MARK)
        .ok_or(Rejection::Undecodable)?;
    if keys.is_some() {
        return Err(Rejection::Unsealed);
    }
    let (header, body) = split_plain(plain, place.digest).ok_or(Rejection::Undecodable)?;
    read_entry(&header, body, place)
}

/// `None` also where it was copied here from another key.
fn split_plain<'a>(plain: &'a [u8], digest: &TokenDigest) -> Option<(Header, &'a [u8])> {
    let (incarnation, rest) = plain.split_first_chunk()?;
    let rest = rest.strip_prefix(digest.as_bytes())?;
    let (store_id, body) = rest.split_first_chunk()?;
    let header = Header {
        incarnation: Incarnation(*incarnation),
        store_id: *store_id,
    };
    Some((header, body))
}

fn read_entry(header: &Header, body: &[u8], place: &Place<'_>) -> Result<Entry, Rejection> {
    if header.incarnation != place.incarnation {
        return Err(Rejection::Outlived);
    }
    match postcard::take_from_bytes::<Body<'_>>(body) {
        Ok((body, [])) => body.into_entry(header.store_id),
        _ => None,
    }
    .ok_or(Rejection::Undecodable)
}

/// An [`Entry`] without what is in the header. Moments are in microseconds since 1970.
#[derive(Serialize, Deserialize)]
struct Body<'a> {
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

    /// `None` where the data is no JSON.
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
            store_id,
            xmin: self.xmin,
            read_at: Timestamp::from_micros(self.read_at),
            not_after: Timestamp::from_micros(self.not_after),
        })
    }
}

#[cfg(test)]
mod tests;
