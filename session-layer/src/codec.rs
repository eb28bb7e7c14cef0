//! What stands under a key of the shared cache, as bytes.
//!
//! | first byte | value | who writes it |
//! |---|---|---|
//! | `L` | a lease: `L` and 16 random bytes, never used twice | whoever missed |
//! | `V` | a session: `Vp` and an [`Entry`] with the incarnation it was sealed under | whoever holds the lease |
//! | `T` | a fence: `T` | whoever changes a session |
//!
//! The key carries [`FORMAT`], so that two versions of a service side by side don't fight over one
//! key: each sees only what it can read. What can't be decoded all the same is a miss.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cache::Entry;
use crate::clock::Timestamp;
use crate::session::{SessionId, SessionParts};
use crate::token::TokenDigest;

/// The version of the encoding below. Any change to it takes the next number.
pub(crate) const FORMAT: u32 = 1;

/// The fence.
pub(crate) const FENCE_VALUE: &[u8] = b"T";

/// Which server, and which life of it, a connection leads to: two servers, or one server before and
/// after a restart or a promotion, are different incarnations. An entry of another incarnation may
/// have missed an invalidation and is never served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// A session's value.
pub(crate) fn entry_value(
    entry: &Entry,
    digest: &TokenDigest,
    incarnation: Incarnation,
) -> Vec<u8> {
    let parts = entry.session.parts();
    let wire = Wire {
        incarnation,
        digest: *digest.as_bytes(),
        store_id: entry.store_id,
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
    };
    let start = b"Vp".to_vec();
    // Serializing into a growing vector has nothing to fail on; were it to, what comes out would be
    // a value that nobody decodes.
    postcard::to_extend(&wire, start).unwrap_or_default()
}

/// What was found under a key.
#[derive(Debug)]
pub(crate) enum Found {
    /// A session's copy of this incarnation. Whether it is believed is decided elsewhere.
    Entry(Entry),
    /// A session's copy that can never be served: another incarnation's.
    Outlived,
    /// Someone's lease, or a fence.
    Held,
    /// No value of ours, or one that is broken.
    Undecodable,
}

/// Reads a value.
pub(crate) fn decode(value: &[u8], digest: &TokenDigest, present: Incarnation) -> Found {
    match value {
        [b'L', nonce @ ..] if nonce.len() == size_of::<Nonce>() => Found::Held,
        FENCE_VALUE => Found::Held,
        [b'V', b'p', wire @ ..] => match postcard::take_from_bytes::<Wire<'_>>(wire) {
            // Copied here from another key.
            Ok((wire, [])) if wire.digest != *digest.as_bytes() => Found::Undecodable,
            Ok((wire, [])) if wire.incarnation != present => Found::Outlived,
            Ok((wire, [])) => wire.into_entry().map_or(Found::Undecodable, Found::Entry),
            _ => Found::Undecodable,
        },
        _ => Found::Undecodable,
    }
}

/// An [`Entry`] in postcard's encoding. Moments are in microseconds since 1970.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    incarnation: Incarnation,
    digest: [u8; 32],
    store_id: [u8; 16],
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
}

