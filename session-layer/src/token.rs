//! The session token (the secret) and its digest (what everything else sees).
//!
//! A raw token is in three places only: the client, the request being answered, and the one answer
//! that issues it. Redis keys, Postgres columns, logs and metrics know its [`TokenDigest`].

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::error::RandomError;

/// The longest token that is looked at, in bytes. A longer one is refused unread: 4,096 is half of
/// what common servers accept for all header fields together.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// The length of a token of ours: 256 bits in base64url without padding.
const OWN_TOKEN_CHARS: usize = 43;

/// A session token of ours: 256 bits from the operating system, as 43 characters of base64url.
///
/// It has no `Display` and no `Serialize`, its `Debug` is redacted, and its memory is cleared on
/// drop, so that showing it takes the deliberate call of [`reveal`](Self::reveal).
///
/// ```
/// # fn main() -> Result<(), session_layer::RandomError> {
/// let token = session_layer::SessionToken::generate()?;
/// assert_eq!(token.reveal().len(), 43);
/// assert_eq!(format!("{token:?}"), "SessionToken(redacted)");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SessionToken(Zeroizing<String>);

impl SessionToken {
    /// A new token, never seen before.
    ///
    /// # Errors
    /// [`RandomError`] when the operating system has no random bytes to give. No token is better
    /// than one that can be guessed.
    pub fn generate() -> Result<Self, RandomError> {
        let mut bits = Zeroizing::new([0_u8; 32]);
        getrandom::fill(bits.as_mut_slice()).map_err(RandomError::from_source)?;
        Ok(Self(Zeroizing::new(
            URL_SAFE_NO_PAD.encode(bits.as_slice()),
        )))
    }

    /// The secret itself, to be sent to the client that it is issued to, and nowhere else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The digest under which the session is stored and cached.
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

/// The plain SHA-256 of a token's text: the name under which a session is looked up.
///
/// There is no pepper: with 128 bits of entropy or more in the token it adds nothing, and so SQL
/// can compute the digest too (`sha256(convert_to(token, 'UTF8'))`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of a token's text.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// A digest that was computed elsewhere, from its 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes, as `sessions.token_digest` stores them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its 43 characters of base64url, as Redis keys contain them.
    #[must_use]
    pub fn to_base64url(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

impl fmt::Debug for TokenDigest {
    /// The first 8 of the 43 characters: enough to tell two apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenDigest({}…)", &self.to_base64url()[..8])
    }
}

/// What a request presented cannot be a token: no store is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what was presented is not a session token")]
pub struct NotAToken;

/// How tokens look: parses and verifies what a request carries, and names the digest to look up.
///
/// The default, [`OpaqueTokens`], accepts the tokens that this crate issues. Implement it for tokens
/// issued elsewhere, a signed JWT for instance: verify the signature, then return
/// [`TokenDigest::of`] its id. Such sessions are created with
/// [`Sessions::register`](crate::Sessions::register).
///
/// The look-up digest must stand for at least 128 bits of entropy or for a verified signature:
/// whoever can guess what is digested holds the session.
pub trait TokenScheme: Send + Sync + 'static {
    /// The digest that `presented` is looked up under.
    ///
    /// Called for every request that carries something, before any store: keep it quick and free of
    /// I/O. It never sees more than [`MAX_TOKEN_BYTES`].
    ///
    /// # Errors
    /// [`NotAToken`] for whatever this scheme would never have issued.
    fn digest(&self, presented: &str) -> Result<TokenDigest, NotAToken>;
}

/// The tokens this crate issues: exactly 43 characters of base64url that stand for 32 bytes, in the one way there is to
/// write them (the last two bits of the last character are zero).
#[derive(Debug, Clone, Copy, Default)]
pub struct OpaqueTokens;

impl TokenScheme for OpaqueTokens {
    fn digest(&self, presented: &str) -> Result<TokenDigest, NotAToken> {
        let mut bits = Zeroizing::new([0_u8; 33]);
        if presented.len() != OWN_TOKEN_CHARS
            || URL_SAFE_NO_PAD.decode_slice(presented, bits.as_mut_slice()) != Ok(32)
        {
            return Err(NotAToken);
        }
        Ok(TokenDigest::of(presented))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn own_tokens_are_accepted_and_differ() {
        let a = SessionToken::generate().unwrap();
        let b = SessionToken::generate().unwrap();
        assert_ne!(a.reveal(), b.reveal());
        assert_eq!(OpaqueTokens.digest(a.reveal()), Ok(a.digest()));
    }

    /// Else a session would have four tokens, of which three have another digest.
    #[test]
    fn the_same_bits_written_in_another_way_are_no_token() {
        const BASE64URL: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let accepted = |last: &char| OpaqueTokens.digest(&format!("{:A<42}{last}", "")).is_ok();
        let accepted: String = BASE64URL.chars().filter(accepted).collect();
        assert_eq!(accepted, "AEIMQUYcgkosw048");
    }

    #[test]
    fn neither_form_of_debug_shows_the_secret() {
        let token = SessionToken::generate().unwrap();
        let shown = format!("{token:?} {:?}", token.digest());
        assert!(!shown.contains(token.reveal()));
        assert!(!shown.contains(&token.digest().to_base64url()));
    }

    #[test]
    fn the_digest_is_plain_sha256() {
        // printf %s abc | sha256sum
        assert_eq!(
            TokenDigest::of("abc").as_bytes()[..4],
            [0xba, 0x78, 0x16, 0xbf]
        );
    }

    proptest! {
        #[test]
        fn what_we_did_not_issue_is_no_token(text in ".{0,60}") {
            let plausible = text.len() == 43
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            prop_assert!(plausible || OpaqueTokens.digest(&text).is_err());
        }
    }
}
