//! Certificates for tests: a CA in a folder, and what it issues.

use std::{
    fmt, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use crate::workload::Failure;

/// A CA, and the folder of its files, which is removed when it is dropped.
pub struct Ca {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM files in the folder of its CA.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl fmt::Debug for Ca {
    /// Omits the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ca({})", self.folder.path().display())
    }
}

impl Ca {
    /// Creates a CA with a folder that every account may read.
    ///
    /// # Errors
    /// [`Failure`] if the folder can't be written.
    pub fn new() -> Result<Self, Failure> {
        let mut params = CertificateParams::new(vec![])?;
        // A certificate with the name of its issuer would count as self-signed.
        params.distinguished_name.push(DnType::CommonName, "test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let readable = fs::Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().permissions(readable).tempdir()?;
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self { folder, issuer: Issuer::new(params, key) })
    }

    /// Returns the file of the CA's own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Issues a certificate for a host name or an IP address, valid for this long from now on. A
    /// negative time is one that has passed.
    ///
    /// # Errors
    /// [`Failure`] if the folder can't be written.
    pub fn issue(&self, host: &str, valid: Duration) -> Result<Issued, Failure> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, host);
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(7);
        params.not_after = now + valid;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let name = uuid::Uuid::new_v4();
        let file = |kind: &str| self.folder.path().join(format!("{name}.{kind}.pem"));
        let issued = Issued { certificate: file("cert"), key: file("key") };
        fs::write(&issued.certificate, params.signed_by(&key, &self.issuer)?.pem())?;
        fs::write(&issued.key, key.serialize_pem())?;
        Ok(issued)
    }
}

impl Issued {
    /// Returns the text of the certificate and of the key.
    pub(crate) fn texts(&self) -> std::io::Result<(String, String)> {
        let read = |path: &Path| fs::read_to_string(path);
        Ok((read(&self.certificate)?, read(&self.key)?))
    }
}
