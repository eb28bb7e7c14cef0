//! How Postgres is found, started, asked.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

use super::{
    error::{BackendError, Cause},
    kind::{Images, Recipe, Stop},
    native::{Folder, Program, find},
    server::{Host, Server},
};

/// Postgres 15 or later.
#[derive(Debug)]
#[non_exhaustive]
pub struct Postgres;

/// Long enough for a loaded machine, short enough for a paused server to be noticed.
const ANSWER: Duration = Duration::from_secs(2);

/// A test server need not survive the machine, so nothing waits for the disk; a COMMIT still means
/// what it means (`synchronous_commit` stays on), and a killed server recovers all of them, because
/// the kernel has what it wrote.
const SETTINGS: &[&str] = &["fsync=off", "full_page_writes=off", "max_connections=300"];

impl Recipe for Postgres {
    const NAME: &'static str = "Postgres";
    const SCHEMES: &'static [&'static str] = &["postgres", "postgresql"];
    const EXAMPLE: &'static str = "postgres://user:password@host:5432/database";
    const URL_VARIABLE: &'static str = "SESSION_TESTKIT_DATABASE_URL";
    const HELP: &'static str = "install one with `apt-get install postgresql` \
        (or session-testkit/scripts/install.sh), or set SESSION_TESTKIT_DATABASE_URL";
    const IMAGES: Images = Images {
        local: "session-testkit/postgres",
        official: &[
            "postgres:16-bookworm",
            "postgres:16",
            "postgres:17",
            "postgres:15",
        ],
    };
    const PORT: u16 = 5432;
    const STOP: Stop = Stop::Interrupt;
    // Read by the official image's entrypoint; ours has its cluster already.
    const ENVIRONMENT: &'static [(&'static str, &'static str)] = &[
        ("POSTGRES_HOST_AUTH_METHOD", "trust"),
        ("POSTGRES_INITDB_ARGS", "--no-sync"),
    ];
    const ACCOUNTS: &'static [&'static str] = &["postgres", "nobody"];

    fn url(address: &str) -> String {
        format!("postgres://postgres@{address}/postgres")
    }

    async fn ping(url: &str) -> Result<(), Cause> {
        let answer = async {
            let mut connection = PgConnection::connect(url).await?;
            sqlx::query("SELECT 1").execute(&mut connection).await?;
            connection.close().await
        };
        Ok(timeout(ANSWER, answer).await??)
    }

    fn find() -> Result<Program, String> {
        let server = find::in_path("postgres")
            .or_else(|| find::newest("/usr/lib/postgresql", "bin/postgres"))
            .ok_or("`postgres` is neither in PATH nor in /usr/lib/postgresql/*/bin")?;
        // PATH often has a link to it, and its companions stand beside the file itself.
        let server = server
            .canonicalize()
            .map_err(|error| format!("{}: {error}", server.display()))?;
        let initdb = server.with_file_name("initdb");
        if !initdb.exists() {
            return Err(format!("{} is not there", initdb.display()));
        }
        // "postgres (PostgreSQL) 15.18 (Debian …)"
        let version = find::version(&server, "(PostgreSQL) ")?;
        if version < 15 {
            return Err(format!(
                "{} is version {version}, and 15 is needed",
                server.display()
            ));
        }
        Ok(Program {
            server,
            initdb: Some(initdb),
        })
    }

    fn prepare(program: &Program, data: &Path) -> Option<(PathBuf, Vec<String>)> {
        let initdb = program.initdb.clone()?;
        let arguments = [
            "--no-sync",
            "--no-instructions",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            // Less to write: a third of a new cluster is its first 16 MB of log.
            "--wal-segsize=1",
            "--pgdata",
            &data.to_string_lossy(),
        ];
        Some((initdb, arguments.map(str::to_owned).into()))
    }

    fn arguments(folder: &Folder, port: u16, extra: &[String]) -> Vec<String> {
        let mut arguments: Vec<String> = ["-D", &folder.data().to_string_lossy()]
            .map(str::to_owned)
            .into();
        let port = format!("port={port}");
        let native = [
            "listen_addresses=127.0.0.1",
            port.as_str(),
            "unix_socket_directories=",
            // Shared memory as files of the data directory: gone with it, also after SIGKILL.
            "dynamic_shared_memory_type=mmap",
        ];
        arguments.extend(settings(native.into_iter().chain(SETTINGS.iter().copied())));
        arguments.extend(extra.iter().cloned());
        arguments
    }

    fn command(extra: &[String]) -> Vec<String> {
        let mut command = vec!["postgres".to_owned()];
        command.extend(settings(
            ["listen_addresses=*"]
                .into_iter()
                .chain(SETTINGS.iter().copied()),
        ));
        command.extend(extra.iter().cloned());
        command
    }
}

/// Each setting as `-c name=value`; of two for one name the last wins.
pub(super) fn settings<S: Into<String>>(
    settings: impl IntoIterator<Item = S>,
) -> impl Iterator<Item = String> {
    settings
        .into_iter()
        .flat_map(|setting| ["-c".to_owned(), setting.into()])
}

impl Server<Postgres> {
    /// The "immediate" shutdown (SIGQUIT): clients get a warning and an end of file, nothing is
    /// flushed, the next start recovers.
    ///
    /// # Errors
    ///
    /// [`BackendError::NotOurs`] for a given server.
    pub async fn stop_immediately(&self) -> Result<(), BackendError> {
        match self.host() {
            Host::External => Err(self.not_ours("stop")),
            Host::Docker(container) => container.stop_by(Stop::Quit).await,
            Host::Native(process) => process.stop_by(Stop::Quit).await,
        }
    }

    /// A new connection, for the test's own statements.
    ///
    /// # Errors
    ///
    /// [`BackendError::Postgres`] if it cannot be had, [`BackendError::Deadline`] after 2 s.
    pub async fn connect(&self) -> Result<PgConnection, BackendError> {
        match timeout(ANSWER, PgConnection::connect(self.url())).await {
            Ok(connection) => connection.map_err(|source| BackendError::Postgres {
                action: "accept a connection",
                source,
            }),
            Err(_) => Err(BackendError::Deadline {
                action: "accept a connection",
                server: Postgres::NAME,
                waited: ANSWER,
            }),
        }
    }
}
