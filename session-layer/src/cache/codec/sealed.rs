//! The sealing of entries: encryption against readers of Redis, and detection of forgeries.
//!
//! The cipher is XChaCha20-Poly1305 with a nonce of 24 random bytes, long enough that no two
//! collide. The header in front of an entry is plain. The header and the Redis key are *associated
//! data*: an entry opens only under the key and with the header that it was sealed for.
//!
//! It is therefore enough to compare the header with this node's own values. The incarnation is
//! compared here, the store id in `engine/freshness.rs`. An entry that was sealed elsewhere
//! either names its origin or does not open. A forgery never opens.

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use smallvec::SmallVec;

use super::{EntryRejection, Header, Incarnation};
use crate::cache::seal::{MAX_KEY_ID_CHARS, SealingKey, SealingKeys};
use crate::model::error::RandomError;

/// The prefix of a sealed value.
pub(super) const MARK: &[u8; 2] = b"Vs";
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// Seals the output of `body` for this Redis key. The value consists of mark, header, key ID,
/// nonce, sealed body and tag.
pub(super) fn seal(
    keys: &SealingKeys,
    header: &Header,
    redis_key: &[u8],
    body: impl FnOnce(Vec<u8>) -> Vec<u8>,
) -> Result<Vec<u8>, RandomError> {
    let sealing = keys.first();
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(RandomError::from_source)?;
    let mut value = clear_part(header, &sealing.id);
    let associated = associated(&[&value, redis_key]);
    value.extend_from_slice(&nonce);
    let start = value.len();
    let mut value = body(value);
    let sealed = cipher(sealing).encrypt_inout_detached(
        &XNonce::from(nonce),
        &associated,
        value.get_mut(start..).unwrap_or_default().into(),
    );
    match sealed {
        Ok(tag) => value.extend_from_slice(&tag),
        // The cipher rejects more than 256 GiB. An empty value never opens.
        Err(_too_long) => value.clear(),
    }
    Ok(value)
}

/// Opens a sealed value in its place, for this Redis key. Returns its header, and where its plain
/// body starts. The body then reaches to the end of the value.
pub(super) fn open(
    keys: &SealingKeys,
    redis_key: &[u8],
    value: &mut Vec<u8>,
) -> Result<(Header, usize), EntryRejection> {
    let parts = split(value).ok_or(EntryRejection::Undecodable)?;
    let key = keys.find(parts.key_id).ok_or(EntryRejection::UnknownKey)?;
    let associated = associated(&[MARK, parts.clear, redis_key]);
    let (header, nonce, tag) = (parts.header, XNonce::from(*parts.nonce), Tag::from(*parts.tag));
    let (start, end) = (MARK.len() + parts.clear.len() + NONCE_BYTES, value.len() - TAG_BYTES);
    let sealed = value.get_mut(start..end).ok_or(EntryRejection::Undecodable)?;
    cipher(key)
        .decrypt_inout_detached(&nonce, &associated, sealed.into(), &tag)
        .map_err(|_forged| EntryRejection::Forged)?;
    value.truncate(end);
    Ok((header, start))
}

/// Returns the part in front of the nonce.
fn clear_part(header: &Header, key_id: &str) -> Vec<u8> {
    // An ID has at most 32 characters.
    let length = u8::try_from(key_id.len()).unwrap_or_default();
    [MARK.as_slice(), &header.incarnation.0, &header.store_id, &[length], key_id.as_bytes()]
        .concat()
}

/// Returns the associated data: the clear part and the Redis key. The clear part contains its own
/// length, so that no two pairs of them are equal.
fn associated(parts: &[&[u8]]) -> SmallVec<[u8; 160]> {
    let mut data = SmallVec::new();
    parts.iter().for_each(|part| data.extend_from_slice(part));
    data
}

fn cipher(key: &SealingKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&*key.secret).into())
}

struct Parts<'a> {
    header: Header,
    key_id: &'a [u8],
    /// The header and the key ID as encoded.
    clear: &'a [u8],
    nonce: &'a [u8; NONCE_BYTES],
    tag: &'a [u8; TAG_BYTES],
}

fn split(value: &[u8]) -> Option<Parts<'_>> {
    let value = value.strip_prefix(MARK)?;
    let (incarnation, rest) = value.split_first_chunk()?;
    let (store_id, rest) = rest.split_first_chunk()?;
    let (&length, rest) = rest.split_first()?;
    let length = usize::from(length);
    if !(1..=MAX_KEY_ID_CHARS).contains(&length) {
        return None;
    }
    let (key_id, rest) = rest.split_at_checked(length)?;
    let clear = value.get(..value.len() - rest.len())?;
    let (nonce, rest) = rest.split_first_chunk()?;
    let (_sealed, tag) = rest.split_last_chunk()?;
    Some(Parts {
        header: Header { incarnation: Incarnation(*incarnation), store_id: *store_id },
        key_id,
        clear,
        nonce,
        tag,
    })
}
