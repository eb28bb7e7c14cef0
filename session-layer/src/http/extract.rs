//! The extraction of tokens from a request, a pure function of its headers.
//!
//! 1. The sources are read in order. The first that sends a token decides alone. By default that is
//!    `Authorization: Bearer`, then the cookie.
//! 2. `Bearer` in any case sends the rest of its field. Two such fields, or a malformed token, are
//!    a bad request, and no store is read. Other schemes are ignored. RFC 6750 asks for 401 for a
//!    malformed token. 400 makes the error visible, because a login does not repair a token that
//!    was truncated, quoted or meant for another service.
//! 3. A sibling domain can plant cookies of the same name ahead of the real one. A malformed cookie
//!    is not looked up. Up to [`MOST_CANDIDATES`] others are looked up together, because only the
//!    stores know which is valid. A request with more cookies has no session. If the rest were
//!    ignored, planted cookies would decide which are examined. An attacker's valid token among
//!    them would log the victim into the attacker's account.
//! 4. A malformed cookie counts as sent. The 401 states that the token is invalid, and never
//!    whether it had the form of a token.
//! 5. Headers are bytes. No content of another cookie, UTF-8 or not, hides the session cookie.

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};
use smallvec::smallvec;

use crate::http::cookie::SessionCookie;
use crate::model::token::{Digests, MAX_TOKEN_BYTES, TokenDigest, TokenError};

/// The maximum number of cookies of the name, whatever they contain. A browser has more than one
/// after the cookie's domain or path was changed. Four leaves room for both, twice.
pub(crate) const MOST_CANDIDATES: usize = 4;

/// Where a request may carry its session token. Names of cookies are compared byte by byte, as
/// browsers do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenSource {
    /// The header field `Authorization: Bearer TOKEN`.
    Bearer,
    /// The layer's own cookie: the one of
    /// [`SessionCacheLayer::cookie`](crate::SessionCacheLayer::cookie).
    Cookie,
    /// Another cookie, such as the one that an earlier release issued. It is read and never
    /// renewed.
    OtherCookie(SessionCookie),
}

impl TokenSource {
    /// Returns the name of the cookie that it reads, if `own` is the layer's cookie.
    pub(crate) fn cookie_name<'a>(&'a self, own: &'a SessionCookie) -> Option<&'a str> {
        match self {
            Self::Bearer => None,
            Self::Cookie => Some(own.name()),
            Self::OtherCookie(other) => Some(other.name()),
        }
    }
}

/// The tokens that a request sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Extracted {
    /// No Bearer field, and no cookie of the name.
    Nothing,
    /// Only malformed cookies of the name.
    NoToken,
    /// Ambiguous credentials: two Bearer fields, or a malformed one.
    Malformed,
    /// More than [`MOST_CANDIDATES`] cookies of the name.
    TooMany,
    /// The digests to look up, in the order of the request and without duplicates: one from a
    /// Bearer field, or up to [`MOST_CANDIDATES`] from cookies.
    Candidates(Digests),
}

/// Extracts the tokens from a request's headers. `own` is the layer's cookie, and `digest` is the
/// check of the token scheme.
pub(crate) fn extract(
    headers: &HeaderMap,
    sources: &[TokenSource],
    own: &SessionCookie,
    digest: impl Fn(&str) -> Result<TokenDigest, TokenError>,
) -> Extracted {
    let digest = |sent: &[u8]| {
        if sent.is_empty() || sent.len() > MAX_TOKEN_BYTES {
            return Err(TokenError);
        }
        digest(std::str::from_utf8(sent).map_err(|_not_text| TokenError)?)
    };
    let mut undecided = Extracted::Nothing;
    for source in sources {
        let extracted = match source.cookie_name(own) {
            None => bearer(headers, digest),
            Some(name) => cookies(headers, name.as_bytes(), digest),
        };
        match extracted {
            Extracted::Nothing => {}
            Extracted::NoToken => undecided = Extracted::NoToken,
            decided => return decided,
        }
    }
    undecided
}

/// Returns whether the headers send a token or what stands in its place, without asking the token
/// scheme.
pub(crate) fn sends_token(
    headers: &HeaderMap,
    sources: &[TokenSource],
    own: &SessionCookie,
) -> bool {
    extract(headers, sources, own, |_| Err(TokenError)) != Extracted::Nothing
}

