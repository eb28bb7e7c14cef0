use super::*;
use crate::model::session::SessionParts;
use proptest::prelude::*;

const HERE: Incarnation = Incarnation([7; 16]);
const ALICE: TokenDigest = TokenDigest::from_bytes([5; 32]);
const BOB: TokenDigest = TokenDigest::from_bytes([6; 32]);
const KEY: &[u8] = b"app:2:alice";
const AT: EntryContext<'_> = EntryContext { key: KEY, digest: &ALICE, incarnation: HERE };

/// Returns sealing keys with these IDs. Each secret is derived from its ID.
fn keys(ids: &str) -> SealingKeys {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let with_secret = |id: &str| {
        let secret: Vec<u8> = id.bytes().cycle().take(32).collect();
        format!("{id}:{}", engine.encode(secret))
    };
    let texts: Vec<String> = ids.split(' ').map(with_secret).collect();
    texts.join(",").parse().unwrap()
}

fn entry(user: &str, data: &str, number: i64) -> Entry {
    let at = Timestamp::from_micros(number);
    let parts = SessionParts {
        version: number,
        expires_at: at,
        idle_timeout: (number % 2 == 0).then_some(Duration::from_secs(60)),
        persistent: number % 3 == 0,
        data: crate::model::session::data_to_json(data).unwrap(),
        ..SessionParts::new(SessionId::from_bytes([3; 16]), user, at)
    };
    Entry {
        session: parts.into(),
        user_epoch: number,
        store_id: [9; 16],
        xmin: 42,
        read_at: at,
        not_after: at,
    }
}

fn plain(entry: &Entry) -> Vec<u8> {
    entry_value(entry, &AT, None).unwrap()
}

fn sealed(entry: &Entry, ids: &str) -> Vec<u8> {
    entry_value(entry, &AT, Some(&keys(ids))).unwrap()
}

fn read(value: &[u8]) -> Found {
    decode(value.to_vec(), &AT, None)
}

fn unseal(value: &[u8], ids: &str) -> Found {
    decode(value.to_vec(), &AT, Some(&keys(ids)))
}

/// Returns why the value is rejected, or `None` if it is not.
fn rejected(found: &Found) -> Option<EntryRejection> {
    match found {
        Found::Rejected(why) => Some(*why),
        _ => None,
    }
}

proptest! {
    #[test]
    fn entry_survives_a_round_trip(
        user in "[^\0]{1,200}",
        data in "[^\0]{0,300}",
        number: i64,
        seal: bool,
    ) {
        let before = entry(&user, &data, number);
        let keys = seal.then(|| keys("a b"));
        let value = entry_value(&before, &AT, keys.as_ref()).unwrap();
        let Found::Entry(after) = decode(value, &AT, keys.as_ref()) else {
            return Err(TestCaseError::fail("not an entry"));
        };
        let parts = |entry: &Entry| format!("{:?}", entry.session.parts());
        prop_assert_eq!(parts(&before), parts(&after));
        prop_assert_eq!((before.store_id, before.xmin, before.read_at, before.not_after),
                        (after.store_id, after.xmin, after.read_at, after.not_after));
    }

    #[test]
    fn garbage_is_rejected_without_panic(bytes: Vec<u8>) {
        for mark in ["", "Vp", "Vs"] {
            let value = [mark.as_bytes(), &bytes].concat();
            prop_assert!(!matches!(unseal(&value, "a"), Found::Entry(_)));
            let plainly = read(&value);
            prop_assert!(mark == "Vp" || !matches!(plainly, Found::Entry(_)));
        }
    }

    #[test]
    fn a_cut_or_lengthened_entry_is_rejected(cut in 2_usize..200, more in 1_usize..9, seal: bool) {
        let keys = seal.then(|| keys("a"));
        let value = entry_value(&entry("alice", "d", 5), &AT, keys.as_ref()).unwrap();
        let cut = cut.min(value.len() - 1);
        let longer = [value.clone(), vec![0; more]].concat();
        for changed in [&value[..cut], &longer] {
            let why = rejected(&decode(changed.to_vec(), &AT, keys.as_ref()));
            prop_assert!(
                matches!(why, Some(EntryRejection::Undecodable | EntryRejection::Forged)),
                "{why:?}"
            );
        }
    }

    // Changes a sealed entry at up to four places.
    #[test]
    fn a_sealed_entry_with_other_bytes_never_opens(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..5),
    ) {
        let value = sealed(&entry("alice", "d", 5), "a");
        let mut changed = value.clone();
        for (at, by) in changes {
            let at = at.index(changed.len());
            changed[at] ^= by;
        }
        prop_assume!(changed != value);
        prop_assert!(rejected(&unseal(&changed, "a")).is_some());
    }
}

