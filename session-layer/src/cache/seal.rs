//! The keys that seal cached entries. The sealing itself is in `cache/codec/sealed.rs`.

use std::fmt;
use std::io::{self, Read as _};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::{self, Alphabet};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

pub(crate) const MAX_KEY_ID_CHARS: usize = 32;
/// The text format of [`SealingKeys`], in words.
pub(crate) const SEALING_KEYS: &str = "ID:KEY, or several separated by commas: the ID is 1 to 32 \
     of A-Z, a-z, 0-9, - and _, the KEY is the base64 of 32 random bytes (openssl rand -base64 32)";
const MAX_FILE_BYTES: usize = 64 * 1024;

/// The secret keys that seal entries in Redis with XChaCha20-Poly1305. A client with write access
/// to Redis but without the keys can neither plant a session nor read one.
///
/// The first key seals, and all of them open. To replace a key without logging out any user, take
/// three steps on all nodes:
///
/// 1. Add the new key after the old one.
/// 2. Move the new key to the front.
/// 3. Remove the old key after the TTL has passed.
///
/// Another order costs misses but no sessions, because the store serves what does not open.
///
/// The text format is `ID:KEY`, or several separated by commas or white space. An ID is 1 to 32 of
/// `A`–`Z`, `a`–`z`, `0`–`9`, `-` and `_`. Every entry contains it, and it is not secret. A key is
/// the base64 of 32 random bytes, such as `openssl rand -base64 32` prints.
///
/// ```
/// use session_layer::SealingKeys;
///
/// # fn main() -> Result<(), session_layer::error::SealingKeysError> {
/// let keys: SealingKeys = "2026-11:q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=".parse()?;
/// assert_eq!(format!("{keys:?}"), r#"SealingKeys(["2026-11"])"#);
/// # Ok(()) }
/// ```
///
/// The last clone clears the memory when it is dropped. `Debug` shows only the IDs.
#[derive(Clone)]
pub struct SealingKeys(Arc<[SealingKey]>);

pub(crate) struct SealingKey {
    pub(crate) id: Box<str>,
    pub(crate) secret: Zeroizing<[u8; 32]>,
}

impl SealingKeys {
    /// Reads the keys from a file of at most 64 KiB, in the format of the text.
    ///
    /// # Errors
    /// Returns the I/O error if reading fails. Returns [`InvalidData`](io::ErrorKind::InvalidData)
    /// if the file is too large or does not parse. A parse failure contains a [`SealingKeysError`].
    pub fn read(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = std::fs::File::open(path)?;
        // The buffer never grows, because that would leave copies of the keys in memory.
        let mut text = Zeroizing::new(String::with_capacity(MAX_FILE_BYTES + 1));
        file.take(MAX_FILE_BYTES as u64 + 1).read_to_string(&mut text)?;
        if text.len() > MAX_FILE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the key file is over 64 KiB"));
        }
        let keys = text.parse();
        keys.map_err(|error: SealingKeysError| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Returns the key that seals.
    #[cfg(feature = "redis")]
    pub(crate) fn first(&self) -> &SealingKey {
        &self.0[0]
    }

    #[cfg(feature = "redis")]
    pub(crate) fn find(&self, id: &[u8]) -> Option<&SealingKey> {
        self.0.iter().find(|key| key.id.as_bytes() == id)
    }
}

impl FromStr for SealingKeys {
    type Err = SealingKeysError;

    fn from_str(text: &str) -> Result<Self, SealingKeysError> {
        let mut keys: Vec<SealingKey> = Vec::new();
        let texts = text.split(|c: char| c == ',' || c.is_whitespace());
        for text in texts.filter(|text| !text.is_empty()) {
            let bad = |what| SealingKeysError { number: keys.len() + 1, what };
            let (id, secret) = text.split_once(':').ok_or_else(|| bad("is not ID:KEY"))?;
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            if !(1..=MAX_KEY_ID_CHARS).contains(&id.len()) || !id.chars().all(allowed) {
                return Err(bad("has no ID of 1 to 32 of A-Z, a-z, 0-9, - and _"));
            }
            if keys.iter().any(|key| *key.id == *id) {
                return Err(bad("has the ID of an earlier one"));
            }
            let secret = decode(secret).ok_or_else(|| bad("is not the base64 of 32 bytes"))?;
            let id = id.into();
            keys.push(SealingKey { id, secret });
        }
        if keys.is_empty() {
            return Err(SealingKeysError { number: 1, what: "is missing" });
        }
        Ok(Self(keys.into()))
    }
}

/// Decodes base64 in either alphabet, with or without padding.
fn decode(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decode = |alphabet: &Alphabet| {
        let mut bytes = Zeroizing::new([0; 64]);
        let engine = GeneralPurpose::new(alphabet, LENIENT);
        let length = engine.decode_slice(text, bytes.as_mut_slice()).ok()?;
        let mut secret = Zeroizing::new([0; 32]);
        if length != secret.len() {
            return None;
        }
        secret.copy_from_slice(&bytes[..length]);
        Some(secret)
    };
    decode(&alphabet::STANDARD).or_else(|| decode(&alphabet::URL_SAFE))
}

impl fmt::Debug for SealingKeys {
    /// Formats the IDs, which every entry contains as well.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.0.iter().map(|key| &*key.id).collect();
        f.debug_tuple("SealingKeys").field(&ids).finish()
    }
}

