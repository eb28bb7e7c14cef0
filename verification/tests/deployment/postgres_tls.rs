//! Postgres with TLS or over a Unix socket: whom a node trusts, and who it is.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use session_layer::NewSession;
use session_layer::connect::TlsSettings;
use session_layer::store::{PostgresStore, PostgresStoreBuilder};
use session_testkit::backends::{Backend, PostgresServer};
use session_testkit::wait;
use time::Duration;

use crate::certificates::{self, Ca, Issued};
use crate::harness::{Failure, Outcome, on};
use crate::support::{SOON, Servers, ask, built, execute, login};

const DAY: Duration = Duration::DAY;
/// The service comes with or without TLS.
const EACH: &str = "host all app 127.0.0.1/32 trust";

/// A Postgres with a certificate, and a Redis.
struct Scene {
    servers: Servers,
    postgres: PostgresServer,
}

impl Scene {
    async fn new(ca: &Ca, own: &Issued, rules: &str) -> Result<Self, Failure> {
        Self::at(ca, own, rules, None).await
    }

    async fn at(
        ca: &Ca,
        own: &Issued,
        rules: &str,
        folder: Option<&Path>,
    ) -> Result<Self, Failure> {
        let postgres = certificates::postgres(ca, own, rules, folder).await?;
        execute(&postgres, "CREATE ROLE app LOGIN SUPERUSER".to_owned()).await?;
        Ok(Self { servers: Servers::shared().await?, postgres })
    }

    fn url(&self, parameters: &str) -> String {
        format!("postgres://app@{}/postgres{parameters}", self.postgres.address())
    }

    fn store(&self, parameters: &str) -> PostgresStoreBuilder {
        PostgresStore::builder(self.url(parameters))
    }

    /// Asserts that a session is created and read with these settings.
    async fn assert_used(&self, store: PostgresStoreBuilder) -> Outcome {
        let store = store.read_deadline(std::time::Duration::from_secs(3)).build()?;
        store.migrate().await?;
        let sessions = built(self.servers.cache()?, store);
        let alice = login(&sessions, "alice").await?;
        assert_eq!(ask(&sessions, &alice).await, "valid");
        sessions.shutdown(SOON).await?;
        Ok(())
    }

