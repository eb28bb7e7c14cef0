//! Which tokens does a request present? A pure function of its headers.
//!
//! 1. The sources are asked in order; the first that presents something decides alone. By default
//!    that is `Authorization: Bearer`, then the cookie.
//! 2. `Bearer` (in any case) presents whatever stands behind it: two such fields, or one that is no
//!    token, is a bad request and no store is asked. Other schemes are none of our business.
//! 3. A cookie that is no token counts as absent, since anybody on a sibling domain can plant one.
//!    Of those that could be tokens the first [`MOST_CANDIDATES`] are looked up together; which of
//!    them is valid only the stores can say.
//! 4. Headers are bytes: what another cookie contains, UTF-8 or not, never hides ours.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};

use crate::token::{MAX_TOKEN_BYTES, NotAToken, TokenDigest};

/// How many cookies of the name are looked up, in one round trip. A browser has more than one after
/// the cookie's domain or path was changed; four leaves room for both, twice.
pub(crate) const MOST_CANDIDATES: usize = 4;

/// How many cookies of the name are shown to the token scheme, whose check may cost a signature.
/// Those that fail it do not use up a candidate's place, so that a few planted ones do not push the
/// valid one out; but the work for one request stays bounded.
const MOST_CHECKED: usize = 16;

/// Where a request may carry its session token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenSource {
    /// `Authorization: Bearer TOKEN`.
    Bearer,
    /// The cookie of this name.
    Cookie(Cow<'static, str>),
}

impl TokenSource {
    /// The cookie of this name. Names are compared byte by byte, as browsers do.
    pub fn cookie(name: impl Into<Cow<'static, str>>) -> Self {
        Self::Cookie(name.into())
    }
}

/// What a request presents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Extracted {
    /// Nothing that could be a token.
    Nothing,
    /// Something that must not be guessed about: two Bearer fields, or one that is no token.
    Malformed,
    /// What to look up, in the order of the request, each digest once: one from a Bearer field, up to
    /// [`MOST_CANDIDATES`] from cookies.
    Candidates(Vec<TokenDigest>),
}

/// What the headers present, `digest` being the token scheme's check.
pub(crate) fn extract(
    headers: &HeaderMap,
    sources: &[TokenSource],
    digest: impl Fn(&str) -> Result<TokenDigest, NotAToken>,
) -> Extracted {
    let digest = |presented: &[u8]| {
        if presented.len() > MAX_TOKEN_BYTES {
            return Err(NotAToken);
        }
        digest(std::str::from_utf8(presented).map_err(|_not_text| NotAToken)?)
    };
    for source in sources {
        let extracted = match source {
            TokenSource::Bearer => bearer(headers, &digest),
            TokenSource::Cookie(name) => cookies(headers, name.as_bytes(), &digest),
        };
        if extracted != Extracted::Nothing {
            return extracted;
        }
    }
    Extracted::Nothing
}

fn bearer(
    headers: &HeaderMap,
    digest: impl Fn(&[u8]) -> Result<TokenDigest, NotAToken>,
) -> Extracted {
    let mut presented = headers
        .get_all(AUTHORIZATION)
        .iter()
        .filter_map(|field| after_bearer(field.as_bytes()));
    let Some(token) = presented.next() else {
        return Extracted::Nothing;
    };
    // Two are never chosen from: whoever sits between us and the client may have chosen otherwise.
    if presented.next().is_some() {
        return Extracted::Malformed;
    }
    match digest(token) {
        Ok(digest) => Extracted::Candidates(vec![digest]),
        Err(NotAToken) => Extracted::Malformed,
    }
}

/// What stands behind the scheme `Bearer` and its spaces; `None` for any other scheme.
fn after_bearer(field: &[u8]) -> Option<&[u8]> {
    let field = field.trim_ascii();
    // A tab is no separator here, but it ends the scheme all the same: such a field is a malformed
    // Bearer rather than a scheme nobody has heard of, which would let the cookie decide.
    let end = field
        .iter()
        .position(|b| matches!(b, b' ' | b'\t'))
        .unwrap_or(field.len());
    let (scheme, mut rest) = field.split_at(end);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    while let [b' ', behind @ ..] = rest {
        rest = behind;
    }
    Some(rest)
}

fn cookies(
    headers: &HeaderMap,
    name: &[u8],
    digest: impl Fn(&[u8]) -> Result<TokenDigest, NotAToken>,
) -> Extracted {
    let mut candidates = Vec::new();
    // HTTP/2 may split one Cookie field into several.
    let values = headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|field| field.as_bytes().split(|b| *b == b';'))
        .filter_map(|pair| value_of(pair, name))
        // Cannot be tokens, and are known not to be without a look inside.
        .filter(|value| !value.is_empty() && value.len() <= MAX_TOKEN_BYTES)
        .take(MOST_CHECKED);
    for value in values {
        let Ok(digest) = digest(value) else { continue };
        if !candidates.contains(&digest) {
            candidates.push(digest);
        }
        if candidates.len() == MOST_CANDIDATES {
            break;
        }
    }
    if candidates.is_empty() {
        Extracted::Nothing
    } else {
        Extracted::Candidates(candidates)
    }
}

/// The value of `name=value`, without the quotes that it may stand in.
fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let equals = pair.iter().position(|b| *b == b'=')?;
    let (key, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
    if key != name {
        return None;
    }
    Some(match value {
        [b'"', quoted @ .., b'"'] => quoted,
        plain => plain,
    })
}
