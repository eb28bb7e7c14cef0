//! The session token, which is secret, and its digest, which all other code sees.
//!
//! A raw token exists in three places: at the client, in the request, and in the response that
//! issues it. Redis keys, Postgres columns, logs and metrics contain its [`TokenDigest`].

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;
use zeroize::Zeroizing;

use crate::model::error::RandomError;

/// The maximum length of a token, in bytes. A longer one is rejected unread. 4,096 is half of what
/// common servers accept for all header fields together.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// The length of a generated token: 256 bits in base64url without padding.
const OWN_TOKEN_CHARS: usize = 43;

/// A generated session token: 256 bits from the operating system, as 43 characters of base64url.
///
/// It has no `Display` and no `Serialize`, its `Debug` is redacted, and its memory is cleared on
/// drop. Only a deliberate call of [`reveal`](Self::reveal) shows it.
///
/// ```
/// # fn main() -> Result<(), session_layer::error::RandomError> {
/// let token = session_layer::SessionToken::generate()?;
/// assert_eq!(token.reveal().len(), 43);
/// assert_eq!(format!("{token:?}"), "SessionToken(redacted)");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SessionToken(Zeroizing<String>);

impl SessionToken {
    /// Generates a new token.
    ///
    /// # Errors
    /// [`RandomError`] if the operating system supplies no random bytes. The call does not fall
    /// back to a token that can be guessed.
    pub fn generate() -> Result<Self, RandomError> {
        let mut bits = Zeroizing::new([0_u8; 32]);
        getrandom::fill(bits.as_mut_slice()).map_err(RandomError::from_source)?;
        Ok(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(bits.as_slice()))))
    }

    /// Returns the secret. Send it to the client that it is issued to, and to no other.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the digest under which the session is stored and cached.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::of(&self.0)
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(redacted)")
    }
}

/// The text of a session token as a client sends it: a `&str`, a `&String` or a
/// [`&SessionToken`](SessionToken).
///
/// It is sealed, and adds no method to a [`SessionToken`]. Therefore the methods of
/// [`Sessions`](crate::Sessions) accept one, and it still cannot be printed by accident.
pub trait AsToken: sealed::AsToken {}

impl<T: sealed::AsToken + ?Sized> AsToken for T {}

pub(crate) mod sealed {
    use super::SessionToken;

    pub trait AsToken {
        fn text(&self) -> &str;
    }

    impl AsToken for str {
        fn text(&self) -> &str {
            self
        }
    }

    impl AsToken for String {
        fn text(&self) -> &str {
            self
        }
    }

    impl AsToken for SessionToken {
        fn text(&self) -> &str {
            self.reveal()
        }
    }

    impl<T: AsToken + ?Sized> AsToken for &T {
        fn text(&self) -> &str {
            (**self).text()
        }
    }
}

/// The plain SHA-256 of a token's text: the name under which a session is looked up.
///
/// There is no pepper, because it adds nothing to a token with at least 128 bits of entropy. SQL
/// can therefore compute the digest too (`sha256(convert_to(token, 'UTF8'))`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Computes the digest of a token's text.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Creates a digest that was computed elsewhere, from its 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes, as `sessions.token_digest` stores them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns 43 characters of base64url, as Redis keys contain them.
    #[must_use]
    pub fn to_base64url(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Returns the 43 characters without an allocation.
    #[cfg(feature = "redis")]
    pub(crate) fn base64url(&self) -> [u8; 43] {
        let mut text = [0; 43];
        // 32 bytes always become 43 characters.
        let _ = URL_SAFE_NO_PAD.encode_slice(self.0, &mut text);
        text
    }
}

impl fmt::Debug for TokenDigest {
    /// Prints the first 8 of the 43 characters, which tell two digests apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenDigest({}…)", &self.to_base64url()[..8])
    }
}

/// The digests of the tokens of a request, which mostly is one.
pub(crate) type Digests = SmallVec<[TokenDigest; 1]>;

/// An error for a text that cannot be a token. No store is queried for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text sent is not a session token")]
pub struct TokenError;

/// The format of tokens. It parses and verifies the text that a request carries, and returns the
/// digest to look up.
///
/// The default, [`OpaqueTokens`], accepts the tokens that this crate issues. Implement the trait
/// for tokens issued elsewhere, such as signed JWTs: verify the signature, then return
/// [`TokenDigest::of`] its id. Such sessions are created with
/// [`Sessions::register`](crate::Sessions::register).
///
/// The digest must stand for at least 128 bits of entropy or for a verified signature. A client
/// that can guess the digested text holds the session.
pub trait TokenScheme: Send + Sync + 'static {
    /// Returns the digest under which `sent` is looked up.
    ///
    /// It is called for every request that carries a token, before any store. Keep it quick and
    /// free of I/O. It never receives more than [`MAX_TOKEN_BYTES`].
    ///
    /// # Errors
    /// [`TokenError`] for a text that this scheme would never have issued.
    fn digest(&self, sent: &str) -> Result<TokenDigest, TokenError>;
}

/// The tokens that this crate issues: exactly 43 characters of base64url that stand for 32 bytes.
/// The last two bits of the last character are zero, which leaves one way to write them.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpaqueTokens;

impl TokenScheme for OpaqueTokens {
    fn digest(&self, sent: &str) -> Result<TokenDigest, TokenError> {
        let mut bits = Zeroizing::new([0_u8; 33]);
        if sent.len() != OWN_TOKEN_CHARS
            || URL_SAFE_NO_PAD.decode_slice(sent, bits.as_mut_slice()) != Ok(32)
        {
            return Err(TokenError);
        }
        Ok(TokenDigest::of(sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn generated_tokens_are_accepted_and_differ() {
        let a = SessionToken::generate().unwrap();
        let b = SessionToken::generate().unwrap();
        assert_ne!(a.reveal(), b.reveal());
        assert_eq!(OpaqueTokens.digest(a.reveal()), Ok(a.digest()));
    }

    #[test]
    fn same_bits_in_another_encoding_are_rejected() {
        // Otherwise a session would have four tokens, and three of them would have another digest.
        const BASE64URL: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let accepted = |last: &char| OpaqueTokens.digest(&format!("{:A<42}{last}", "")).is_ok();
        let accepted: String = BASE64URL.chars().filter(accepted).collect();
        assert_eq!(accepted, "AEIMQUYcgkosw048");
    }

    #[test]
    fn debug_of_token_and_digest_hides_the_secret() {
        let token = SessionToken::generate().unwrap();
        let shown = format!("{token:?} {:?}", token.digest());
        assert!(!shown.contains(token.reveal()));
        assert!(!shown.contains(&token.digest().to_base64url()));
    }

    #[test]
    fn tokens_and_texts_are_accepted_alike() {
        use sealed::AsToken as _;
        let token = SessionToken::generate().unwrap();
        let (text, string) = (token.reveal(), token.reveal().to_owned());
        for given in [token.text(), (&&token).text(), text.text(), string.text()] {
            assert_eq!(given, text);
        }
    }

    #[test]
    fn digest_is_plain_sha256() {
        // printf %s abc | sha256sum
        assert_eq!(TokenDigest::of("abc").as_bytes()[..4], [0xba, 0x78, 0x16, 0xbf]);
    }

    proptest! {
        #[test]
        fn text_of_another_form_is_rejected(text in ".{0,60}") {
            let plausible = text.len() == 43
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            prop_assert!(plausible || OpaqueTokens.digest(&text).is_err());
        }
    }
}
