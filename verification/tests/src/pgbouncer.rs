//! A real `PgBouncer` in front of a Postgres.

use std::net::TcpListener;
use std::process::Stdio;

use session_testkit::backends::PostgresServer;
use session_testkit::wait;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::harness::Failure;
use crate::support::SOON;

/// A pooler, which ends when it is dropped.
pub struct PgBouncer {
    port: u16,
    _child: Child,
    _folder: TempDir,
}

impl PgBouncer {
    /// Starts a pooler with its defaults in this mode (`session`, `transaction`). Clients need no
    /// password, and are the superuser of the tests.
    ///
    /// # Panics
    ///
    /// If `pgbouncer` is not installed.
    pub async fn start(postgres: &PostgresServer, mode: &str) -> Result<Self, Failure> {
        Self::start_at(postgres.address(), &format!("auth_type = any\npool_mode = {mode}")).await
    }

    /// Starts a pooler of the server at `address`, with these settings.
    ///
    /// # Panics
    ///
    /// If `pgbouncer` is not installed.
    pub async fn start_at(address: &str, settings: &str) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let (host, server_port) = address.rsplit_once(':').unwrap_or_default();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings = format!(
            "[databases]\n\
             postgres = host={host} port={server_port} user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             {settings}\n"
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings)?;
        let mut command = Command::new("pgbouncer");
        command.arg("--quiet").arg(&file).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        if rustix::process::geteuid().is_root() {
            // It refuses to run as root.
            command.args(["--user", "nobody"]);
        }
        let child =
            command.spawn().expect("pgbouncer, which session-testkit/scripts/install.sh installs");
        wait::until("the pooler to listen", SOON, async || {
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await?;
        Ok(Self { port, _child: child, _folder: folder })
    }

    /// Returns the URL of the pooled database.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}
