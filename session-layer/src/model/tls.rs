//! The settings of TLS to a server.

#[cfg(all(feature = "tls", any(feature = "redis", feature = "postgres")))]
mod problem;

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

#[cfg(all(feature = "tls", any(feature = "redis", feature = "postgres")))]
pub(crate) use self::problem::TlsProblem;

/// The settings of TLS to a server. Without any, the server's certificate must be of a CA of the
/// system and name the host of the URL.
///
/// Files are PEM. They are read at the start and again for each connection, so a renewed
/// certificate needs no restart.
#[derive(Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct TlsSettings {
    pub(crate) ca: Option<Pem>,
    /// The certificate with its chain, and the key.
    pub(crate) client: Option<(Pem, Pem)>,
    pub(crate) server_name: Option<String>,
    pub(crate) insecure: bool,
}

impl TlsSettings {
    /// Returns settings that trust the CAs of the system.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the CAs in this file, instead of those of the system. Postgres: in addition to them.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(Pem::File(path.into()));
        self
    }

    /// Trusts the CAs in this PEM text, instead of those of the system. Postgres: in addition to
    /// them.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(Pem::text(pem));
        self
    }

    /// Presents the certificate of this file to the server, which `key` belongs to. The file may
    /// contain the chain of the certificate.
    pub fn client_files(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.client = Some((Pem::File(certificate.into()), Pem::File(key.into())));
        self
    }

    /// Presents the certificate of this PEM text to the server, which `key` belongs to.
    pub fn client_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.client = Some((Pem::text(certificate), Pem::text(key)));
        self
    }

    /// Sets the name that the server's certificate must have. Defaults to the host of the URL.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Accepts every certificate of the server. Anyone between this process and the server can then
    /// read the password and every session, and change them. The log and the health document warn.
    /// It excludes a CA, which would have no effect. Defaults to false.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }
}

impl fmt::Debug for TlsSettings {
    /// Formats no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings")
            .field("ca", &self.ca.is_some())
            .field("client", &self.client.is_some())
            .field("server_name", &self.server_name)
            .field("insecure", &self.insecure)
            .finish()
    }
}

/// A PEM text, or the file that contains it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Pem {
    File(PathBuf),
    Text(Zeroizing<Vec<u8>>),
}

impl Pem {
    fn text(pem: impl Into<Vec<u8>>) -> Self {
        Self::Text(Zeroizing::new(pem.into()))
    }
}
