//! Conversion of a URL to sqlx's connect options.

use std::env;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Host;

use super::PostgresStore;
use crate::model::server_url::{ServerKind, ServerUrl, ServerUrlError, TARGET_SESSION_ATTRS};

impl PostgresStore {
    /// Returns sqlx's connect options for `url`, for a pool of the application's own
    /// ([`from_pool`](Self::from_pool)). `PG*` variables such as `PGPASSWORD` complete the URL.
    ///
    /// This differs from parsing the URL with sqlx in two ways. The host may be an IPv6 address. A
    /// root certificate (`sslrootcert`) is also verified under `sslmode=require`, as libpq does.
    ///
    /// # Errors
    /// [`ServerUrlError`] if the URL is of another server, if it names several hosts, or if its
    /// user, password or database is not UTF-8 once decoded.
    pub fn connect_options(url: &ServerUrl) -> Result<PgConnectOptions, ServerUrlError> {
        if !url.others().is_empty() {
            return Err(ServerUrlError::because(
                "it names several hosts, which a pool of sqlx does not try: name one, or let the \
                 store open its own pool (PostgresStore::builder)",
            ));
        }
        Self::options_of_first(url)
    }

    /// Returns the options of the first host.
    pub(super) fn options_of_first(url: &ServerUrl) -> Result<PgConnectOptions, ServerUrlError> {
        if url.kind() != ServerKind::Postgres {
            return Err(ServerUrlError::because(
                "it does not begin with postgres:// or postgresql://",
            ));
        }
        let url = url.expose();
        let mut read_by_sqlx = url.clone();
        // sqlx takes the host from the URL with its brackets, which no look-up accepts.
        let ipv6 = match url.host() {
            Some(Host::Ipv6(address)) => Some(address.to_string()),
            _ => None,
        };
        // sqlx does not know this one.
        let attrs = |name: &str| name == TARGET_SESSION_ATTRS;
        if ipv6.is_some() || url.query_pairs().any(|(name, _)| attrs(&name)) {
            let known = url.query_pairs().filter(|(name, _)| !attrs(name));
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
        Ok(match options.get_ssl_mode() {
            PgSslMode::Require if has_root => options.ssl_mode(PgSslMode::VerifyCa),
            _ => options,
        })
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
            let found = matches!(mode, PgSslMode::VerifyCa);
            assert_eq!(found, verified, "{parameters}: {mode:?}");
        }
        let mode = options("postgres://h/d?sslmode=prefer&sslrootcert=/ca.pem").get_ssl_mode();
        assert!(matches!(mode, PgSslMode::Prefer));
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
