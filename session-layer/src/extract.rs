//! Which tokens does a request present? A pure function of its headers.
//!
//! 1. The sources are asked in order; the first that presents something decides alone. By default
//!    that is `Authorization: Bearer`, then the cookie.
//! 2. `Bearer` (in any case) presents whatever stands behind it: two such fields, or one that is no
//!    token, is a bad request and no store is asked. Other schemes are none of our business. (RFC 6750 would have
//!    401 for a token that is malformed. No login heals what was never one of ours, down to the unused bits of its
//!    last character: something cut it off, quoted it or took it for another's, and that is a bug to be seen as one.)
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
        if presented.is_empty() || presented.len() > MAX_TOKEN_BYTES {
            return Err(NotAToken);
        }
        digest(std::str::from_utf8(presented).map_err(|_not_text| NotAToken)?)
    };
    for source in sources {
        let extracted = match source {
            TokenSource::Bearer => bearer(headers, digest),
            TokenSource::Cookie(name) => cookies(headers, name.as_bytes(), digest),
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

/// The token that this cookie presented, whose digest is `wanted`.
pub(crate) fn presented_in_cookie<'a>(
    headers: &'a HeaderMap,
    name: &str,
    wanted: TokenDigest,
    digest: impl Fn(&str) -> Result<TokenDigest, NotAToken>,
) -> Option<&'a str> {
    values(headers, name.as_bytes())
        .filter_map(|value| std::str::from_utf8(value).ok())
        .find(|value| digest(value) == Ok(wanted))
}

/// What the cookies of this name contain, as far as it is looked at.
fn values<'a>(headers: &'a HeaderMap, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    // HTTP/2 may split one Cookie field into several.
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|field| field.as_bytes().split(|b| *b == b';'))
        .filter_map(move |pair| value_of(pair, name))
        // Cannot be tokens, and are known not to be without a look inside.
        .filter(|value| !value.is_empty() && value.len() <= MAX_TOKEN_BYTES)
        .take(MOST_CHECKED)
}

