use super::*;
use proptest::prelude::*;

const HERE: Incarnation = Incarnation([7; 16]);
const ALICE: TokenDigest = TokenDigest::from_bytes([5; 32]);
const BOB: TokenDigest = TokenDigest::from_bytes([6; 32]);
const KEY: &str = "app:1:alice";
const AT: Place<'_> = Place {
    key: KEY,
    digest: &ALICE,
    incarnation: HERE,
};

/// Keys with these IDs; the secret is made of the ID.
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
        id: SessionId::from_bytes([3; 16]),
        user_id: user.to_owned(),
        version: number,
        created_at: at,
        authenticated_at: at,
        last_seen_at: at,
        expires_at: at,
        idle_timeout: (number % 2 == 0).then_some(Duration::from_secs(60)),
        persistent: number % 3 == 0,
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

fn plain(entry: &Entry) -> Vec<u8> {
    entry_value(entry, &AT, None).unwrap()
}

fn sealed(entry: &Entry, ids: &str) -> Vec<u8> {
    entry_value(entry, &AT, Some(&keys(ids))).unwrap()
}

fn read(value: &[u8]) -> Found {
    decode(value, &AT, None)
}

fn unseal(value: &[u8], ids: &str) -> Found {
    decode(value, &AT, Some(&keys(ids)))
}

/// Why it is rejected; `None`: it is not.
fn rejected(found: &Found) -> Option<Rejection> {
    match found {
        Found::Rejected(why) => Some(*why),
        _ => None,
    }
}

proptest! {
    #[test]
    fn an_entry_comes_back_as_it_was(
        user in "[^\0]{1,200}",
        data in "[^\0]{0,300}",
        number: i64,
        seal: bool,
    ) {
        let before = entry(&user, &data, number);
        let keys = seal.then(|| keys("a b"));
        let value = entry_value(&before, &AT, keys.as_ref()).unwrap();
        let Found::Entry(after) = decode(&value, &AT, keys.as_ref()) else {
            return Err(TestCaseError::fail("not an entry"));
        };
        prop_assert_eq!(format!("{:?}", before.session.parts()), format!("{:?}", after.session.parts()));
        prop_assert_eq!((before.store_id, before.xmin, before.read_at, before.not_after),
                        (after.store_id, after.xmin, after.read_at, after.not_after));
    }

    #[test]
    fn garbage_is_never_an_entry_and_never_panics(bytes: Vec<u8>) {
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
            let why = rejected(&decode(changed, &AT, keys.as_ref()));
            prop_assert!(
                matches!(why, Some(Rejection::Undecodable | Rejection::Forged)),
                "{why:?}"
            );
        }
    }

    /// Whatever is changed in a sealed entry, at however many places.
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
fn each_byte_of_a_sealed_entry_counts() {
    let value = sealed(&entry("alice", "d", 5), "a");
    for at in 0..value.len() {
        for bit in 0..8 {
            let mut changed = value.clone();
            changed[at] ^= 1 << bit;
            let why = rejected(&unseal(&changed, "a"));
            let expected = match at {
                // The mark; the length of the key's ID may then lead past the end, or into the ID.
                0 | 1 | 34 => why.is_some(),
                35 => why == Some(Rejection::UnknownKey),
                // Incarnation and store id included: what they say is not believed unless it is true.
                _ => why == Some(Rejection::Forged),
            };
            assert!(expected, "byte {at}, bit {bit}: {why:?}");
        }
    }
}

#[test]
fn a_sealed_entry_opens_in_its_own_place_only() {
    let value = sealed(&entry("alice", "d", 5), "a");
    let places = [
        (AT, None),
        // Another session's key, or another application's.
        (
            Place {
                key: "app:1:bob",
                digest: &BOB,
                ..AT
            },
            Some(Rejection::Forged),
        ),
        (
            Place {
                key: "shop:1:alice",
                ..AT
            },
            Some(Rejection::Forged),
        ),
        (
            Place {
                incarnation: Incarnation([8; 16]),
                ..AT
            },
            Some(Rejection::Outlived),
        ),
    ];
    for (place, expected) in places {
        let found = decode(&value, &place, Some(&keys("a")));
        assert_eq!(rejected(&found), expected, "{place:?}");
    }
    // Of another store: it opens, says so, and can't say otherwise.
    let Found::Entry(opened) = unseal(&value, "a") else {
        panic!("it is not an entry")
    };
    assert_eq!(opened.store_id, [9; 16]);
}

#[test]
fn any_of_the_keys_opens_and_the_first_seals() {
    let value = sealed(&entry("alice", "d", 5), "old");
    for (keys, expected) in [
        ("old", None),
        ("new old", None),
        ("old new", None),
        ("new", Some(Rejection::UnknownKey)),
    ] {
        assert_eq!(rejected(&unseal(&value, keys)), expected, "{keys}");
    }
    let by_the_first = sealed(&entry("alice", "d", 5), "new old");
    assert_eq!(rejected(&unseal(&by_the_first, "new")), None);
    assert_eq!(
        rejected(&unseal(&by_the_first, "old")),
        Some(Rejection::UnknownKey)
    );
}

