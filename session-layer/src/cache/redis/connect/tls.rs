//! TLS to Redis, with rustls and ring. No provider of the process is set or used.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio_rustls::{Connect, TlsConnector};

use super::failure::{ConnectCause, ConnectError, Speaks};
use super::first_bytes::FirstBytes;
use super::{Address, Stream};
use crate::model::error::ConfigError;

/// The TLS of one cache.
pub(super) struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    pub(super) fn new() -> Result<Self, ConfigError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError::redis_url(super::URL, error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config) })
    }

    /// Begins the handshake.
    pub(super) fn handshake(
        &self,
        at: &Address,
        stream: FirstBytes<Box<dyn Stream>>,
    ) -> Result<Connect<FirstBytes<Box<dyn Stream>>>, ConnectError> {
        let name = match at {
            Address::Tcp { host, .. } => host.clone(),
            Address::Unix(_) => "localhost".to_owned(),
        };
        let name = ServerName::try_from(name)
            .map_err(|error| super::failure::tls(at, io::Error::other(error), Speaks::Nothing))?;
        Ok(TlsConnector::from(Arc::clone(&self.config)).connect(name, stream))
    }
}

/// Returns the error of rustls among the causes of an error.
pub(super) fn rustls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>() {
            // The source of an I/O error is that of its content, so the content is looked at.
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// Explains an error of rustls: the cause, the reason and the remedy.
pub(super) fn explain(error: &rustls::Error) -> (ConnectCause, String, &'static str) {
    use AlertDescription as Alert;
    use CertificateError as Bad;
    let (cause, why, remedy) = match error {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => (
            ConnectCause::Certificate,
            "the server's certificate is of an unknown CA",
            "set REDIS_TLS_CA_FILE (RedisCacheBuilder::tls) to the PEM file of its CA",
        ),
        rustls::Error::InvalidCertificate(
            Bad::NotValidForName | Bad::NotValidForNameContext { .. },
        ) => (
            ConnectCause::Certificate,
            "the server's certificate is for another host name",
            "use in REDIS_URL a name that the certificate has, or set REDIS_TLS_SERVER_NAME to one",
        ),
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => (
            ConnectCause::Certificate,
            "the server's certificate has expired",
            "renew it, and check the clock of this machine",
        ),
        rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => (
            ConnectCause::Certificate,
            "the server's certificate is not valid yet",
            "check the clocks of this machine and of the server",
        ),
        rustls::Error::InvalidCertificate(_) => (
            ConnectCause::Certificate,
            "the server's certificate is not accepted",
            "give the server a certificate that a CA has issued, and set REDIS_TLS_CA_FILE to the \
             PEM file of that CA",
        ),
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied,
        ) => (
            ConnectCause::ClientCertificate,
            "the server requires a certificate of this client that its CA has issued",
            "set REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE (RedisCacheBuilder::tls)",
        ),
        _ => (
            ConnectCause::Tls,
            "the TLS handshake failed",
            "check that the port speaks TLS 1.2 or 1.3 (tls-port, tls-protocols)",
        ),
    };
    (cause, format!("{why} ({error})"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_problem_has_its_remedy() {
        use CertificateError::{Expired, NotValidForName, NotValidYet, Revoked, UnknownIssuer};
        for (error, why, remedy) in [
            (UnknownIssuer, "unknown CA", "REDIS_TLS_CA_FILE"),
            (NotValidForName, "another host name", "REDIS_TLS_SERVER_NAME"),
            (Expired, "expired", "renew"),
            (NotValidYet, "not valid yet", "clocks"),
            (Revoked, "not accepted", "REDIS_TLS_CA_FILE"),
        ] {
            let (cause, text, help) = explain(&rustls::Error::InvalidCertificate(error));
            assert_eq!(cause, ConnectCause::Certificate, "{text}");
            assert!(text.contains(why) && help.contains(remedy), "{text}: {help}");
        }
        let required = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        assert_eq!(explain(&required).0, ConnectCause::ClientCertificate);
        let other = rustls::Error::AlertReceived(AlertDescription::ProtocolVersion);
        assert_eq!(explain(&other).0, ConnectCause::Tls);
    }

    #[test]
    fn error_of_rustls_is_found_below_others() {
        let inner = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let error = redis::RedisError::from(io::Error::other(inner.clone()));
        assert_eq!(rustls_error(&error), Some(&inner));
        assert_eq!(rustls_error(&io::Error::other("text")), None);
    }
}