impl PartialEq for SealingKeys {
    /// Compares configurations, not in constant time.
    fn eq(&self, other: &Self) -> bool {
        let alike = |(a, b): (&SealingKey, &SealingKey)| a.id == b.id && a.secret == b.secret;
        self.0.len() == other.0.len() && self.0.iter().zip(&*other.0).all(alike)
    }
}

impl Eq for SealingKeys {}

/// An error in the text of [`SealingKeys`]. It omits the text, all of which may be secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("key number {number} {what}")]
#[non_exhaustive]
pub struct SealingKeysError {
    /// The number of the affected key, counted from 1.
    pub number: usize,
    what: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=";

    fn ids(text: &str) -> Result<String, String> {
        let keys: Result<SealingKeys, _> = text.parse();
        keys.map(|keys| format!("{keys:?}")).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_are_parsed_in_order() {
        for (text, expected) in [
            (format!("a:{KEY}"), r#"["a"]"#),
            (format!("new:{KEY},old_1-2:{KEY}"), r#"["new", "old_1-2"]"#),
            (format!("\n new:{KEY} ,\r\n old:{KEY}\n"), r#"["new", "old"]"#),
        ] {
            assert_eq!(ids(&text), Ok(format!("SealingKeys({expected})")));
        }
    }

    #[test]
    fn base64_of_either_alphabet_is_accepted() {
        let bytes = [0xfb; 32];
        for engine in [
            base64::engine::general_purpose::STANDARD,
            base64::engine::general_purpose::STANDARD_NO_PAD,
            base64::engine::general_purpose::URL_SAFE,
            base64::engine::general_purpose::URL_SAFE_NO_PAD,
        ] {
            assert_eq!(decode(&engine.encode(bytes)).as_deref(), Some(&bytes));
        }
    }

    #[test]
    fn bad_key_is_reported_by_number_without_its_text() {
        let secret = KEY.trim_end_matches('=');
        for (text, expected) in [
            (String::new(), "key number 1 is missing"),
            (" , ".to_owned(), "key number 1 is missing"),
            (secret.to_owned(), "key number 1 is not ID:KEY"),
            (format!("a:{KEY},{secret}"), "key number 2 is not ID:KEY"),
            (format!(":{KEY}"), "key number 1 has no ID"),
            (format!("{}:{KEY}", "x".repeat(33)), "key number 1 has no ID"),
            // ID and key are swapped.
            (format!("{KEY}:a"), "key number 1 has no ID"),
            (format!("a:{KEY} a:{KEY}"), "key number 2 has the ID"),
            ("a:".to_owned(), "is not the base64 of 32 bytes"),
            (format!("a:{}", &secret[1..]), "is not the base64 of 32 bytes"),
            (format!("a:{secret}{secret}{secret}"), "is not the base64 of 32 bytes"),
            (format!("a:{KEY}:b"), "is not the base64 of 32 bytes"),
        ] {
            let error = ids(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains(&secret[1..]), "{error}");
        }
    }

    #[test]
    fn key_file_is_parsed_like_text_and_errors_hide_its_content() {
        let file = std::env::temp_dir().join(format!("session-layer-seal-{}", std::process::id()));
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let keys = SealingKeys::read(&file);
            std::fs::remove_file(&file).unwrap();
            keys.map_err(|error| error.to_string())
        };
        let text = format!("new:{KEY}\nold:{KEY}\n");
        assert_eq!(read(&text), Ok(text.parse().unwrap()));
        let error = read(KEY).unwrap_err();
        assert_eq!(error, "key number 1 is not ID:KEY");
        let error = read(&"x".repeat(70_000)).unwrap_err();
        assert_eq!(error, "the key file is over 64 KiB");
        let error = SealingKeys::read(&file).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn debug_output_contains_no_secret() {
        let keys: SealingKeys = format!("a:{KEY}").parse().unwrap();
        let shown = format!("{keys:?} {keys:#?}");
        let byte = format!("{}", keys.0[0].secret[0]);
        assert!(!shown.contains(&KEY[..8]) && !shown.contains(&byte), "{shown}");
    }
}
