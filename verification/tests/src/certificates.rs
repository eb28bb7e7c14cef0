//! Certificates for tests: a CA in a folder, what it issues, and a Redis with a TLS port.

use std::net::TcpListener;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use session_testkit::backends::{Backend, Backends, RedisServer};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use crate::harness::Failure;

/// A CA, and the folder of its files.
pub struct Ca {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM files.
#[derive(Clone)]
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Ca {
    pub fn new() -> Result<Self, Failure> {
        let mut params = CertificateParams::new(vec![])?;
        // A certificate with the name of its issuer would count as self-signed.
        params.distinguished_name.push(DnType::CommonName, "test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let folder = tempfile::Builder::new().permissions(readable(0o755)).tempdir()?;
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self { folder, issuer: Issuer::new(params, key) })
    }

    /// Returns the file of the CA's own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Issues a certificate for a host, valid for this long from now on. A negative time is one
    /// that has passed.
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
        let file = |kind| self.folder.path().join(format!("{name}.{kind}.pem"));
        let issued = Issued { certificate: file("cert"), key: file("key") };
        std::fs::write(&issued.certificate, params.signed_by(&key, &self.issuer)?.pem())?;
        std::fs::write(&issued.key, key.serialize_pem())?;
        Ok(issued)
    }

    /// Starts a Redis of its own that listens with TLS as well, with this certificate. Returns its
    /// TLS port. `clients`: whether clients need a certificate of this CA (`yes`, `no`).
    pub async fn redis(&self, own: &Issued, clients: &str) -> Result<(RedisServer, u16), Failure> {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let arguments = [
            "--tls-cert-file".to_owned(),
            path(&own.certificate),
            "--tls-key-file".to_owned(),
            path(&own.key),
            "--tls-ca-cert-file".to_owned(),
            path(&self.file()),
            "--tls-auth-clients".to_owned(),
            clients.to_owned(),
        ];
        // A container could not read the files.
        let redis = Backends::builder().backend(Backend::Native);
        let redis = redis.redis_args(arguments).start_redis().await?;
        // Another process may take the port in between.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            if redis.config_set("tls-port", &port.to_string()).await.is_ok() {
                return Ok((redis, port));
            }
        }
        panic!("Redis opened no TLS port");
    }
}

fn readable(mode: u32) -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::Permissions::from_mode(mode)
}