#[test]
fn any_changed_bit_of_a_sealed_entry_is_rejected() {
    let value = sealed(&entry("alice", "d", 5), "a");
    for at in 0..value.len() {
        for bit in 0..8 {
            let mut changed = value.clone();
            changed[at] ^= 1 << bit;
            let why = rejected(&unseal(&changed, "a"));
            let expected = match at {
                // The mark. A wrong length of the key ID may lead past the end, or into the ID.
                0 | 1 | 34 => why.is_some(),
                35 => why == Some(EntryRejection::UnknownKey),
                // The header is authenticated: a changed incarnation or store id does not open.
                _ => why == Some(EntryRejection::Forged),
            };
            assert!(expected, "byte {at}, bit {bit}: {why:?}");
        }
    }
}

#[test]
fn sealed_entry_opens_only_in_its_own_place() {
    let value = sealed(&entry("alice", "d", 5), "a");
    let places = [
        (AT, None),
        // The keys of another session and of another application.
        (EntryContext { key: b"app:2:bob", digest: &BOB, ..AT }, Some(EntryRejection::Forged)),
        (EntryContext { key: b"shop:2:alice", ..AT }, Some(EntryRejection::Forged)),
        (
            EntryContext { incarnation: Incarnation([8; 16]), ..AT },
            Some(EntryRejection::StaleIncarnation),
        ),
    ];
    for (place, expected) in places {
        let found = decode(value.clone(), &place, Some(&keys("a")));
        assert_eq!(rejected(&found), expected, "{place:?}");
    }
    // An entry of another store opens and names that store.
    let Found::Entry(opened) = unseal(&value, "a") else { panic!("the value is not an entry") };
    assert_eq!(opened.store_id, [9; 16]);
}

#[test]
fn first_key_seals_and_any_key_opens() {
    let value = sealed(&entry("alice", "d", 5), "old");
    for (keys, expected) in [
        ("old", None),
        ("new old", None),
        ("old new", None),
        ("new", Some(EntryRejection::UnknownKey)),
    ] {
        assert_eq!(rejected(&unseal(&value, keys)), expected, "{keys}");
    }
    let by_the_first = sealed(&entry("alice", "d", 5), "new old");
    assert_eq!(rejected(&unseal(&by_the_first, "new")), None);
    assert_eq!(rejected(&unseal(&by_the_first, "old")), Some(EntryRejection::UnknownKey));
}

// Two environments use one ID for two keys. The key of the other environment does not open.
#[test]
fn same_id_with_another_key_does_not_open() {
    let value = sealed(&entry("alice", "d", 5), "a");
    let same_id: SealingKeys = format!("a:{}A=", "B".repeat(42)).parse().unwrap();
    let found = decode(value, &AT, Some(&same_id));
    assert_eq!(rejected(&found), Some(EntryRejection::Forged));
}

// Otherwise, any client with write access to Redis could plant plain entries.
#[test]
fn plain_is_rejected_with_keys_and_sealed_without() {
    let alice = entry("alice", "d", 5);
    assert_eq!(rejected(&read(&plain(&alice))), None);
    assert_eq!(rejected(&unseal(&plain(&alice), "a")), Some(EntryRejection::Unsealed));
    assert_eq!(rejected(&read(&sealed(&alice, "a"))), Some(EntryRejection::UnknownKey));
}

#[test]
fn sealed_entry_hides_its_session_and_never_repeats() {
    let alice = entry("alice-of-the-test", "her secret data", 5);
    let (one, two) = (sealed(&alice, "a"), sealed(&alice, "a"));
    for text in ["alice", "secret", "data"] {
        let found = one.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!found, "{text}");
    }
    assert_ne!(one[2 + 32 + 2..], two[2 + 32 + 2..]);
}

