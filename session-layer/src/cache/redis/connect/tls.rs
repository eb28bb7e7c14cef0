//! TLS to Redis, with rustls and ring. No provider of the process is set or used.

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, LazyLock, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::task::spawn_blocking;
use tokio_rustls::{Connect, TlsConnector};
use zeroize::Zeroizing;

use super::failure::{self, ConnectCause, ConnectError};
use super::first_bytes::FirstBytes;
use super::{Address, Stream};
use crate::model::lock::lock;
use crate::model::tls::{Pem, TlsProblem, TlsSettings};

/// The CAs of the system, which are read once.
static SYSTEM_ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
});

/// The TLS of one cache.
pub(super) struct Tls {
    settings: TlsSettings,
    /// The configuration of the last connection, and what its files contained.
    last: Mutex<Option<(Texts, Arc<ClientConfig>)>>,
}

/// The content of the files, in the order CA, certificate, key.
type Texts = Vec<Zeroizing<Vec<u8>>>;

/// The reason why TLS cannot be configured.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("{what} cannot be read ({source})")]
    Unreadable { what: &'static str, source: io::Error },
    #[error("{what} is not PEM, or has none of them")]
    NotPem { what: &'static str },
    #[error("{what} cannot be used ({source})")]
    Unusable { what: &'static str, source: rustls::Error },
    #[error("the name of the server is not a host name")]
    BadName,
}

const CA: &str = "the file of CAs (REDIS_TLS_CA_FILE)";
const CERTIFICATE: &str = "the client certificate (REDIS_TLS_CERT_FILE)";
const KEY: &str = "the key of the client certificate (REDIS_TLS_KEY_FILE)";

impl Tls {
    /// Reads the files and checks them.
    pub(super) fn new(settings: TlsSettings) -> Result<Self, TlsError> {
        if let Some(name) = &settings.server_name {
            ServerName::try_from(name.as_str()).map_err(|_| TlsError::BadName)?;
        }
        let tls = Self { settings, last: Mutex::default() };
        tls.config()?;
        Ok(tls)
    }

    pub(super) fn is_insecure(&self) -> bool {
        self.settings.insecure
    }

    /// Begins the handshake.
    pub(super) async fn handshake(
        self: &Arc<Self>,
        at: &Address,
        stream: FirstBytes<Box<dyn Stream>>,
    ) -> Result<Connect<FirstBytes<Box<dyn Stream>>>, ConnectError> {
        // The volume of the files may hang.
        let tls = Arc::clone(self);
        let config = spawn_blocking(move || tls.config()).await.unwrap_or_else(|ended| {
            Err(TlsError::Unreadable { what: "the files of TLS", source: io::Error::other(ended) })
        });
        let config = config.map_err(|error| failure::tls_settings(at, error))?;
        let host = match at {
            Address::Tcp { host, .. } => host,
            Address::Unix(_) => "localhost",
        };
        let name = self.settings.server_name.as_deref().unwrap_or(host).to_owned();
        let name =
            ServerName::try_from(name).map_err(|_| failure::tls_settings(at, TlsError::BadName))?;
        Ok(TlsConnector::from(config).connect(name, stream))
    }

    /// Returns the configuration with the present content of the files.
    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let TlsSettings { ca, client, .. } = &self.settings;
        let mut texts = Vec::new();
        let mut read = |pem: &Pem, what| match text(pem) {
            Ok(text) => {
                texts.push(Zeroizing::new(text.into_owned()));
                Ok(())
            }
            Err(source) => Err(TlsError::Unreadable { what, source }),
        };
        if let Some(ca) = ca {
            read(ca, CA)?;
        }
        if let Some((certificate, key)) = client {
            read(certificate, CERTIFICATE)?;
            read(key, KEY)?;
        }
        let mut last = lock(&self.last);
        if let Some((_, config)) = last.as_ref().filter(|(before, _)| *before == texts) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.configure(&texts)?);
        *last = Some((texts, Arc::clone(&config)));
        Ok(config)
    }

    fn configure(&self, texts: &[Zeroizing<Vec<u8>>]) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Unusable { what: "TLS", source })?;
        let mut texts = texts.iter();
        let roots = match &self.settings.ca {
            Some(_) => Arc::new(roots(texts.next().map_or(&[][..], |text| text))?),
            None => Arc::clone(&SYSTEM_ROOTS),
        };
        let builder = if self.settings.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
        } else {
            builder.with_root_certificates(roots)
        };
        let (Some(certificate), Some(key)) = (texts.next(), texts.next()) else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(certificate, CERTIFICATE)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NotPem { what: KEY })?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|source| TlsError::Unusable { what: CERTIFICATE, source })
    }
}

fn text(pem: &Pem) -> io::Result<Cow<'_, [u8]>> {
    match pem {
        Pem::File(path) => std::fs::read(path).map(Cow::Owned),
        Pem::Text(text) => Ok(Cow::Borrowed(text)),
    }
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(TlsError::NotPem { what })
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, CA)? {
        roots.add(certificate).map_err(|source| TlsError::Unusable { what: CA, source })?;
    }
    Ok(roots)
}

/// A verifier that accepts every certificate, for [`TlsSettings::insecure`].
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Explains an error of rustls: the cause, the reason and the remedy.
pub(super) fn explain(error: &rustls::Error) -> (ConnectCause, String, &'static str) {
    let (cause, why, remedy) = match TlsProblem::of(error) {
        TlsProblem::UnknownCa => (
            ConnectCause::Certificate,
            "the server's certificate is of an unknown CA",
            "set REDIS_TLS_CA_FILE (RedisCacheBuilder::tls) to the PEM file of its CA. For a \
             public CA, check that this machine has CAs (package ca-certificates, SSL_CERT_FILE)",
        ),
        TlsProblem::OtherName => (
            ConnectCause::Certificate,
            "the server's certificate is for another host name",
            "use in REDIS_URL a name that the certificate has, or set REDIS_TLS_SERVER_NAME to one",
        ),
        TlsProblem::Expired => (
            ConnectCause::Certificate,
            "the server's certificate has expired",
            "renew it, and check the clock of this machine",
        ),
        TlsProblem::NotValidYet => (
            ConnectCause::Certificate,
            "the server's certificate is not valid yet",
            "check the clocks of this machine and of the server",
        ),
        TlsProblem::ServerCertificate => (
            ConnectCause::Certificate,
            "the server's certificate is not accepted",
            "give the server a certificate that a CA has issued, and set REDIS_TLS_CA_FILE to the \
             PEM file of that CA",
        ),
        TlsProblem::OurCertificate => (
            ConnectCause::ClientCertificate,
            "the server requires a certificate of this client that its CA has issued",
            "set REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE (RedisCacheBuilder::tls)",
        ),
        TlsProblem::Handshake => (
            ConnectCause::Tls,
            "the TLS handshake failed",
            "check that the port speaks TLS 1.2 or 1.3 (tls-port, tls-protocols)",
        ),
    };
    (cause, format!("{why} ({error})"), remedy)
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError};

    use super::*;

    #[test]
    fn each_certificate_problem_has_its_remedy() {
        use CertificateError::{Expired, NotValidForName, NotValidYet, Revoked, UnknownIssuer};
        for (error, why, remedy) in [
            (UnknownIssuer, "unknown CA", "REDIS_TLS_CA_FILE"),
            (UnknownIssuer, "unknown CA", "ca-certificates"),
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
}