fn bearer(
    headers: &HeaderMap,
    digest: impl Fn(&[u8]) -> Result<TokenDigest, TokenError>,
) -> Extracted {
    let mut credentials =
        headers.get_all(AUTHORIZATION).iter().filter_map(|field| after_bearer(field.as_bytes()));
    let Some(token) = credentials.next() else {
        return Extracted::Nothing;
    };
    // Choosing one of two is unsafe: a proxy in front of this service may choose the other.
    if credentials.next().is_some() {
        return Extracted::Malformed;
    }
    match digest(token) {
        Ok(digest) => Extracted::Candidates(smallvec![digest]),
        Err(TokenError) => Extracted::Malformed,
    }
}

/// Returns the text behind the scheme `Bearer` and its spaces, or `None` for another scheme.
fn after_bearer(field: &[u8]) -> Option<&[u8]> {
    let field = field.trim_ascii();
    // A tab is no separator, but it ends the scheme. Such a field is therefore a malformed Bearer
    // field, and not an unknown scheme, which would let the cookie decide.
    let end = field.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(field.len());
    let (scheme, mut rest) = field.split_at(end);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    while let [b' ', behind @ ..] = rest {
        rest = behind;
    }
    Some(rest)
}

/// Returns the token with the digest `wanted` from the cookies of this name.
pub(crate) fn sent_in_cookie<'a>(
    headers: &'a HeaderMap,
    name: &str,
    wanted: TokenDigest,
    digest: impl Fn(&str) -> Result<TokenDigest, TokenError>,
) -> Option<&'a str> {
    values(headers, name.as_bytes())
        .filter_map(|value| std::str::from_utf8(value).ok())
        .find(|value| digest(value) == Ok(wanted))
}

/// Returns the values of all cookies of this name.
fn values<'a>(headers: &'a HeaderMap, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    // HTTP/2 may split one Cookie field into several.
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|field| field.as_bytes().split(|b| *b == b';'))
        .filter_map(move |pair| value_of(pair, name))
}

fn cookies(
    headers: &HeaderMap,
    name: &[u8],
    digest: impl Fn(&[u8]) -> Result<TokenDigest, TokenError>,
) -> Extracted {
    // Counted before the token scheme checks any, because a check may verify a signature.
    if values(headers, name).nth(MOST_CANDIDATES).is_some() {
        return Extracted::TooMany;
    }
    let mut candidates = Digests::new();
    let mut nothing = Extracted::Nothing;
    for value in values(headers, name) {
        let Ok(digest) = digest(value) else {
            nothing = Extracted::NoToken;
            continue;
        };
        if !candidates.contains(&digest) {
            candidates.push(digest);
        }
    }
    if candidates.is_empty() { nothing } else { Extracted::Candidates(candidates) }
}