    /// Asserts that no connection is opened, and that the health document has the reason.
    async fn assert_refused(&self, store: PostgresStoreBuilder, why: &str) -> Outcome {
        let sessions = built(self.servers.cache()?, store.build()?);
        let mut last = String::new();
        let named = wait::until("the reason in the health document", SOON, async || {
            last = sessions.health().await.errors.join("\n");
            last.contains(why)
        });
        let named = named.await;
        assert!(named.is_ok(), "no `{why}` in\n{last}");
        sessions.shutdown(SOON).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_with_a_certificate_of_an_own_ca_is_used() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let scene = Scene::new(&ca, &ca.issue("127.0.0.1", DAY)?, EACH).await?;
        let file = ca.file();
        let by_url = format!("?sslmode=verify-full&sslrootcert={}", file.display());
        scene.assert_used(scene.store(&by_url)).await?;
        scene.assert_used(scene.store("").tls(TlsSettings::new().ca_file(&file))).await?;
        let text = TlsSettings::new().ca_pem(std::fs::read(&file)?);
        scene.assert_used(scene.store("").tls(text)).await?;
        // Another CA with the same name, and those of the system.
        let other = Ca::new()?;
        let other = TlsSettings::new().ca_file(other.file());
        scene
            .assert_refused(scene.store("").tls(other), "is not known: set DATABASE_TLS_CA")
            .await?;
        let system = scene.store("?sslmode=verify-full");
        scene.assert_refused(system, "is not known: set DATABASE_TLS_CA_FILE").await?;
        let empty = tempfile::NamedTempFile::new()?;
        let ca = TlsSettings::new().ca_file(empty.path());
        let refused = scene.store("").tls(ca).build().err().ok_or("an empty CA is accepted")?;
        assert!(refused.to_string().contains("no certificate in PEM"), "{refused}");
        let missing = TlsSettings::new().ca_file("/no/such/file");
        scene.assert_refused(scene.store("").tls(missing), "a file of TLS cannot be read").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_of_another_host_is_named() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let scene = Scene::new(&ca, &ca.issue("db.internal", DAY)?, EACH).await?;
        let trusting = || TlsSettings::new().ca_file(ca.file());
        scene.assert_refused(scene.store("").tls(trusting()), "is for another name").await?;
        let root = format!("?sslmode=require&sslrootcert={}", ca.file().display());
        scene.assert_refused(scene.store(&root), "is for another name").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_certificate_of_postgres_is_replaced_without_a_restart() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let scene = Scene::new(&ca, &ca.issue("127.0.0.1", DAY)?, EACH).await?;
        let store = || scene.store("").tls(TlsSettings::new().ca_file(ca.file()));
        scene.assert_used(store()).await?;
        scene.postgres.use_certificate(&ca.issue("127.0.0.1", -DAY)?).await?;
        scene.assert_refused(store(), "certificate has expired").await?;
        let store = store().read_deadline(std::time::Duration::from_secs(3)).build()?;
        let sessions = built(scene.servers.cache()?, store);
        let logs_in = async || sessions.create(NewSession::new("alice")).await.is_ok();
        assert!(!logs_in().await);
        // The CA is a new one too, in the file of the old one.
        let renewed = Ca::new()?;
        std::fs::copy(renewed.file(), ca.file())?;
        scene.postgres.use_certificate(&renewed.issue("127.0.0.1", DAY)?).await?;
        wait::until("a login", SOON, logs_in).await?;
        sessions.shutdown(SOON).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_requires_client_certificates_gets_one() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let rules = "hostssl all app 127.0.0.1/32 trust clientcert=verify-ca";
        let scene = Scene::new(&ca, &ca.issue("127.0.0.1", DAY)?, rules).await?;
        let trusting = || TlsSettings::new().ca_file(ca.file());
        let own = ca.issue("node", DAY)?;
        let files = trusting().client_files(&own.certificate, &own.key);
        scene.assert_used(scene.store("").tls(files)).await?;
        let read = |path: &Path| std::fs::read(path);
        let pem = trusting().client_pem(read(&own.certificate)?, read(&own.key)?);
        scene.assert_used(scene.store("").tls(pem)).await?;
        let without = scene.store("").tls(trusting());
        scene.assert_refused(without, "set DATABASE_TLS_CERT_FILE").await?;
        let foreign = Ca::new()?;
        let other = foreign.issue("node", DAY)?;
        let other = trusting().client_files(&other.certificate, &other.key);
        let refused = scene.store("").tls(other);
        scene.assert_refused(refused, "does not accept our certificate").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_on_one_side_only_is_named() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let own = ca.issue("127.0.0.1", DAY)?;
        let scene = Scene::new(&ca, &own, "hostssl all app 127.0.0.1/32 trust").await?;
        let plain = scene.store("?sslmode=disable");
        scene.assert_refused(plain, "does not accept our user without TLS").await?;
        // The default uses TLS if the server has it.
        scene.assert_used(scene.store("")).await?;

        // The shared server has no TLS.
        let servers = Servers::shared().await?;
        let url = servers.database_url().to_owned();
        let store = PostgresStore::builder(url).tls(TlsSettings::new().ca_file(ca.file()));
        scene.assert_refused(store, "the server has no TLS").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn insecure_tls_to_postgres_accepts_any_certificate_and_health_says_so() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let scene = Scene::new(&ca, &ca.issue("db.internal", -DAY)?, EACH).await?;
        let insecure = || scene.store("").tls(TlsSettings::new().insecure(true));
        scene.assert_used(insecure()).await?;
        let sessions = built(scene.servers.cache()?, insecure().build()?);
        let remarks = sessions.health().await.remarks.join("\n");
        assert!(remarks.contains("DATABASE_TLS_INSECURE"), "{remarks}");
        sessions.shutdown(SOON).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_socket_in_each_form_of_a_url_is_used() -> Outcome {
    on(Backend::Native, |_| async {
        let ca = Ca::new()?;
        let folder = tempfile::tempdir()?;
        // The server has an account of its own.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))?;
        let rules = "local all app trust";
        let own = ca.issue("127.0.0.1", DAY)?;
        let scene = Scene::at(&ca, &own, rules, Some(folder.path())).await?;
        let (_, port) = scene.postgres.address().rsplit_once(':').unwrap_or_default();
        let folder = folder.path().display().to_string();
        let encoded = folder.replace('/', "%2F");
        for url in [
            // As the proxy of Cloud SQL has it.
            format!("postgres://app@/postgres?host={folder}&port={port}"),
            format!("postgres:///postgres?user=app&host={encoded}&port={port}"),
            format!("postgres://app@{encoded}:{port}/postgres"),
        ] {
            scene.assert_used(PostgresStore::builder(&url)).await?;
        }
        let elsewhere = PostgresStore::builder("postgres://app@/postgres?host=/nowhere");
        scene.assert_refused(elsewhere, "there is no such socket").await
    })
    .await
}
