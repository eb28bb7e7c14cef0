//! The settings of TLS to Postgres, beside those of the URL.

use std::net::IpAddr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::connect_error::At;
use crate::model::error::ConfigError;
use crate::model::server_url::ServerUrl;
use crate::model::tls::{Pem, TlsSettings};

/// The warning in the log and in the health document.
pub(super) const INSECURE: &str = "TLS to Postgres accepts every certificate \
     (DATABASE_TLS_INSECURE): anyone in between can read and change sessions. Set \
     DATABASE_TLS_CA_FILE instead";

/// The warning if an unverified connection leaves this machine.
pub(super) const UNVERIFIED: &str = "the certificate of Postgres is not verified, or the \
     connection has no TLS (sslmode): anyone in between can read and change sessions. Set \
     sslmode=verify-full in DATABASE_URL, and DATABASE_TLS_CA_FILE if the CA is not one of the \
     system";

/// Returns the warning about the TLS of a connection, if there is one.
pub(super) fn remark(options: &PgConnectOptions, tls: &TlsSettings) -> Option<&'static str> {
    if tls.insecure {
        return Some(INSECURE);
    }
    let is_verified = matches!(options.get_ssl_mode(), PgSslMode::VerifyFull);
    let is_remote = !At(options).is_socket() && !is_loopback(options.get_host());
    (is_remote && !is_verified).then_some(UNVERIFIED)
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_name) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Adds the settings to the options of a URL. Without any, the URL decides.
pub(super) fn add(
    options: PgConnectOptions,
    tls: &TlsSettings,
    url: &ServerUrl,
) -> Result<PgConnectOptions, ConfigError> {
    if *tls == TlsSettings::new() {
        return Ok(options);
    }
    if !cfg!(feature = "tls") {
        let needed_for = "settings of TLS to Postgres";
        return Err(ConfigError::MissingFeature { feature: "tls", needed_for });
    }
    check(tls, url)?;
    if options.get_socket().is_some() {
        return Err(ConfigError::Combination(
            "DATABASE_URL names a Unix socket, which has no TLS: remove DATABASE_TLS_… \
             (PostgresStoreBuilder::tls)",
        ));
    }
    let mode = if tls.insecure { PgSslMode::Require } else { PgSslMode::VerifyFull };
    let mut options = options.ssl_mode(mode);
    options = match &tls.ca {
        None => options,
        Some(Pem::File(path)) => options.ssl_root_cert(path),
        Some(Pem::Text(pem)) => options.ssl_root_cert_from_pem(pem.to_vec()),
    };
    let Some((certificate, key)) = &tls.client else { return Ok(options) };
    let options = match certificate {
        Pem::File(path) => options.ssl_client_cert(path),
        Pem::Text(pem) => options.ssl_client_cert_from_pem(&**pem),
    };
    Ok(match key {
        Pem::File(path) => options.ssl_client_key(path),
        Pem::Text(pem) => options.ssl_client_key_from_pem(&**pem),
    })
}

/// Refuses a CA without a certificate, such as an empty file or one in DER. sqlx would ignore it,
/// and trust the CAs of the system alone. A file that cannot be read is left to each connection.
#[cfg(feature = "tls")]
pub(super) fn check_ca(tls: &TlsSettings, url: &ServerUrl) -> Result<(), ConfigError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let in_url = || parameter(url, &["sslrootcert", "ssl-root-cert", "ssl-ca"]);
    let pem = match &tls.ca {
        Some(Pem::Text(pem)) => Ok(pem.to_vec()),
        Some(Pem::File(path)) => std::fs::read(path),
        None => match in_url().or_else(|| std::env::var("PGSSLROOTCERT").ok()) {
            None => return Ok(()),
            Some(text) if text.trim_start().starts_with("-----BEGIN") => Ok(text.into_bytes()),
            Some(path) => std::fs::read(path),
        },
    };
    let Ok(pem) = pem else { return Ok(()) };
    let mut certificates = CertificateDer::pem_slice_iter(&pem);
    match certificates.next() {
        Some(Ok(_)) => Ok(()),
        _ => Err(ConfigError::tls(
            "the CA of Postgres has no certificate in PEM (-----BEGIN CERTIFICATE-----): check \
             DATABASE_TLS_CA_FILE (TlsSettings::ca_file, ca_pem), and sslrootcert in DATABASE_URL",
        )),
    }
}

