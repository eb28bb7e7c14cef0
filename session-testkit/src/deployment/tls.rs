//! TLS between the nodes and both servers, with certificates that can expire.

use session_layer::connect::TlsSettings;
use time::Duration;

use crate::{
    backends::{BackendError, PostgresServer, RedisServer},
    certificates::Ca,
    workload::Failure,
};

/// The address under which the nodes reach the servers, through their proxies.
const HOST: &str = "127.0.0.1";
const LONG: Duration = Duration::DAY;
/// How long a certificate is valid that expires.
const SHORT: Duration = Duration::seconds(2);
const KILL_CLIENTS: [&str; 6] = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];

/// The CA of a deployment, and the servers that have its certificates.
#[derive(Debug)]
pub struct Certificates {
    ca: Ca,
    redis: RedisServer,
    postgres: PostgresServer,
    redis_address: String,
}

impl Certificates {
    /// Gives both servers a certificate that is valid for a day.
    pub(super) async fn start(
        redis: &RedisServer,
        postgres: &PostgresServer,
    ) -> Result<Self, BackendError> {
        let failed = |error: Failure| BackendError::failed("make a certificate")(error);
        let ca = Ca::new().map_err(failed)?;
        let own = ca.issue(HOST, LONG).map_err(failed)?;
        postgres.use_certificate(&own).await?;
        let redis_address = redis.listen_with_tls(&own).await?;
        Ok(Self { ca, redis: redis.clone(), postgres: postgres.clone(), redis_address })
    }

    /// Returns the address of Redis with TLS.
    pub(super) fn redis_address(&self) -> &str {
        &self.redis_address
    }

    /// Returns the settings of a node, which trusts the CA.
    pub(super) fn settings(&self) -> TlsSettings {
        TlsSettings::new().ca_file(self.ca.file())
    }

    /// Lets the certificates of both servers expire, and then closes the connections to Redis.
    /// Returns their number.
    pub(crate) async fn expire(&self) -> Result<u64, Failure> {
        self.replace(SHORT).await?;
        // Certificates have whole seconds.
        tokio::time::sleep((SHORT + Duration::SECOND).unsigned_abs()).await;
        let mut kill = redis::cmd(KILL_CLIENTS[0]);
        kill.arg(&KILL_CLIENTS[1..]);
        Ok(kill.query_async(&mut self.redis.connect().await?).await?)
    }

    /// Gives both servers certificates that are valid for a day.
    pub(crate) async fn renew(&self) -> Result<(), Failure> {
        self.replace(LONG).await
    }

    async fn replace(&self, valid: Duration) -> Result<(), Failure> {
        let own = self.ca.issue(HOST, valid)?;
        self.redis.use_certificate(&own).await?;
        Ok(self.postgres.use_certificate(&own).await?)
    }
}
