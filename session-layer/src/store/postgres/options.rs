//! Conversion of a URL to sqlx's connect options.

use std::env;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::{Host, Url};

use super::PostgresStore;
use crate::model::server_url::{
    CHANNEL_BINDING, ServerKind, ServerUrl, ServerUrlError, UNKNOWN_TO_SQLX, VERIFY_CA,
};

impl PostgresStore {
    /// Returns sqlx's connect options for `url`, for a pool of the application's own
    /// ([`from_pool`](Self::from_pool)). `PG*` variables such as `PGPASSWORD` complete the URL.
    ///
    /// This differs from parsing the URL with sqlx in three ways. The host may be an IPv6 address.
    /// A root certificate (`sslrootcert`) is also verified under `sslmode=require`, and then with
    /// the host. A Unix socket has no TLS, as with libpq.
    ///
    /// # Errors
    /// [`ServerUrlError`] if the URL is of another server, if it names several hosts or
    /// `target_session_attrs`, which a pool of sqlx does not follow, if `PGSSLMODE` is `verify-ca`,
    /// or if its user, password or database is not UTF-8 once decoded.
    pub fn connect_options(url: &ServerUrl) -> Result<PgConnectOptions, ServerUrlError> {
        if !url.others().is_empty() {
            return Err(ServerUrlError::because(
                "it names several hosts, which a pool of sqlx does not try: name one, or let the \
                 store open its own pool (PostgresStore::builder)",
            ));
        }
        if url.target_session_attrs().is_some_and(|attrs| attrs != "any") {
            return Err(ServerUrlError::because(
                "it has target_session_attrs, which a pool of sqlx does not follow: remove it, or \
                 let the store open its own pool (PostgresStore::builder)",
            ));
        }
        Ok(Self::options_of_each(url)?.swap_remove(0))
    }

    /// Returns the options of each host, in order.
    pub(super) fn options_of_each(
        url: &ServerUrl,
    ) -> Result<Vec<PgConnectOptions>, ServerUrlError> {
        if url.kind() != ServerKind::Postgres {
            return Err(ServerUrlError::because(
                "it does not begin with postgres:// or postgresql://",
            ));
        }
        let mut options = vec![Self::options_of(url.expose())?];
        for address in url.others() {
            // A URL of its own, because sqlx completes it by what the environment and the password
            // file have for this host.
            let mut other = url.expose().clone();
            let (host, port) = split_port(address);
            let is_set = other.set_host(Some(host)).is_ok() && other.set_port(port).is_ok();
            if !is_set {
                return Err(ServerUrlError::because("one of its hosts cannot be read"));
            }
            options.push(Self::options_of(&other)?);
        }
        Ok(options)
    }

    fn options_of(url: &Url) -> Result<PgConnectOptions, ServerUrlError> {
        let mut read_by_sqlx = url.clone();
        // sqlx takes the host from the URL with its brackets, which no look-up accepts.
        let ipv6 = match url.host() {
            Some(Host::Ipv6(address)) => Some(address.to_string()),
            _ => None,
        };
        let is_unknown = |name: &str| UNKNOWN_TO_SQLX.contains(&name);
        if ipv6.is_some() || url.query_pairs().any(|(name, _)| is_unknown(&name)) {
            let known = url.query_pairs().filter(|(name, _)| !is_unknown(name));
            let mut parameters = read_by_sqlx.query_pairs_mut();
            parameters.clear();
            if let Some(address) = &ipv6 {
                parameters.append_pair("host", address);
            }
            parameters.extend_pairs(known);
        }
        // The error of sqlx may repeat a part of the URL.
        let options = PgConnectOptions::from_url(&read_by_sqlx).map_err(|_repeats_it| {
            ServerUrlError::because("its user, password or database is not UTF-8 once decoded")
        })?;
        let has_root = url
            .query_pairs()
            .any(|(name, _)| matches!(&*name, "sslrootcert" | "ssl-root-cert" | "ssl-ca"))
            || env::var_os("PGSSLROOTCERT").is_some();
        let binds_channel =
            url.query_pairs().any(|(name, value)| name == CHANNEL_BINDING && value == "require");
        match options.get_ssl_mode() {
            _ if options.get_socket().is_some() => Ok(options.ssl_mode(PgSslMode::Disable)),
            // PGSSLMODE names it.
            PgSslMode::VerifyCa => Err(ServerUrlError::because(VERIFY_CA)),
            // libpq leaves the host out. sqlx would then accept every certificate of a public CA.
            PgSslMode::Require if has_root || binds_channel => {
                Ok(options.ssl_mode(PgSslMode::VerifyFull))
            }
            _ if binds_channel => Ok(options.ssl_mode(PgSslMode::VerifyFull)),
            _ => Ok(options),
        }
    }
}

