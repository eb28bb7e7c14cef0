//! The few things that we do to URLs: read the address, replace it, hide the secret.
//!
//! By hand rather than with the `url` crate: the text has to come out as it went in, but for the
//! one part that changes, and a URL that a client library would refuse must still be printable.

use std::ops::Range;

/// Where in `url` the `user:password@` and the `host:port` stand.
fn authority(url: &str) -> Option<(Range<usize>, Range<usize>)> {
    let begin = url.find("://")? + 3;
    let end = url[begin..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |length| begin + length);
    // A password may contain an `@`: the last one ends it.
    let host = url[begin..end]
        .rfind('@')
        .map_or(begin, |at| begin + at + 1);
    Some((begin..host, host..end))
}

/// `host:port` of a URL, with the scheme's default port filled in; `None` if it names no host.
#[must_use]
pub fn address(url: &str) -> Option<String> {
    let (_, host) = authority(url)?;
    let host = &url[host];
    if host.is_empty() || host.starts_with(':') {
        return None;
    }
    // An IPv6 address has colons of its own, inside brackets.
    let has_port = host.rfind(':') > host.rfind(']');
    let has_port = has_port && host.contains(':');
    if has_port {
        return Some(host.to_owned());
    }
    let port = if url.starts_with("redis") || url.starts_with("valkey") {
        6379
    } else {
        5432
    };
    Some(format!("{host}:{port}"))
}

/// The URL with another `host:port`: same scheme, user, password, path and parameters.
///
/// A URL without a host comes back as it was.
///
/// # Examples
///
/// ```
/// use session_testkit::url::with_address;
///
/// let url = with_address("redis://:secret@cache.internal:6379/2", "127.0.0.1:4000");
/// assert_eq!(url, "redis://:secret@127.0.0.1:4000/2");
/// ```
#[must_use]
pub fn with_address(url: &str, address: &str) -> String {
    match authority(url) {
        Some((_, host)) => format!("{}{address}{}", &url[..host.start], &url[host.end..]),
        None => url.to_owned(),
    }
}

/// The URL with another user and password, and with one more parameter (`name=value`).
pub(crate) fn as_user(url: &str, user: &str, parameter: &str) -> String {
    let url = match authority(url) {
        Some((old, host)) if !user.is_empty() => {
            format!("{}{user}@{}", &url[..old.start], &url[host.start..])
        }
        _ => url.to_owned(),
    };
    let begins = if url.contains('?') { '&' } else { '?' };
    format!("{url}{begins}{parameter}")
}

/// The URL as it may be printed: what is secret becomes `***`.
///
/// That is the password, and every parameter (`?password=…`, `?sslkey=…`), whose names nobody
/// can list; text that is no URL is hidden altogether.
#[must_use]
pub fn redacted(url: &str) -> String {
    let Some((user, host)) = authority(url) else {
        return match url.split_once(':') {
            Some(("sqlite", _)) => url.to_owned(),
            _ => "***".to_owned(),
        };
    };
    let user = match url[user.clone()].trim_end_matches('@').split_once(':') {
        Some((name, _)) => format!("{name}:***@"),
        // A name alone is a name for Postgres and for Redis too.
        None => url[user].to_owned(),
    };
    let scheme = &url[..url.find("://").map_or(0, |at| at + 3)];
    let rest = &url[host.end..];
    match rest.find(['?', '#']) {
        Some(at) => format!("{scheme}{user}{}{}?***", &url[host], &rest[..at]),
        None => format!("{scheme}{user}{}{rest}", &url[host]),
    }
}

/// A text that may quote a URL, with the URL's password hidden.
pub(crate) fn without_password(text: &str, url: &str) -> String {
    let password = authority(url).and_then(|(user, _)| {
        let (_, password) = url[user].trim_end_matches('@').split_once(':')?;
        Some(password)
    });
    match password {
        Some(password) if !password.is_empty() => text.replace(password, "***"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_found_with_and_without_port_and_user() {
        assert_eq!(address("redis://h:1/0").as_deref(), Some("h:1"));
        assert_eq!(address("redis://h").as_deref(), Some("h:6379"));
        assert_eq!(address("rediss://u:p@ss@h/1").as_deref(), Some("h:6379"));
        assert_eq!(address("postgres://u@h/db").as_deref(), Some("h:5432"));
        assert_eq!(
            address("postgres://[::1]/db").as_deref(),
            Some("[::1]:5432")
        );
        assert_eq!(address("postgres://[::1]:7/db").as_deref(), Some("[::1]:7"));
        assert_eq!(address("postgres:///db?host=/run"), None);
        assert_eq!(address("nonsense"), None);
    }

    #[test]
    fn another_user_takes_the_place_of_the_one_there_was() {
        let url = as_user("postgres://a:b@h:1/d", "x:y", "n=v");
        assert_eq!(url, "postgres://x:y@h:1/d?n=v");
        let url = as_user("postgres://h/d?a=b", "x:y", "n=v");
        assert_eq!(url, "postgres://x:y@h/d?a=b&n=v");
        let url = as_user("postgres://a@h/d", "", "n=v");
        assert_eq!(url, "postgres://a@h/d?n=v");
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        assert_eq!(redacted("redis://:s3cret@h:1/0"), "redis://:***@h:1/0");
        assert_eq!(
            redacted("postgres://u:s3cret@h/db"),
            "postgres://u:***@h/db"
        );
        assert_eq!(
            redacted("postgres://u:a@b:s3cret@h/db"),
            "postgres://u:***@h/db"
        );
        assert_eq!(
            redacted("postgres://h/db?password=s3cret"),
            "postgres://h/db?***"
        );
        assert_eq!(redacted("s3cret"), "***");
        assert_eq!(redacted("redis://h"), "redis://h");
        assert_eq!(redacted("sqlite:a.db"), "sqlite:a.db");
    }
}
