//! TLS of native servers, which get a certificate and replace it while they run.

use ::redis::cmd;
use sqlx::AssertSqlSafe;

use super::{
    error::BackendError,
    native,
    server::{Host, PostgresServer, RedisServer},
};
use crate::certificates::Issued;

/// The files in the data directory of Postgres, which accepts no key that others may read.
const CERTIFICATE: &str = "testkit.crt";
const KEY: &str = "testkit.key";

impl RedisServer {
    /// Lets this native server accept TLS as well, with this certificate and without those of
    /// clients. Returns the address.
    ///
    /// # Errors
    /// [`BackendError::Failed`] if Redis rejects the certificate or has no free port.
    pub async fn listen_with_tls(&self, own: &Issued) -> Result<String, BackendError> {
        self.use_certificate(own).await?;
        self.config_set("tls-auth-clients", "no").await?;
        let mut tries = 0;
        loop {
            let port = native::free_port()?.to_string();
            match self.config_set("tls-port", &port).await {
                Ok(()) => return Ok(format!("127.0.0.1:{port}")),
                // Another process may take the port in between.
                Err(_taken) if tries < 20 => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Uses this certificate for new connections.
    ///
    /// # Errors
    /// [`BackendError::Failed`] if Redis rejects it.
    pub async fn use_certificate(&self, own: &Issued) -> Result<(), BackendError> {
        self.allowed("configure")?;
        // The certificate and its key change together.
        let mut set = cmd("CONFIG");
        set.arg("SET").arg("tls-cert-file").arg(own.certificate.to_string_lossy().as_ref());
        set.arg("tls-key-file").arg(own.key.to_string_lossy().as_ref());
        let mut connection = self.connect().await?;
        let set = set.exec_async(&mut connection).await;
        set.map_err(BackendError::failed("give Redis a certificate"))
    }
}

impl PostgresServer {
    /// Uses this certificate for new connections. If it is the first one, the server accepts TLS
    /// from then on.
    ///
    /// # Errors
    /// [`BackendError::NotOurs`] unless this server is a native one.
    pub async fn use_certificate(&self, own: &Issued) -> Result<(), BackendError> {
        const ACTION: &str = "give Postgres a certificate";
        let Host::Native(process) = self.host() else {
            return Err(self.not_ours("give a certificate to"));
        };
        let (certificate, key) = own.texts().map_err(BackendError::failed(ACTION))?;
        process.write_data(CERTIFICATE, &certificate)?;
        process.write_data(KEY, &key)?;
        let mut admin = self.connect().await?;
        for statement in [
            format!("ALTER SYSTEM SET ssl_cert_file = '{CERTIFICATE}'"),
            format!("ALTER SYSTEM SET ssl_key_file = '{KEY}'"),
            "ALTER SYSTEM SET ssl = on".to_owned(),
            "SELECT pg_reload_conf()".to_owned(),
        ] {
            let statement = sqlx::raw_sql(AssertSqlSafe(statement));
            statement.execute(&mut admin).await.map_err(BackendError::failed(ACTION))?;
        }
        Ok(())
    }
}