impl Wire<'_> {
    /// `None` where the data is no JSON.
    fn into_entry(self) -> Option<Entry> {
        let parts = SessionParts {
            id: SessionId::from_bytes(self.id),
            user_id: self.user_id.to_owned(),
            version: self.version,
            created_at: Timestamp::from_micros(self.created_at),
            authenticated_at: Timestamp::from_micros(self.authenticated_at),
            last_seen_at: Timestamp::from_micros(self.last_seen_at),
            expires_at: Timestamp::from_micros(self.expires_at),
            idle_timeout: self.idle_timeout_s.map(Duration::from_secs),
            data: RawValue::from_string(self.data.to_owned()).ok()?,
        };
        Some(Entry {
            session: parts.into(),
            store_id: self.store_id,
            xmin: self.xmin,
            read_at: Timestamp::from_micros(self.read_at),
            not_after: Timestamp::from_micros(self.not_after),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HERE: Incarnation = Incarnation([7; 16]);
    const ALICE: TokenDigest = TokenDigest::from_bytes([5; 32]);

    fn read(value: &[u8]) -> Found {
        decode(value, &ALICE, HERE)
    }

    fn entry(user: &str, data: &str, number: i64) -> Entry {
        let at = Timestamp::from_micros(number);
        let parts = SessionParts {
            id: SessionId::from_bytes([3; 16]),
            user_id: user.to_owned(),
            version: number,
            created_at: at,
            authenticated_at: at,
            last_seen_at: at,
            expires_at: at,
            idle_timeout: (number % 2 == 0).then_some(Duration::from_secs(60)),
            data: crate::session::data_to_json(data).unwrap(),
        };
        Entry {
            session: parts.into(),
            store_id: [9; 16],
            xmin: 42,
            read_at: at,
            not_after: at,
        }
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_as_it_was(user in "[^\0]{1,200}", data in "[^\0]{0,300}", number: i64) {
            let before = entry(&user, &data, number);
            let Found::Entry(after) = read(&entry_value(&before, &ALICE, HERE)) else {
                return Err(TestCaseError::fail("not an entry"));
            };
            prop_assert_eq!(format!("{:?}", before.session.parts()), format!("{:?}", after.session.parts()));
            prop_assert_eq!((before.store_id, before.xmin, before.read_at, before.not_after),
                            (after.store_id, after.xmin, after.read_at, after.not_after));
        }

        #[test]
        fn garbage_is_never_an_entry_and_never_panics(bytes: Vec<u8>) {
            prop_assert!(!matches!(read(&bytes), Found::Entry(_)));
            let looks_like_ours = [b"Vp".as_slice(), &bytes].concat();
            let _ = read(&looks_like_ours);
        }

        #[test]
        fn a_cut_or_lengthened_entry_is_undecodable(cut in 2_usize..100, more in 1_usize..9) {
            let value = entry_value(&entry("alice", "d", 5), &ALICE, HERE);
            prop_assert!(matches!(read(&value[..cut.min(value.len() - 1)]), Found::Undecodable));
            let longer = [value, vec![0; more]].concat();
            prop_assert!(matches!(read(&longer), Found::Undecodable));
        }
    }

    #[test]
    fn another_incarnations_entry_has_outlived_it() {
        let value = entry_value(&entry("alice", "d", 5), &ALICE, HERE);
        assert!(matches!(
            decode(&value, &ALICE, Incarnation([8; 16])),
            Found::Outlived
        ));
    }

    #[test]
    fn leases_and_fences_are_held() {
        assert!(matches!(read(&lease_value(&[1; 16])), Found::Held));
        assert!(matches!(read(FENCE_VALUE), Found::Held));
        // Whoever plants something like them does not keep a session out of the cache for ever.
        for planted in [b"L".as_slice(), b"Lease", b"Lexactly 17 bytes", b"TT"] {
            let held = matches!(read(planted), Found::Held);
            assert_eq!(held, planted.len() == 17, "{planted:?}");
        }
    }

    #[test]
    fn an_entry_copied_from_another_key_is_undecodable() {
        let bobs = TokenDigest::from_bytes([6; 32]);
        let value = entry_value(&entry("bob", "d", 5), &bobs, HERE);
        assert!(matches!(read(&value), Found::Undecodable));
        assert!(matches!(decode(&value, &bobs, HERE), Found::Entry(_)));
    }

    /// Entries written by this version are read by every later one with the same number. If this test
    /// fails, [`FORMAT`] must be raised.
    #[test]
    fn the_encoding_is_that_of_its_format_number() {
        let value = entry_value(&entry("alice", "d", 4), &ALICE, HERE);
        let expected = [
            b"Vp".as_slice(),
            &[7; 16],
            &[5; 32],
            &[9; 16],
            &[42, 8, 8],
            &[3; 16],
            &[8, 8, 8, 8, 8, 1, 60, 5],
            b"alice",
            &[3],
            br#""d""#,
        ]
        .concat();
        assert_eq!((FORMAT, value), (1, expected));
    }

    #[test]
    fn a_key_has_namespace_format_and_digest() {
        let digest = TokenDigest::from_bytes([0; 32]);
        assert_eq!(key("app", &digest), format!("app:1:{}", "A".repeat(43)));
    }
}
