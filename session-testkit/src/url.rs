//! URLs of servers: reading the address, and replacing the address or the user. [`ServerUrl`]
//! parses the URLs for both the application and the testkit.

use session_layer::server_url::ServerUrl;

/// Returns the `host:port` of a URL, with the scheme's default port filled in. Returns `None` if
/// the text is not a URL, or if the URL names no host.
pub fn address(url: &str) -> Option<String> {
    url.parse::<ServerUrl>().ok()?.address()
}

/// Returns the URL with another `host:port` and otherwise unchanged.
///
/// A text without a host is returned unchanged.
pub(crate) fn with_address(url: &str, address: &str) -> String {
    replaced(url, address).unwrap_or_else(|| url.to_owned())
}

fn replaced(url: &str, address: &str) -> Option<String> {
    let url: ServerUrl = url.parse().ok()?;
    url.address()?;
    let (host, port) = address.rsplit_once(':')?;
    let mut changed = url.expose().clone();
    changed.set_host(Some(host)).ok()?;
    changed.set_port(Some(port.parse().ok()?)).ok()?;
    // Postgres prefers these parameters to the authority.
    let names_a_host = |name: &str| matches!(name, "host" | "hostaddr" | "port");
    let parameters = || url.expose().query_pairs();
    if parameters().any(|(name, _)| names_a_host(&name)) {
        let others = parameters().filter(|(name, _)| !names_a_host(name));
        changed.query_pairs_mut().clear().extend_pairs(others);
    }
    Some(changed.into())
}

/// Returns the URL with one more parameter, and with another user and password unless `user` is
/// `None`. A text that is not a URL is returned unchanged.
pub(crate) fn as_user(
    url: &str,
    user: Option<(&str, &str)>,
    (name, value): (&str, &str),
) -> String {
    let Ok(parsed) = url.parse::<ServerUrl>() else {
        return url.to_owned();
    };
    let mut changed = parsed.expose().clone();
    if let Some((user, password)) = user {
        // An error means that there is no host, and therefore no place for a user.
        let _no_host =
            changed.set_username(user).and_then(|()| changed.set_password(Some(password)));
    }
    changed.query_pairs_mut().append_pair(name, value);
    changed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_found_with_and_without_port_and_user() {
        for (url, expected) in [
            ("redis://h:1/0", Some("h:1")),
            ("redis://h", Some("h:6379")),
            ("rediss://u:p@ss@h/1", Some("h:6379")),
            ("postgres://u@h/db", Some("h:5432")),
            ("postgres://[::1]/db", Some("[::1]:5432")),
            ("postgres://[::1]:7/db", Some("[::1]:7")),
            ("postgres:///db?host=/run", None),
            ("nonsense", None),
        ] {
            assert_eq!(address(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn address_is_replaced_in_authority_and_parameters() {
        for (url, expected) in [
            ("redis://h", "redis://a:1"),
            ("rediss://u:p%2Fq@h:6379/2", "rediss://u:p%2Fq@a:1/2"),
            ("postgres://u@[::1]/db?sslmode=require", "postgres://u@a:1/db?sslmode=require"),
            ("postgres:///db?host=h&port=7&user=u", "postgres://a:1/db?user=u"),
            ("postgres:///db?host=/run", "postgres:///db?host=/run"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(with_address(url, "a:1"), expected, "{url}");
        }
        assert_eq!(with_address("redis://h", "[::1]:2"), "redis://[::1]:2");
    }

    #[test]
    fn user_is_replaced_and_parameter_is_added() {
        let with = |url, user| as_user(url, user, ("n", "v"));
        let another = Some(("x", "y"));
        assert_eq!(with("postgres://a:b@h:1/d", another), "postgres://x:y@h:1/d?n=v");
        assert_eq!(with("postgres://h/d?dbname=b", another), "postgres://x:y@h/d?dbname=b&n=v");
        assert_eq!(with("postgres://a@h/d", None), "postgres://a@h/d?n=v");
    }
}
