//! The decision whether a shared cache may store a response, from all fields that it reads.
//!
//! A stored response with a session cookie would give the session to other clients. RFC 9111
//! forbids storing only for `Cache-Control: no-store` or `private`. A content delivery network or a
//! reverse proxy prefers fields of its own (RFC 9213), which override `Cache-Control`.

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The effect of a response's header fields on shared caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SharedCaches {
    /// No shared cache may store the response.
    Forbidden,
    /// Storing is neither forbidden nor requested. A cache may still store the response by default,
    /// because of a `max-age`, or to revalidate it (`no-cache`).
    Unstated,
    /// The application addresses shared caches, and at least one of them may store the response.
    Permitted,
}

/// Decides whether shared caches may store a response. Ambiguous fields count as permission.
pub(crate) fn shared_caches(headers: &HeaderMap) -> SharedCaches {
    if overriding(headers).next().is_some() {
        return SharedCaches::Permitted;
    }
    cache_control(headers)
}

/// Prevents shared caches from storing a response. Removes permissions and keeps everything else.
pub(crate) fn forbid(headers: &mut HeaderMap) {
    let permissions: Vec<HeaderName> = overriding(headers).cloned().collect();
    for name in permissions {
        headers.remove(name);
    }
    let private = HeaderValue::from_static("private");
    match cache_control(headers) {
        SharedCaches::Forbidden => {}
        SharedCaches::Unstated => drop(headers.append(CACHE_CONTROL, private)),
        SharedCaches::Permitted => drop(headers.insert(CACHE_CONTROL, private)),
    }
}

/// Decides for caches that follow `Cache-Control`.
fn cache_control(headers: &HeaderMap) -> SharedCaches {
    let Some(found) = Directives::of(headers, &CACHE_CONTROL) else {
        return SharedCaches::Permitted;
    };
    // A cache that knows the response's status ignores `no-store` beside `must-understand`.
    let no_store = found.no_store && !found.must_understand;
    let asked_for = found.public
        || found.s_maxage
        || found.private_fields
        || (found.must_understand && !found.private);
    match (no_store, asked_for, found.private) {
        (true, _, _) => SharedCaches::Forbidden,
        (_, true, _) => SharedCaches::Permitted,
        (_, _, true) => SharedCaches::Forbidden,
        (_, _, false) => SharedCaches::Unstated,
    }
}

/// Returns the fields that override `Cache-Control` and do not forbid storing.
fn overriding(headers: &HeaderMap) -> impl Iterator<Item = &HeaderName> {
    headers.keys().filter(|name| match name.as_str() {
        "cache-control" => false,
        // nginx: seconds, or a time. 0 forbids.
        "x-accel-expires" => headers.get_all(*name).iter().any(|value| value != "0"),
        // The specifications of these two fields have no `private`.
        "surrogate-control" | "edge-control" => {
            !Directives::of(headers, name).is_some_and(|found| found.no_store)
        }
        // RFC 9213: CDN-Cache-Control, and one field per vendor.
        targeted if targeted.ends_with("cache-control") => {
            let forbids = |found: Directives| {
                let kept = found.no_store && !found.must_understand;
                let asked_for = found.public || found.s_maxage || found.private_fields;
                kept || (found.private && !asked_for)
            };
            !Directives::of(headers, name).is_some_and(forbids)
        }
        _ => false,
    })
}

/// The directives of a field that concern shared caches.
#[derive(Debug, Default)]
struct Directives {
    no_store: bool,
    /// `private` without an argument, for the whole response.
    private: bool,
    /// `private` with an argument, for the named fields only.
    private_fields: bool,
    public: bool,
    s_maxage: bool,
    must_understand: bool,
}

impl Directives {
    /// Parses all fields of this name. Returns `None` if one of them is malformed.
    fn of(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut found = Self::default();
        for field in headers.get_all(name) {
            found.read(field.as_bytes())?;
        }
        Some(found)
    }

    fn read(&mut self, field: &[u8]) -> Option<()> {
        let mut rest = field.trim_ascii_start();
        while !rest.is_empty() {
            let end = rest.iter().position(|b| !is_token_char(*b));
            let (name, behind) = rest.split_at(end.unwrap_or(rest.len()));
            let (has_argument, behind) = argument(behind.trim_ascii_start())?;
            self.record(name, has_argument);
            rest = match behind.trim_ascii_start() {
                [] => &[],
                [b',', next @ ..] => next.trim_ascii_start(),
                _ => return None,
            };
        }
        Some(())
    }