/// One ID for two keys: that of the other environment does not open.
#[test]
fn the_id_is_not_the_key() {
    let value = sealed(&entry("alice", "d", 5), "a");
    let same_id: SealingKeys = format!("a:{}A=", "B".repeat(42)).parse().unwrap();
    let found = decode(&value, &AT, Some(&same_id));
    assert_eq!(rejected(&found), Some(Rejection::Forged));
}

/// Else whoever can write to Redis would plant plain ones.
#[test]
fn with_keys_nothing_plain_is_accepted_and_without_keys_nothing_sealed() {
    let alice = entry("alice", "d", 5);
    assert_eq!(rejected(&read(&plain(&alice))), None);
    assert_eq!(
        rejected(&unseal(&plain(&alice), "a")),
        Some(Rejection::Unsealed)
    );
    assert_eq!(
        rejected(&read(&sealed(&alice, "a"))),
        Some(Rejection::UnknownKey)
    );
}

#[test]
fn a_sealed_entry_shows_nothing_of_the_session_and_never_looks_the_same() {
    let alice = entry("alice-of-the-test", "her secret data", 5);
    let (one, two) = (sealed(&alice, "a"), sealed(&alice, "a"));
    for text in ["alice", "secret", "data"] {
        let found = one
            .windows(text.len())
            .any(|window| window == text.as_bytes());
        assert!(!found, "{text}");
    }
    assert_ne!(one[2 + 32 + 2..], two[2 + 32 + 2..]);
}

#[test]
fn what_is_too_large_is_not_looked_into() {
    for mark in ["Vp", "Vs", "L", "x"] {
        let mut value = mark.as_bytes().to_vec();
        value.resize(MAX_VALUE_BYTES + 1, 0);
        let why = rejected(&unseal(&value, "a"));
        assert_eq!(why, Some(Rejection::TooLarge), "{mark}");
    }
}

#[test]
fn another_incarnations_entry_has_outlived_it() {
    let elsewhere = Place {
        incarnation: Incarnation([8; 16]),
        ..AT
    };
    let value = plain(&entry("alice", "d", 5));
    let found = decode(&value, &elsewhere, None);
    assert_eq!(rejected(&found), Some(Rejection::Outlived));
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
fn a_plain_entry_copied_from_another_key_is_undecodable() {
    let bobs = Place {
        key: "app:1:bob",
        digest: &BOB,
        ..AT
    };
    let value = entry_value(&entry("bob", "d", 5), &bobs, None).unwrap();
    assert_eq!(rejected(&read(&value)), Some(Rejection::Undecodable));
    assert!(matches!(decode(&value, &bobs, None), Found::Entry(_)));
}

/// Entries written by this version are read by every later one with the same number. If this test
/// fails, [`FORMAT`] must be raised.
#[test]
fn the_plain_encoding_is_that_of_its_format_number() {
    let expected = [
        b"Vp".as_slice(),
        &[7; 16],
        &[5; 32],
        &[9; 16],
        &BODY_OF_ALICE,
    ]
    .concat();
    assert_eq!((FORMAT, plain(&entry("alice", "d", 4))), (1, expected));
}

/// The same for the sealed one: this was sealed once, and libsodium opens it too.
#[test]
fn the_sealed_encoding_is_that_of_its_format_number() {
    let sealed_once = [
        b"Vs".as_slice(),
        &[7; 16],
        &[9; 16],
        b"\x03old",
        &SEALED_ONCE,
    ]
    .concat();
    let Found::Entry(opened) = unseal(&sealed_once, "new old") else {
        panic!("it is not an entry")
    };
    assert_eq!(
        (FORMAT, plain(&opened)),
        (1, plain(&entry("alice", "d", 4)))
    );
}

const BODY_OF_ALICE: [u8; 37] =
    *b"\x2a\x08\x08\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x08\x08\x08\x08\x08\x01\x3c\x05alice\x03\"d\"\x00";

/// Nonce, [`BODY_OF_ALICE`] sealed with the key `old` for [`KEY`], and the tag.
const SEALED_ONCE: [u8; 24 + 37 + 16] =
    *b"\xb1\xe1\x1b\x65\xe7\xcc\x69\x6c\x93\xdb\x03\x11\x24\xbb\x49\xd4\x1a\xfa\x9b\x39\x3e\x23\x9d\xbd\xb4\x45\x99\xb0\x86\x4e\xd3\x29\xf4\xd2\xa1\xdb\x67\x44\x4d\x36\x51\x98\xd3\x50\x65\xb2\x54\xac\x26\x75\x6a\x90\x15\x87\x0f\x1c\x8d\x9b\x15\x01\xfb\x78\x81\xef\x55\x2e\x7a\xc5\xba\xeb\xc5\x20\xc2\x6a\x18\x65\xba";

#[test]
fn a_key_has_namespace_format_and_digest() {
    let digest = TokenDigest::from_bytes([0; 32]);
    assert_eq!(key("app", &digest), format!("app:1:{}", "A".repeat(43)));
}
