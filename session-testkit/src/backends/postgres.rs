//! Finding, starting and connecting to Postgres.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use session_layer::server_url::{ServerKind, ServerUrl};
use session_layer::store::PostgresStore;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::{
    chain,
    error::{BackendError, Cause},
    kind::Kind,
    native::{Folder, find},
    server::Server,
};

/// Postgres 15 or later.
#[derive(Debug)]
#[non_exhaustive]
pub struct Postgres;

/// The response timeout. A loaded machine stays below it, and a paused server exceeds it soon.
const ANSWER: Duration = Duration::from_secs(2);

/// Settings for speed. A test server need not survive a crash of the machine, therefore nothing
/// waits for the disk. `synchronous_commit` stays on, and a killed server recovers every COMMIT,
/// because the kernel has its writes.
const SETTINGS: &[&str] = &["fsync=off", "full_page_writes=off", "max_connections=300"];

/// Returns the application's connect options.
pub(crate) fn options(url: &ServerUrl) -> sqlx::Result<PgConnectOptions> {
    PostgresStore::connect_options(url).map_err(|error| sqlx::Error::Configuration(error.into()))
}

/// Returns why a connection failed. The server's message is omitted, because it may repeat the
/// user, the database and the options of the URL.
pub(crate) fn why_refused(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    match code {
        Some(code) => format!("Postgres rejected the connection (SQLSTATE {code})"),
        None => chain(error),
    }
}

impl Kind for Postgres {
    const NAME: &'static str = "Postgres";
    const KIND: ServerKind = ServerKind::Postgres;
    const EXAMPLE: &'static str = "postgres://user:password@host:5432/database";
    const URL_VARIABLE: &'static str = "SESSION_TESTKIT_DATABASE_URL";
    const HELP: &'static str = "install one with `apt-get install postgresql` \
        (or session-testkit/scripts/install.sh), or set SESSION_TESTKIT_DATABASE_URL";
    const IMAGE_VARIABLE: &'static str = "SESSION_TESTKIT_POSTGRES_IMAGE";
    const OWN_IMAGE: &'static str = "session-testkit/postgres";
    const OFFICIAL_IMAGES: &'static [&'static str] =
        &["postgres:16-bookworm", "postgres:16", "postgres:17", "postgres:15"];
    const PORT: u16 = 5432;
    // The "fast" shutdown. SIGTERM would wait for every client to leave.
    const STOP: Signal = Signal::INT;
    // The official image's entrypoint reads these. Ours has a cluster already.
    const ENVIRONMENT: &'static [(&'static str, &'static str)] =
        &[("POSTGRES_HOST_AUTH_METHOD", "trust"), ("POSTGRES_INITDB_ARGS", "--no-sync")];
    const ACCOUNTS: &'static [&'static str] = &["postgres", "nobody"];

    fn url(address: &str) -> String {
        format!("postgres://postgres@{address}/postgres")
    }

    async fn ping(url: &ServerUrl) -> Result<(), Cause> {
        let answer = async {
            let mut connection = PgConnection::connect_with(&options(url)?)
                .await
                .map_err(|error| why_refused(&error))?;
            sqlx::query("SELECT 1").execute(&mut connection).await?;
            Ok(connection.close().await?)
        };
        timeout(ANSWER, answer).await?
    }

    fn find() -> Result<PathBuf, String> {
        let server = find::in_path("postgres")
            .or_else(|| find::newest("/usr/lib/postgresql", "bin/postgres"))
            .ok_or("`postgres` is neither in PATH nor in /usr/lib/postgresql/*/bin")?;
        // PATH often contains a link, and the other programs are beside the file itself.
        let server =
            server.canonicalize().map_err(|error| format!("{}: {error}", server.display()))?;
        let initdb = server.with_file_name("initdb");
        if !initdb.exists() {
            return Err(format!("{} does not exist", initdb.display()));
        }
        // "postgres (PostgreSQL) 15.18 (Debian …)"
        let version = find::version(&server, "(PostgreSQL) ")?;
        let (major, _) = version;
        if major < 15 {
            return Err(format!("{} is version {major}, but 15 is required", server.display()));
        }
        Ok(server)
    }

    fn prepare(server: &Path, data: &Path) -> Option<(PathBuf, Vec<String>)> {
        let arguments = [
            "--no-sync",
            "--no-instructions",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            // A third of a new cluster is its first 16 MB of log. A smaller segment saves writes.
            "--wal-segsize=1",
            "--pgdata",
            &data.to_string_lossy(),
        ];
        Some((server.with_file_name("initdb"), arguments.map(str::to_owned).into()))
    }

    fn arguments(_: &Path, folder: &Folder, port: u16, extra: &[String]) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["-D", &folder.data().to_string_lossy()].map(str::to_owned).into();
        let port = format!("port={port}");
        let native = [
            "listen_addresses=127.0.0.1",
            port.as_str(),
            "unix_socket_directories=",
            // Shared memory in files of the data directory disappears with it, also after SIGKILL.
            "dynamic_shared_memory_type=mmap",
        ];
        arguments.extend(settings(native.into_iter().chain(SETTINGS.iter().copied())));
        arguments.extend(extra.iter().cloned());
        arguments
    }

    fn command(_image: &str, extra: &[String]) -> Vec<String> {
        let mut command = vec!["postgres".to_owned()];
        command
            .extend(settings(["listen_addresses=*"].into_iter().chain(SETTINGS.iter().copied())));
        command.extend(extra.iter().cloned());
        command
    }
}

/// Returns each setting as `-c name=value`. The last of several values for a name wins.
pub(super) fn settings<S: Into<String>>(
    settings: impl IntoIterator<Item = S>,
) -> impl Iterator<Item = String> {
    settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting.into()])
}

impl Server<Postgres> {
    /// Stops the server with an "immediate" shutdown (SIGQUIT). Clients get a warning and an end of
    /// file. Nothing is flushed, and the next start recovers.
    ///
    /// # Errors
    /// [`BackendError::NotOurs`] for a given server.
    pub async fn stop_immediately(&self) -> Result<(), BackendError> {
        self.end("stop", Signal::QUIT).await
    }

    /// Returns the application's connect options.
    pub(crate) fn connect_options(&self) -> sqlx::Result<PgConnectOptions> {
        options(self.server_url())
    }

    /// Opens a connection for the test's own statements.
    ///
    /// # Errors
    /// [`BackendError::Failed`] if the connection fails, [`BackendError::Deadline`] after 2 s.
    pub async fn connect(&self) -> Result<PgConnection, BackendError> {
        let connecting = async { PgConnection::connect_with(&self.connect_options()?).await };
        match timeout(ANSWER, connecting).await {
            Ok(connection) => connection.map_err(BackendError::failed("connect to Postgres")),
            Err(_) => Err(BackendError::Deadline {
                action: "accept a connection",
                server: Postgres::NAME,
                waited: ANSWER,
            }),
        }
    }
}