/// Splits `HOST`, `HOST:PORT` or the same with an IPv6 address in brackets.
fn split_port(address: &str) -> (&str, Option<u16>) {
    let parts = address.rsplit_once(':');
    match parts.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => (host, Some(port)),
        None => (address, None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;

    fn options(url: &str) -> PgConnectOptions {
        PostgresStore::connect_options(&url.parse().unwrap()).unwrap()
    }

    #[test]
    fn ipv6_host_loses_its_brackets() {
        let of = options("postgres://u:p@[2001:db8::1]:5433/app?sslmode=require");
        assert_eq!((of.get_host(), of.get_port()), ("2001:db8::1", 5433));
        assert_eq!(of.get_database(), Some("app"));
        assert!(matches!(of.get_ssl_mode(), PgSslMode::Require));
        assert_eq!(options("postgres://[::1]?host=db").get_host(), "db");
    }

    #[test]
    fn root_certificate_is_verified_under_require() {
        for (parameters, verified) in [
            ("sslmode=require&sslrootcert=/ca.pem", true),
            ("ssl-ca=/ca.pem&sslmode=require", true),
            ("sslmode=require", false),
        ] {
            let mode = options(&format!("postgres://h/d?{parameters}")).get_ssl_mode();
            let found = matches!(mode, PgSslMode::VerifyFull);
            assert_eq!(found, verified, "{parameters}: {mode:?}");
        }
        let mode = options("postgres://h/d?sslmode=prefer&sslrootcert=/ca.pem").get_ssl_mode();
        assert!(matches!(mode, PgSslMode::Prefer));
        let socket = options("postgres:///d?host=/run/postgresql&sslmode=require");
        assert!(matches!(socket.get_ssl_mode(), PgSslMode::Disable));
    }

    #[test]
    fn urls_of_providers_are_used_as_handed_out() {
        for (url, verifies) in [
            ("postgres://u:p@h/d?sslmode=require&channel_binding=require", true),
            ("postgres://u:p@h/d?channel_binding=require", true),
            ("postgres://u:p@h/d?sslmode=require&channel_binding=prefer", false),
            ("postgres://u:p@h/d?gssencmode=disable", false),
            ("postgres://u:p@h:6543/d?pgbouncer=true", false),
        ] {
            let mode = options(url).get_ssl_mode();
            assert_eq!(matches!(mode, PgSslMode::VerifyFull), verifies, "{url}: {mode:?}");
        }
        let contradicts = "postgres://h/d?channel_binding=require&sslmode=prefer";
        assert!(contradicts.parse::<ServerUrl>().is_err());
    }

    #[test]
    fn pool_of_the_application_does_not_choose_among_servers() {
        for url in ["postgres://a,b/d", "postgres://a/d?target_session_attrs=read-write"] {
            let refused = PostgresStore::connect_options(&url.parse().unwrap()).unwrap_err();
            assert!(refused.to_string().contains("PostgresStore::builder"), "{url}: {refused}");
        }
    }

    #[test]
    fn user_may_come_without_a_host_if_a_parameter_names_the_socket() {
        let of = options("postgres://app:pw@/app?host=/cloudsql/project:region:instance");
        let folder = "/cloudsql/project:region:instance";
        assert_eq!(of.get_socket().unwrap().to_str(), Some(folder));
        assert_eq!((of.get_username(), of.get_database()), ("app", Some("app")));
        assert!("postgres://app:pw@/app".parse::<ServerUrl>().is_err());
    }

    #[test]
    fn socket_folder_is_no_host_name() {
        let of = options("postgres://%2Frun%2Fpostgres/app");
        assert_eq!(of.get_socket().unwrap().to_str(), Some("/run/postgres"));
    }
}
