//! Servers with certificates of a CA.

use std::net::TcpListener;
use std::path::Path;

use session_testkit::backends::{Backend, Backends, Cluster, PostgresServer, RedisServer};
pub use session_testkit::certificates::{Ca, Issued};

use crate::harness::Failure;

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Starts a Redis of its own that listens with TLS as well, with this certificate. Returns its TLS
/// port. `clients`: whether clients need a certificate of this CA (`yes`, `no`).
pub async fn redis(ca: &Ca, own: &Issued, clients: &str) -> Result<(RedisServer, u16), Failure> {
    // A container could not read the files.
    let redis = Backends::builder().backend(Backend::Native).own().start_redis().await?;
    let port = listen(&redis, ca, own, clients).await?;
    Ok((redis, port))
}

/// Makes the masters of a cluster listen with TLS as well, and announce these ports to clients with
/// TLS. Returns the ports.
pub async fn cluster(cluster: &Cluster, ca: &Ca, own: &Issued) -> Result<Vec<u16>, Failure> {
    let mut ports = Vec::new();
    for master in cluster.masters() {
        let port = listen(master, ca, own, "no").await?;
        // Without it, a node announces the ports without TLS only.
        master.config_set("tls-cluster", "yes").await?;
        master.config_set("cluster-announce-tls-port", &port.to_string()).await?;
        ports.push(port);
    }
    Ok(ports)
}

/// Makes a Redis listen with TLS as well. Returns the port.
async fn listen(redis: &RedisServer, ca: &Ca, own: &Issued, clients: &str) -> Result<u16, Failure> {
    for (name, value) in [
        ("tls-cert-file", &*text(&own.certificate)),
        ("tls-key-file", &text(&own.key)),
        ("tls-ca-cert-file", &text(&ca.file())),
        ("tls-auth-clients", clients),
    ] {
        redis.config_set(name, value).await?;
    }
    // Another process may take the port in between.
    for _ in 0..20 {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        if redis.config_set("tls-port", &port.to_string()).await.is_ok() {
            return Ok(port);
        }
    }
    Err("Redis opened no TLS port".into())
}

/// Starts a Postgres of its own with this certificate and these lines of `pg_hba.conf`. It knows
/// clients by certificates of this CA, and listens in this folder as well, if there is one.
pub async fn postgres(
    ca: &Ca,
    own: &Issued,
    rules: &str,
    folder: Option<&Path>,
) -> Result<PostgresServer, Failure> {
    let file = ca.file().with_file_name(format!("{}.hba", uuid::Uuid::new_v4()));
    // The superuser of the tests comes without TLS.
    std::fs::write(&file, format!("{rules}\nhost all postgres 127.0.0.1/32 trust\n"))?;
    let mut settings =
        vec![format!("hba_file={}", text(&file)), format!("ssl_ca_file={}", text(&ca.file()))];
    if let Some(folder) = folder {
        settings.push(format!("unix_socket_directories={}", text(folder)));
    }
    let builder = Backends::builder().backend(Backend::Native).postgres_settings(settings);
    let postgres = builder.start_postgres().await?;
    postgres.use_certificate(own).await?;
    Ok(postgres)
}