#[test]
fn oversized_value_is_rejected_before_decoding() {
    for mark in ["Vp", "Vs", "L", "x"] {
        let mut value = mark.as_bytes().to_vec();
        value.resize(MAX_VALUE_BYTES + 1, 0);
        let why = rejected(&unseal(&value, "a"));
        assert_eq!(why, Some(EntryRejection::TooLarge), "{mark}");
    }
}

#[test]
fn entry_of_another_incarnation_is_rejected() {
    let elsewhere = EntryContext { incarnation: Incarnation([8; 16]), ..AT };
    let value = plain(&entry("alice", "d", 5));
    let found = decode(value, &elsewhere, None);
    assert_eq!(rejected(&found), Some(EntryRejection::StaleIncarnation));
}

#[test]
fn leases_and_fences_are_held() {
    assert!(matches!(read(&lease_value(&[1; 16])), Found::Held));
    assert!(matches!(read(FENCE_VALUE), Found::Held));
    // A planted value of similar form must not keep a session out of the cache forever.
    for planted in [b"L".as_slice(), b"Lease", b"Lexactly 17 bytes", b"TT"] {
        let held = matches!(read(planted), Found::Held);
        assert_eq!(held, planted.len() == 17, "{planted:?}");
    }
}

#[test]
fn a_plain_entry_copied_from_another_key_is_undecodable() {
    let bobs = EntryContext { key: b"app:2:bob", digest: &BOB, ..AT };
    let value = entry_value(&entry("bob", "d", 5), &bobs, None).unwrap();
    assert_eq!(rejected(&read(&value)), Some(EntryRejection::Undecodable));
    assert!(matches!(decode(value, &bobs, None), Found::Entry(_)));
}

// Entries written by this version are read by every later one with the same number. If this test
// fails, raise [`FORMAT`].
#[test]
fn plain_encoding_matches_its_format_number() {
    let expected = [b"Vp".as_slice(), &[7; 16], &[5; 8], &[9; 16], &BODY_OF_ALICE].concat();
    assert_eq!((FORMAT, plain(&entry("alice", "d", 4))), ("2", expected));
}

// The same for the sealed encoding. libsodium sealed this value.
#[test]
fn sealed_encoding_matches_its_format_number() {
    let sealed_once = [b"Vs".as_slice(), &[7; 16], &[9; 16], b"\x03old", &SEALED_ONCE].concat();
    let Found::Entry(opened) = unseal(&sealed_once, "new old") else {
        panic!("the value is not an entry")
    };
    assert_eq!((FORMAT, plain(&opened)), ("2", plain(&entry("alice", "d", 4))));
}

const BODY_OF_ALICE: [u8; 37] =
    *b"\x08\x2a\x08\x00\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\
      \x08\x00\x00\x00\x00\x01\x3c\x00\x05alice\"d\"";

/// The nonce, [`BODY_OF_ALICE`] sealed by libsodium with the key `old` for [`KEY`], and the tag.
const SEALED_ONCE: [u8; 24 + 37 + 16] =
    *b"\xb6\xb1\x90\x6e\x1d\xf0\xd4\x09\x62\x1c\x10\x86\x57\x71\x71\x7b\x22\x22\x20\x5d\
      \x2e\x29\x56\x40\xfe\xe3\x6e\x12\xf2\x2b\x95\xf8\xef\x33\xd2\x2b\x32\xd8\x0c\x9c\
      \x37\x52\xc1\xfc\x15\x4a\xa7\x5c\xdc\x82\xfa\xaa\x98\x6c\xf3\x7c\x5d\xad\xbe\xa8\
      \xa3\x88\x7d\xd2\x72\x37\xf4\xc6\x6d\x31\x3c\x21\x74\x4d\x46\x0a\x46";

#[test]
fn a_key_has_namespace_format_and_digest() {
    let digest = TokenDigest::from_bytes([0; 32]);
    let expected = format!("app:2:{}", "A".repeat(43));
    assert_eq!(Key::new("app", &digest).as_bytes(), expected.as_bytes());
}
