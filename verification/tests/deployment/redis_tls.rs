//! Redis with TLS: whom a node trusts, and who it is.

use std::path::Path;

use session_layer::Sessions;
use session_layer::cache::{ConnectCause, RedisCache};
use session_layer::connect::TlsSettings;
use session_testkit::backends::{Backend, Cluster, RedisServer};
use session_testkit::wait;
use time::Duration;

use crate::certificates::{self, Ca, Issued};
use crate::harness::{Failure, Outcome, on};
use crate::support::{SOON, Servers, ask, built, login, until_connected, until_hit};

const DAY: Duration = Duration::days(1);

struct Tls {
    servers: Servers,
    redis: RedisServer,
    url: String,
}

impl Tls {
    async fn new(ca: &Ca, own: &Issued, clients: &str) -> Result<Self, Failure> {
        let (redis, port) = certificates::redis(ca, own, clients).await?;
        let servers = Servers::shared().await?;
        Ok(Self { servers, redis, url: format!("rediss://localhost:{port}") })
    }

    async fn sessions(&self, tls: TlsSettings) -> Result<Sessions, Failure> {
        let cache = RedisCache::builder(&self.url).namespace(self.servers.namespace()).tls(tls);
        let cache = cache.deadline(std::time::Duration::from_millis(500)).build()?;
        Ok(built(cache, self.servers.store().await?))
    }

    async fn assert_hit(&self, tls: TlsSettings) -> Result<Sessions, Failure> {
        let sessions = self.sessions(tls).await?;
        let alice = login(&sessions, "alice").await?;
        until_hit(&sessions, &alice).await?;
        Ok(sessions)
    }

    /// Asserts that no connection is opened with these settings, for this reason.
    async fn assert_refused(&self, tls: TlsSettings, cause: ConnectCause, why: &str) -> Outcome {
        let limit = std::time::Duration::from_secs(1);
        let refused = RedisCache::builder(&self.url).tls(tls).connect(limit).await;
        let error = refused.expect_err("TLS refuses this server");
        assert_eq!(error.cause(), cause, "{error}");
        assert!(error.to_string().contains(why), "{error}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_a_certificate_of_an_own_ca_is_used() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let tls = Tls::new(&ca, &ca.issue("localhost", DAY)?, "no").await?;
        tls.assert_hit(TlsSettings::new().ca_file(ca.file())).await?;
        tls.assert_hit(TlsSettings::new().ca_pem(std::fs::read(ca.file())?)).await?;
        let other = Ca::new()?;
        let trusting = TlsSettings::new().ca_file(other.file());
        tls.assert_refused(trusting, ConnectCause::Certificate, "unknown CA").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_requires_client_certificates_gets_one() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let tls = Tls::new(&ca, &ca.issue("localhost", DAY)?, "yes").await?;
        let trusting = TlsSettings::new().ca_file(ca.file());
        let own = ca.issue("node", DAY)?;
        tls.assert_hit(trusting.clone().client_files(&own.certificate, &own.key)).await?;
        let read = |path: &Path| std::fs::read(path);
        let pem = (read(&own.certificate)?, read(&own.key)?);
        tls.assert_hit(trusting.clone().client_pem(pem.0, pem.1)).await?;
        let words = "REDIS_TLS_CERT_FILE";
        tls.assert_refused(trusting.clone(), ConnectCause::ClientCertificate, words).await?;
        let foreign = Ca::new()?.issue("node", DAY)?;
        let foreign = trusting.client_files(&foreign.certificate, &foreign.key);
        // The folder of the foreign CA is gone.
        tls.assert_refused(foreign, ConnectCause::Settings, "cannot be read").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_of_a_cluster_is_verified() -> Outcome {
    on(Backend::Native, |_| async {
        let (ca, cluster) = (Ca::new()?, Cluster::start().await?);
        // Nodes announce their addresses, and no names.
        let own = ca.issue("127.0.0.1", DAY)?;
        let ports = certificates::cluster(&cluster, &ca, &own).await?;
        let addresses: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let url = format!("rediss+cluster://{}", addresses.join(","));
        let servers = Servers::shared().await?;
        let cache = RedisCache::builder(&url).namespace(servers.namespace()).deadline(SOON);
        let cache = cache.tls(TlsSettings::new().ca_file(ca.file())).build()?;
        let sessions = built(cache, servers.store().await?);
        let mut all = Vec::new();
        for shard in 0..3 {
            // Logs in until the session is on the next shard.
            wait::until("an entry on the shard", SOON, async || {
                let alice = login(&sessions, "alice").await.expect("Postgres is up");
                until_hit(&sessions, &alice).await.expect("each node is reached with TLS");
                all.push(alice);
                let master = &cluster.masters()[shard];
                cluster.slots_with_keys(master).await.is_ok_and(|slots| !slots.is_empty())
            })
            .await?;
        }
        for alice in &all {
            let revoked = sessions.revoke(alice.token.reveal()).await?;
            assert_eq!(revoked.value, 1);
            assert_eq!(ask(&sessions, alice).await, "invalid");
        }
        let other = Ca::new()?;
        let limit = std::time::Duration::from_secs(1);
        let refused = RedisCache::builder(&url).tls(TlsSettings::new().ca_file(other.file()));
        let error = refused.connect(limit).await.expect_err("an unknown CA");
        assert_eq!(error.cause(), ConnectCause::Certificate, "{error}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_of_another_host_needs_the_name_set() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let tls = Tls::new(&ca, &ca.issue("cache.internal", DAY)?, "no").await?;
        let trusting = TlsSettings::new().ca_file(ca.file());
        let words = "another host name";
        tls.assert_refused(trusting.clone(), ConnectCause::Certificate, words).await?;
        tls.assert_hit(trusting.server_name("cache.internal")).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_certificate_is_named_and_replaced_without_a_restart() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let own = ca.issue("localhost", -DAY)?;
        let tls = Tls::new(&ca, &own, "no").await?;
        let trusting = TlsSettings::new().ca_file(ca.file());
        tls.assert_refused(trusting.clone(), ConnectCause::Certificate, "has expired").await?;
        let sessions = tls.sessions(trusting).await?;
        let alice = login(&sessions, "alice").await?;
        // Redis reads its certificate again. The CA is a new one too, in the file of the old one.
        let renewed = Ca::new()?;
        let fresh = renewed.issue("localhost", DAY)?;
        std::fs::copy(&fresh.certificate, &own.certificate)?;
        std::fs::copy(&fresh.key, &own.key)?;
        std::fs::copy(renewed.file(), ca.file())?;
        // Key and certificate change together.
        let mut admin = tls.redis.connect().await?;
        let mut reload = redis::cmd("CONFIG");
        reload.arg("SET").arg("tls-cert-file").arg(own.certificate.to_string_lossy().as_ref());
        reload.arg("tls-key-file").arg(own.key.to_string_lossy().as_ref());
        reload.exec_async(&mut admin).await?;
        until_hit(&sessions, &alice).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn insecure_tls_accepts_any_certificate_and_health_says_so() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let tls = Tls::new(&ca, &ca.issue("cache.internal", -DAY)?, "no").await?;
        let sessions = tls.assert_hit(TlsSettings::new().insecure(true)).await?;
        until_connected(&sessions).await?;
        let remarks = sessions.health().await.remarks.join("\n");
        assert!(remarks.contains("REDIS_TLS_INSECURE"), "{remarks}");
        sessions.shutdown(SOON).await?;
        Ok(())
    })
    .await
}