fn cookies(
    headers: &HeaderMap,
    name: &[u8],
    digest: impl Fn(&[u8]) -> Result<TokenDigest, NotAToken>,
) -> Extracted {
    let mut candidates = Vec::new();
    for value in values(headers, name) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{OpaqueTokens, TokenScheme as _};
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    /// Token `n` of ours.
    fn token(n: u8) -> String {
        format!("{:A<43}", char::from(b'A' + n))
    }

    fn found(tokens: &[u8]) -> Extracted {
        Extracted::Candidates(tokens.iter().map(|n| TokenDigest::of(&token(*n))).collect())
    }

    fn read(fields: &[(HeaderName, &str)]) -> Extracted {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            // `{n}` stands for token n.
            let value = (0..8).fold((*value).to_owned(), |value, n| {
                value.replace(&format!("{{{n}}}"), &token(n))
            });
            // ISO 8859-1, so that a test can write any byte as one character.
            let bytes: Vec<u8> = value.chars().map(|c| u8::try_from(c).unwrap()).collect();
            headers.append(name, HeaderValue::from_bytes(&bytes).unwrap());
        }
        let sources = [TokenSource::Bearer, TokenSource::cookie("session")];
        extract(&headers, &sources, |text| OpaqueTokens.digest(text))
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
    fn bearer_decides_alone_and_is_one() {
        let bearer = (AUTHORIZATION, "Bearer {0}");
        let (basic, cookie) = ((AUTHORIZATION, "Basic QQ=="), (COOKIE, "session={1}"));
        for (fields, expected) in [
            (vec![bearer.clone(), cookie.clone()], found(&[0])),
            (vec![cookie.clone(), bearer.clone()], found(&[0])),
            (vec![basic.clone(), cookie.clone()], found(&[1])),
            (vec![basic.clone(), bearer.clone(), basic], found(&[0])),
            (vec![bearer.clone(), bearer.clone()], Extracted::Malformed),
            (
                vec![bearer, (AUTHORIZATION, "bearer x"), cookie.clone()],
                Extracted::Malformed,
            ),
            (
                vec![(AUTHORIZATION, "Bearer x"), cookie],
                Extracted::Malformed,
            ),
        ] {
            assert_eq!(read(&fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn size_is_looked_at_before_the_scheme_is_asked() {
        for (len, expected) in [(4096, found(&[0])), (4097, Extracted::Malformed)] {
            let mut headers = HeaderMap::new();
            let value = format!("Bearer {}", "a".repeat(len));
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            let accept = |text: &str| {
                assert!(text.len() <= MAX_TOKEN_BYTES);
                Ok(TokenDigest::of(&token(0)))
            };
            assert_eq!(extract(&headers, &[TokenSource::Bearer], accept), expected);
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
            (
                vec!["session={0}; session={1}; session={2}; session={3}; session={4}"],
                found(&[0, 1, 2, 3]),
            ),
            (
                vec!["Session={0}; xsession={0}; session"],
                Extracted::Nothing,
            ),
            (vec!["session=\"{0}; session=\""], Extracted::Nothing),
            (vec!["session={0}x", ""], Extracted::Nothing),
            (vec![], Extracted::Nothing),
        ] {
            let named: Vec<_> = fields.iter().map(|value| (COOKIE, *value)).collect();
            assert_eq!(read(&named), expected, "{fields:?}");
        }
    }

    #[test]
    fn planted_cookies_cost_bounded_work_and_push_nothing_out() {
        let oversized = format!("session={}; ", "x".repeat(5000)).repeat(50);
        let planted = format!("{oversized}{}session={{0}}", "session=x; ".repeat(15));
        assert_eq!(read(&[(COOKIE, &planted)]), found(&[0]));

        let asked = std::cell::Cell::new(0);
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, "session=x; ".repeat(1000).parse().unwrap());
        let refuse = |_: &str| {
            asked.set(asked.get() + 1);
            Err(NotAToken)
        };
        let sources = [TokenSource::cookie("session")];
        assert_eq!(extract(&headers, &sources, refuse), Extracted::Nothing);
        assert_eq!(asked.get(), MOST_CHECKED);
    }

    #[test]
    fn sources_are_asked_in_their_order() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, "Bearer x".parse().unwrap());
        headers.append(COOKIE, format!("new={}", token(1)).parse().unwrap());
        headers.append(COOKIE, format!("old={}", token(2)).parse().unwrap());
        let read = |sources: &[TokenSource]| extract(&headers, sources, |t| OpaqueTokens.digest(t));
        let (bearer, new, old) = (
            TokenSource::Bearer,
            TokenSource::cookie("new"),
            TokenSource::cookie("old"),
        );
        assert_eq!(read(&[new.clone(), bearer.clone()]), found(&[1]));
        assert_eq!(read(&[bearer, new.clone()]), Extracted::Malformed);
        assert_eq!(read(&[old.clone(), new]), found(&[2]));
        assert_eq!(read(&[TokenSource::cookie("none"), old]), found(&[2]));
        assert_eq!(read(&[]), Extracted::Nothing);
    }

    /// A field near what we parse, or any bytes at all.
    fn field() -> impl Strategy<Value = (bool, Vec<u8>)> {
        let near =
            r#"(Bearer|bearer|Basic|session=|session|=|;|,| |\t|"|x|A{43}|B{43}|A{44}){0,12}"#;
        let near = near.prop_map(String::into_bytes);
        let wild = prop::collection::vec(any::<u8>(), 0..80);
        (any::<bool>(), prop_oneof![3 => near, 1 => wild])
    }

    proptest! {
        #[test]
        fn any_headers_are_read_without_panic_and_yield_tokens_only(
            fields in prop::collection::vec(field(), 0..6),
        ) {
            let mut headers = HeaderMap::new();
            for (authorization, bytes) in &fields {
                let name = if *authorization { AUTHORIZATION } else { COOKIE };
                if let Ok(value) = HeaderValue::from_bytes(bytes) {
                    headers.append(name, value);
                }
            }
            let sources = [TokenSource::Bearer, TokenSource::cookie("session")];
            let extracted = extract(&headers, &sources, |text| OpaqueTokens.digest(text));
            if let Extracted::Candidates(digests) = extracted {
                prop_assert!((1..=MOST_CANDIDATES).contains(&digests.len()));
                // Only these two tokens can have come about.
                let tokens = ["A", "B"].map(|letter| TokenDigest::of(&letter.repeat(43)));
                prop_assert!(digests.iter().all(|digest| tokens.contains(digest)));
            }
        }
    }
}