/// Returns the value of `name=value`, without surrounding quotes.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::token::{OpaqueTokens, TokenScheme as _};
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    /// Returns well-formed token number `n`.
    fn token(n: u8) -> String {
        format!("{:A<43}", char::from(b'A' + n))
    }

    fn own() -> SessionCookie {
        SessionCookie::new()
    }

    fn other(name: &'static str) -> TokenSource {
        TokenSource::OtherCookie(SessionCookie::builder(name).build().unwrap())
    }

    fn found(tokens: &[u8]) -> Extracted {
        Extracted::Candidates(tokens.iter().map(|n| TokenDigest::of(&token(*n))).collect())
    }

    fn read(fields: &[(HeaderName, &str)]) -> Extracted {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            // `{n}` is replaced by token n.
            let value = (0..8).fold((*value).to_owned(), |value, n| {
                value.replace(&format!("{{{n}}}"), &token(n))
            });
            // ISO 8859-1 lets a test write any byte as one character.
            let bytes: Vec<u8> = value.chars().map(|c| u8::try_from(c).unwrap()).collect();
            headers.append(name, HeaderValue::from_bytes(&bytes).unwrap());
        }
        let sources = [TokenSource::Bearer, TokenSource::Cookie];
        extract(&headers, &sources, &own(), |text| OpaqueTokens.digest(text))
    }

    #[test]
    fn bearer() {
        let malformed = Extracted::Malformed;
        let not_canonical = format!("Bearer {}B", &token(0)[..42]);
        for (value, expected) in [
            ("Bearer {0}", found(&[0])),
            ("bearer {0}", found(&[0])),
            ("BEARER   {0}", found(&[0])),
            (" Bearer {0} ", found(&[0])),
            ("Bearer", malformed.clone()),
            ("Bearer ", malformed.clone()),
            ("Bearer\t{0}", malformed.clone()),
            ("Bearer {0} {0}", malformed.clone()),
            ("Bearer {0}, Bearer {1}", malformed.clone()),
            ("Bearer \"{0}\"", malformed.clone()),
            ("Bearer {0}=", malformed.clone()),
            (&not_canonical, malformed.clone()),
            ("Bearer \u{ff}\u{fe}", malformed.clone()),
            ("Bearer{0}", Extracted::Nothing),
            ("Basic {0}", Extracted::Nothing),
            ("\u{e4}Bearer {0}", Extracted::Nothing),
            ("{0}", Extracted::Nothing),
            ("", Extracted::Nothing),
        ] {
            assert_eq!(read(&[(AUTHORIZATION, value)]), expected, "{value:?}");
        }
    }

    #[test]
    fn bearer_decides_alone_and_occurs_once() {
        let bearer = (AUTHORIZATION, "Bearer {0}");
        let (basic, cookie) = ((AUTHORIZATION, "Basic QQ=="), (COOKIE, "session={1}"));
        for (fields, expected) in [
            (vec![bearer.clone(), cookie.clone()], found(&[0])),
            (vec![cookie.clone(), bearer.clone()], found(&[0])),
            (vec![basic.clone(), cookie.clone()], found(&[1])),
            (vec![basic.clone(), bearer.clone(), basic], found(&[0])),
            (vec![bearer.clone(), bearer.clone()], Extracted::Malformed),
            (vec![bearer, (AUTHORIZATION, "bearer x"), cookie.clone()], Extracted::Malformed),
            (vec![(AUTHORIZATION, "Bearer x"), cookie], Extracted::Malformed),
        ] {
            assert_eq!(read(&fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn token_size_is_checked_before_the_token_scheme() {
        for (len, expected) in [(4096, found(&[0])), (4097, Extracted::Malformed)] {
            let mut headers = HeaderMap::new();
            let value = format!("Bearer {}", "a".repeat(len));
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            let accept = |text: &str| {
                assert!(text.len() <= MAX_TOKEN_BYTES);
                Ok(TokenDigest::of(&token(0)))
            };
            assert_eq!(extract(&headers, &[TokenSource::Bearer], &own(), accept), expected);
        }
    }

    #[test]
    fn cookies() {
        for (fields, expected) in [
            (vec!["session={0}"], found(&[0])),
            (vec!["a=b; session={0}; c=d"], found(&[0])),
            (vec!["a=b;session={0};c"], found(&[0])),
            (vec!["session = {0}"], found(&[0])),
            (vec!["session=\"{0}\""], found(&[0])),
            (vec!["a=b", "session={0}"], found(&[0])),
            (vec!["\u{ff}=\u{fe}; session={0}"], found(&[0])),
            (vec!["session={0}; session={1}"], found(&[0, 1])),
            (vec!["session={1}", "session={0}"], found(&[1, 0])),
            (vec!["session={0}; session={0}"], found(&[0])),
            (vec!["session=x; session=; session={0}"], found(&[0])),
            (vec!["session=\u{ff}; session={0}"], found(&[0])),
            (vec!["session={0}; session={1}", "session={2}; session={3}"], found(&[0, 1, 2, 3])),
            (vec!["Session={0}; xsession={0}; session"], Extracted::Nothing),
            (vec!["session=\"{0}; session=\""], Extracted::NoToken),
            (vec!["session={0}x", ""], Extracted::NoToken),
            (vec!["session="], Extracted::NoToken),
            (vec![], Extracted::Nothing),
        ] {
            let named: Vec<_> = fields.iter().map(|value| (COOKIE, *value)).collect();
            assert_eq!(read(&named), expected, "{fields:?}");
        }
    }

    #[test]
    fn more_cookies_than_the_limit_are_too_many() {
        let oversized = "x".repeat(5000);
        for planted in ["x", "", "\"", "\u{ff}", "{0}", "{1}", &oversized] {
            let ahead = format!("session={planted}; ");
            for (count, is_ours_seen) in [(3, true), (4, false), (5, false), (1000, false)] {
                let cookies = format!("a=b; {}session={{0}}", ahead.repeat(count));
                let extracted = read(&[(COOKIE, &cookies)]);
                assert_eq!(extracted != Extracted::TooMany, is_ours_seen, "{count} {planted}");
                if let Extracted::Candidates(digests) = extracted {
                    assert!(digests.contains(&TokenDigest::of(&token(0))));
                }
                // The same in separate fields, and behind the valid cookie.
                let mut fields = vec![(COOKIE, "session={0}")];
                fields.extend(std::iter::repeat_n((COOKIE, ahead.as_str()), count));
                let seen = read(&fields) != Extracted::TooMany;
                assert_eq!(seen, is_ours_seen, "{count} {planted}");
            }
        }
        // Other names do not count.
        let others = format!("{}session={{0}}", "sessions=x; Session=x; ".repeat(1000));
        assert_eq!(read(&[(COOKIE, &others)]), found(&[0]));
    }

    #[test]
    fn token_scheme_checks_no_more_cookies_than_the_limit() {
        let asked = std::cell::Cell::new(0);
        let refuse = |_: &str| {
            asked.set(asked.get() + 1);
            Err(TokenError)
        };
        let sources = [TokenSource::Cookie];
        let mut headers = HeaderMap::new();
        for (count, expected, checked) in
            [(MOST_CANDIDATES, Extracted::NoToken, MOST_CANDIDATES), (1000, Extracted::TooMany, 0)]
        {
            headers.insert(COOKIE, "session=x; ".repeat(count).parse().unwrap());
            asked.set(0);
            assert_eq!(extract(&headers, &sources, &own(), refuse), expected);
            assert_eq!(asked.get(), checked);
        }
    }

    #[test]
    fn sources_are_read_in_order() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, "Bearer x".parse().unwrap());
        headers.append(COOKIE, format!("new={}", token(1)).parse().unwrap());
        headers.append(COOKIE, format!("old={}", token(2)).parse().unwrap());
        let read = |sources: &[TokenSource]| {
            extract(&headers, sources, &own(), |t| OpaqueTokens.digest(t))
        };
        let (bearer, new, old) = (TokenSource::Bearer, other("new"), other("old"));
        assert_eq!(read(&[new.clone(), bearer.clone()]), found(&[1]));
        assert_eq!(read(&[bearer, new.clone()]), Extracted::Malformed);
        assert_eq!(read(&[old.clone(), new]), found(&[2]));
        assert_eq!(read(&[other("none"), old.clone()]), found(&[2]));
        assert_eq!(read(&[]), Extracted::Nothing);
        // A malformed cookie lets the next source decide, and counts as sent.
        headers.append(COOKIE, "broken=x".parse().unwrap());
        let read = |sources: &[TokenSource]| {
            extract(&headers, sources, &own(), |t| OpaqueTokens.digest(t))
        };
        let broken = other("broken");
        assert_eq!(read(&[broken.clone(), old]), found(&[2]));
        let none = other("none");
        assert_eq!(read(&[broken, none]), Extracted::NoToken);
    }

    #[test]
    fn what_counts_as_sent() {
        let sources = [TokenSource::Bearer, TokenSource::Cookie];
        for (name, value, expected) in [
            (AUTHORIZATION, "Bearer x", true),
            (AUTHORIZATION, "bearer", true),
            (AUTHORIZATION, "Basic x", false),
            (COOKIE, "session=x", true),
            (COOKIE, "session=", true),
            (COOKIE, "session=; session=; session=; session=; session=", true),
            (COOKIE, "session; other=x; Session=x", false),
        ] {
            let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
            assert_eq!(sends_token(&headers, &sources, &own()), expected, "{value}");
            assert!(!sends_token(&headers, &[], &own()));
        }
    }

    /// Generates a field that is nearly valid, or arbitrary bytes.
    fn field() -> impl Strategy<Value = (bool, Vec<u8>)> {
        let near =
            r#"(Bearer|bearer|Basic|session=|session|=|;|,| |\t|"|x|A{43}|B{43}|A{44}){0,12}"#;
        let near = near.prop_map(String::into_bytes);
        let wild = prop::collection::vec(any::<u8>(), 0..80);
        (any::<bool>(), prop_oneof![3 => near, 1 => wild])
    }

    proptest! {
        #[test]
        fn arbitrary_headers_do_not_panic_and_yield_only_tokens(
            fields in prop::collection::vec(field(), 0..6),
        ) {
            let mut headers = HeaderMap::new();
            for (authorization, bytes) in &fields {
                let name = if *authorization { AUTHORIZATION } else { COOKIE };
                if let Ok(value) = HeaderValue::from_bytes(bytes) {
                    headers.append(name, value);
                }
            }
            let sources = [TokenSource::Bearer, TokenSource::Cookie];
            let extracted = extract(&headers, &sources, &own(), |text| OpaqueTokens.digest(text));
            if let Extracted::Candidates(digests) = extracted {
                prop_assert!((1..=MOST_CANDIDATES).contains(&digests.len()));
                // Only these two tokens can occur.
                let tokens = ["A", "B"].map(|letter| TokenDigest::of(&letter.repeat(43)));
                prop_assert!(digests.iter().all(|digest| tokens.contains(digest)));
            }
        }
    }
}