    fn record(&mut self, name: &[u8], has_argument: bool) {
        let is = |directive: &str| name.eq_ignore_ascii_case(directive.as_bytes());
        self.no_store |= is("no-store") && !has_argument;
        self.private |= is("private") && !has_argument;
        self.private_fields |= is("private") && has_argument;
        self.public |= is("public");
        self.s_maxage |= is("s-maxage");
        self.must_understand |= is("must-understand");
    }
}

/// Returns whether `=` and an argument follow a directive's name, and the rest of the field.
/// Returns `None` for an unterminated quote.
fn argument(rest: &[u8]) -> Option<(bool, &[u8])> {
    let [b'=', rest @ ..] = rest else {
        return Some((false, rest));
    };
    let rest = rest.trim_ascii_start();
    let [b'"', quoted @ ..] = rest else {
        let end = rest.iter().position(|b| *b == b',');
        return Some((true, &rest[end.unwrap_or(rest.len())..]));
    };
    let mut escaped = false;
    let close = quoted.iter().position(|b| {
        let closes = *b == b'"' && !escaped;
        escaped = *b == b'\\' && !escaped;
        closes
    })?;
    Some((true, &quoted[close + 1..]))
}

/// Returns whether this byte may be in a token of HTTP (RFC 9110).
pub(super) fn is_token_char(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::SharedCaches::{Forbidden, Permitted, Unstated};
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    }

    #[test]
    fn cache_control_alone_decides() {
        for (field, expected) in [
            ("private", Forbidden),
            ("PRIVATE", Forbidden),
            ("no-store", Forbidden),
            ("No-Store", Forbidden),
            (" , ,private,", Forbidden),
            ("private, max-age=60", Forbidden),
            ("max-age=60, private", Forbidden),
            ("max-age = 60 , private", Forbidden),
            ("private, must-revalidate", Forbidden),
            ("private, no-cache=\"set-cookie\"", Forbidden),
            ("private, x=\"a, public\"", Forbidden),
            ("no-store, no-cache, must-revalidate, max-age=0, s-maxage=0", Forbidden),
            ("no-store, public", Forbidden),
            ("must-understand, private", Forbidden),
            ("", Unstated),
            ("no-cache", Unstated),
            ("no-cache=\"set-cookie\"", Unstated),
            ("max-age=60", Unstated),
            ("max-age=0, must-revalidate", Unstated),
            ("must-revalidate", Unstated),
            ("proxy-revalidate", Unstated),
            ("max-age=60, immutable, stale-while-revalidate=60", Unstated),
            ("x=\"a, no-store, private\"", Unstated),
            ("x=\"\\\", private\"", Unstated),
            ("no-store=1", Unstated),
            ("x-private, no-stored", Unstated),
            ("public", Permitted),
            ("public, max-age=60", Permitted),
            ("public, private", Permitted),
            ("private, public", Permitted),
            ("s-maxage=60", Permitted),
            ("private, s-maxage=60", Permitted),
            ("private, S-MaxAge = 60", Permitted),
            ("private=\"x\"", Permitted),
            ("private=\"set-cookie\"", Permitted),
            ("private=\"\"", Permitted),
            ("private=x", Permitted),
            ("private=\"x\", private", Permitted),
            ("private=\"a, no-store, b\"", Permitted),
            ("must-understand, no-store", Permitted),
            ("must-understand", Permitted),
            ("private, x=\"", Permitted),
            ("private \"", Permitted),
            ("private; no-store", Permitted),
            ("private max-age=60", Permitted),
        ] {
            let found = shared_caches(&headers(&[("cache-control", field)]));
            assert_eq!(found, expected, "{field}");
        }
        assert_eq!(shared_caches(&HeaderMap::new()), Unstated);
    }

    #[test]
    fn several_cache_control_fields_count_as_one() {
        for (fields, expected) in [
            (["no-cache", "private"], Forbidden),
            (["public", "no-store"], Forbidden),
            (["private", "s-maxage=60"], Permitted),
            (["private", "public"], Permitted),
            (["private, x=\"", "\""], Permitted),
            (["max-age=60", "no-cache"], Unstated),
        ] {
            let both = fields.map(|field| ("cache-control", field));
            assert_eq!(shared_caches(&headers(&both)), expected, "{fields:?}");
        }
    }

    #[test]
    fn fields_for_some_caches_override_cache_control() {
        for (name, field, expected) in [
            ("cdn-cache-control", "max-age=60", Permitted),
            ("cdn-cache-control", "", Permitted),
            ("cdn-cache-control", "no-cache", Permitted),
            ("cdn-cache-control", "public", Permitted),
            ("cdn-cache-control", "private=\"x\"", Permitted),
            ("cdn-cache-control", "private, s-maxage=60", Permitted),
            ("cdn-cache-control", "x=\"", Permitted),
            ("cdn-cache-control", "private", Forbidden),
            ("cdn-cache-control", "no-store", Forbidden),
            ("cloudflare-cdn-cache-control", "max-age=60", Permitted),
            ("cloudflare-cdn-cache-control", "no-store", Forbidden),
            ("netlify-cdn-cache-control", "public, durable", Permitted),
            ("vercel-cdn-cache-control", "max-age=60", Permitted),
            ("akamai-cache-control", "max-age=60", Permitted),
            ("x-litespeed-cache-control", "public,max-age=60", Permitted),
            ("surrogate-control", "max-age=60", Permitted),
            ("surrogate-control", "content=\"ESI/1.0\"", Permitted),
            ("surrogate-control", "private", Permitted),
            ("surrogate-control", "no-store", Forbidden),
            ("edge-control", "cache-maxage=60", Permitted),
            ("edge-control", "no-store", Forbidden),
            ("x-accel-expires", "60", Permitted),
            ("x-accel-expires", "@1893456000", Permitted),
            ("x-accel-expires", "", Permitted),
            ("x-accel-expires", "0", Forbidden),
            // These fields permit nothing that `Cache-Control: private` forbids.
            ("expires", "Tue, 01 Jan 2030 00:00:00 GMT", Forbidden),
            ("pragma", "public", Forbidden),
            ("age", "0", Forbidden),
            ("vary", "Accept-Encoding", Forbidden),
            ("surrogate-key", "page", Forbidden),
        ] {
            for in_cache_control in ["private", "no-store"] {
                let fields = [("cache-control", in_cache_control), (name, field)];
                let found = shared_caches(&headers(&fields));
                assert_eq!(found, expected, "{name}: {field}");
            }
        }
        let twice =
            [("cache-control", "private"), ("x-accel-expires", "0"), ("x-accel-expires", "60")];
        assert_eq!(shared_caches(&headers(&twice)), Permitted);
        // A field that forbids storing to some caches does not forbid it to the others.
        let open = [("cdn-cache-control", "no-store")];
        assert_eq!(shared_caches(&headers(&open)), Unstated);
    }

    #[test]
    fn forbid_keeps_fields_that_permit_nothing() {
        for (before, after) in [
            (vec![], vec![("cache-control", "private")]),
            (
                vec![("cache-control", "no-store"), ("expires", "0")],
                vec![("cache-control", "no-store"), ("expires", "0")],
            ),
            (
                vec![("cache-control", "no-cache"), ("vary", "accept")],
                vec![
                    ("cache-control", "no-cache"),
                    ("cache-control", "private"),
                    ("vary", "accept"),
                ],
            ),
            (
                vec![("cache-control", "public, max-age=60"), ("age", "1")],
                vec![("cache-control", "private"), ("age", "1")],
            ),
            (
                vec![
                    ("cache-control", "private"),
                    ("cdn-cache-control", "max-age=60"),
                    ("surrogate-control", "no-store"),
                    ("x-accel-expires", "60"),
                ],
                vec![("cache-control", "private"), ("surrogate-control", "no-store")],
            ),
        ] {
            let mut changed = headers(&before);
            forbid(&mut changed);
            assert_eq!(changed, headers(&after), "{before:?}");
        }
    }

    proptest! {
        #[test]
        fn forbid_leaves_no_permission(
            fields in prop::collection::vec(
                    (0..5_usize, concat!(
                        "(private|public|no-store|s-maxage|must-understand|max-age",
                        r#"|x|=|"|\\|,| |;|60){0,8}"#,
                    )),
                0..5,
            ),
        ) {
            let names = ["cache-control", "cdn-cache-control", "surrogate-control",
                "x-accel-expires", "expires"];
            let fields = fields.iter().map(|(at, value)| (names[*at], value.as_str()));
            let fields: Vec<_> = fields.collect();
            let mut headers = headers(&fields);
            forbid(&mut headers);
            prop_assert_eq!(shared_caches(&headers), Forbidden);
        }
    }
}