fn check(tls: &TlsSettings, url: &ServerUrl) -> Result<(), ConfigError> {
    if tls.server_name.is_some() {
        return Err(ConfigError::Combination(
            "TlsSettings::server_name has no effect on Postgres: name in DATABASE_URL a host that \
             the certificate has",
        ));
    }
    if tls.insecure && tls.ca.is_some() {
        return Err(ConfigError::Combination(
            "DATABASE_TLS_INSECURE (TlsSettings::insecure) accepts every certificate, so \
             DATABASE_TLS_CA_FILE (ca_file, ca_pem) has no effect: remove one of them",
        ));
    }
    let mode = parameter(url, &["sslmode", "ssl-mode"]);
    match mode.as_deref() {
        Some("disable" | "allow" | "prefer") => {
            return Err(ConfigError::Combination(
                "sslmode in DATABASE_URL permits connections without TLS, which the settings of \
                 TLS (DATABASE_TLS_…, PostgresStoreBuilder::tls) contradict: remove one of both",
            ));
        }
        Some("verify-full") if tls.insecure => {
            return Err(ConfigError::Combination(
                "sslmode in DATABASE_URL verifies the certificate, and DATABASE_TLS_INSECURE \
                 (TlsSettings::insecure) accepts every one: remove one of them",
            ));
        }
        _ => {}
    }
    let names_ca = parameter(url, &["sslrootcert", "ssl-root-cert", "ssl-ca"]).is_some();
    let names_client = parameter(url, &["sslcert", "ssl-cert", "sslkey", "ssl-key"]).is_some();
    if (names_ca && (tls.ca.is_some() || tls.insecure)) || (names_client && tls.client.is_some()) {
        return Err(ConfigError::Combination(
            "DATABASE_URL (sslrootcert, sslcert, sslkey) and the settings of TLS (DATABASE_TLS_…, \
             PostgresStoreBuilder::tls) name the same files: remove them from one of both",
        ));
    }
    Ok(())
}

fn parameter(url: &ServerUrl, names: &[&str]) -> Option<String> {
    let mut parameters = url.expose().query_pairs();
    parameters.find(|(name, _)| names.contains(&&**name)).map(|(_, value)| value.into_owned())
}

#[cfg(all(test, feature = "tls"))]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;
    use crate::store::PostgresStore;

    fn added(url: &str, tls: &TlsSettings) -> Result<PgConnectOptions, String> {
        let url = url.parse().unwrap();
        let options = PostgresStore::connect_options(&url).unwrap();
        add(options, tls, &url).map_err(|error| error.to_string())
    }

    #[test]
    fn unverified_connection_that_leaves_the_machine_has_a_remark() {
        let (none, ca) = (TlsSettings::new(), TlsSettings::new().ca_file("/ca.pem"));
        for (url, tls, warns) in [
            ("postgres://db/d", &none, true),
            ("postgres://db/d?sslmode=require", &none, true),
            ("postgres://10.0.0.1/d?sslmode=disable", &none, true),
            ("postgres://[2001:db8::1]/d", &none, true),
            ("postgres://localhost.example.com/d", &none, true),
            ("postgres://db/d?sslmode=verify-full", &none, false),
            ("postgres://db/d?sslmode=require&sslrootcert=/ca.pem", &none, false),
            ("postgres://db/d?channel_binding=require", &none, false),
            ("postgres://db/d", &ca, false),
            ("postgres://localhost/d", &none, false),
            ("postgres://127.0.0.2/d", &none, false),
            ("postgres://[::1]/d", &none, false),
            ("postgres:///d?host=/run/postgresql", &none, false),
        ] {
            let remark = remark(&added(url, tls).unwrap(), tls);
            assert_eq!(remark, warns.then_some(UNVERIFIED), "{url}");
        }
        let insecure = TlsSettings::new().insecure(true);
        let options = added("postgres://localhost/d", &insecure).unwrap();
        assert_eq!(remark(&options, &insecure), Some(INSECURE));
    }

    #[test]
    fn settings_require_tls_and_verify_the_host() {
        let ca = TlsSettings::new().ca_file("/ca.pem");
        for (url, tls, mode) in [
            ("postgres://h/d", TlsSettings::new(), "Prefer"),
            ("postgres://h/d", ca.clone(), "VerifyFull"),
            ("postgres://h/d?sslmode=require", ca.clone(), "VerifyFull"),
            ("postgres://h/d", TlsSettings::new().insecure(true), "Require"),
            ("postgres://h/d", TlsSettings::new().client_files("/c", "/k"), "VerifyFull"),
        ] {
            let options = added(url, &tls).unwrap();
            assert_eq!(format!("{:?}", options.get_ssl_mode()), mode, "{url} {tls:?}");
        }
    }

    #[test]
    fn ca_without_a_certificate_is_refused() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let url = "postgres://h/d".parse().unwrap();
        for (text, is_ca) in [("", false), ("DER", false), (pem, true)] {
            let checked = check_ca(&TlsSettings::new().ca_pem(text), &url);
            assert_eq!(checked.is_ok(), is_ca, "{text}");
        }
        assert!(check_ca(&TlsSettings::new().ca_file("/no/such"), &url).is_ok());
    }

    #[test]
    fn contradictions_are_refused() {
        let new = TlsSettings::new;
        for (url, tls, words) in [
            ("postgres://h/d", new().server_name("n"), "no effect on Postgres"),
            ("postgres://u@%2Frun%2Fpg/d", new().ca_file("/ca"), "Unix socket"),
            ("postgres://h/d", new().insecure(true).ca_file("/ca"), "DATABASE_TLS_CA_FILE"),
            ("postgres://h/d?sslmode=prefer", new().ca_file("/ca"), "without TLS"),
            ("postgres://h/d?sslmode=verify-full", new().insecure(true), "DATABASE_TLS_INSECURE"),
            ("postgres://h/d?sslrootcert=/ca", new().ca_file("/ca"), "sslrootcert"),
            ("postgres://h/d?sslcert=/c", new().client_files("/c", "/k"), "sslcert"),
        ] {
            let error = added(url, &tls).unwrap_err();
            assert!(error.contains(words), "{url}: {error}");
        }
    }
}
