//! A streaming standby of a Postgres, and the steps of a failover.

use std::{path::Path, time::Duration};

use sqlx::AssertSqlSafe;

use super::{
    builder::natively,
    error::BackendError,
    kind::Kind as _,
    native,
    postgres::Postgres,
    server::{Host, PostgresServer},
};
use crate::wait::Patience;

/// How long the standby may take to have the primary's last write.
const CAUGHT_UP: Duration = Duration::from_secs(30);
/// The file that makes a server a standby.
const SIGNAL: &str = "standby.signal";
/// The last line that Postgres logs if it was not killed, after each standby has everything.
const SHUT_DOWN: &str = "database system is shut down";

impl PostgresServer {
    /// Starts a native standby that streams from this server, from a copy that `pg_basebackup`
    /// takes of it. This server must permit replication without a password, as a native one does.
    ///
    /// # Errors
    /// [`BackendError::NoBackend`] if there is no native Postgres, [`BackendError::Exited`] if the
    /// copy fails.
    pub async fn standby(&self) -> Result<Self, BackendError> {
        let program = Postgres::find().map_err(BackendError::NoBackend)?;
        let (host, port) = self.host_and_port();
        let copy = |data: &Path| {
            let arguments = [
                "--no-sync",
                "--checkpoint=fast",
                "--write-recovery-conf",
                "--username=postgres",
                "--host",
                host,
                "--port",
                port,
                "--pgdata",
                &data.to_string_lossy(),
            ];
            let arguments = arguments.map(str::to_owned).into();
            Some((program.with_file_name("pg_basebackup"), arguments))
        };
        natively(&program, &[], &copy).await
    }

    /// Makes this standby a primary, with the writes that it has.
    ///
    /// # Errors
    /// [`BackendError::Deadline`] after 30 s, [`BackendError::Failed`] if Postgres reports an
    /// error.
    pub async fn promote(&self) -> Result<(), BackendError> {
        let done = self.ask("SELECT pg_promote(true, 30)").await?;
        if done { Ok(()) } else { Err(Self::late("be promoted")) }
    }

    /// Waits until this standby has everything that `primary` has written so far.
    ///
    /// # Errors
    /// [`BackendError::Deadline`] after 30 s.
    pub async fn caught_up(&self, primary: &Self) -> Result<(), BackendError> {
        let written = "SELECT pg_current_wal_lsn()::text";
        let mut connection = primary.connect().await?;
        let written: String = sqlx::query_scalar(written)
            .fetch_one(&mut connection)
            .await
            .map_err(BackendError::failed("ask the primary for its position"))?;
        let has = format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{written}', false)");
        let mut patience = Patience::new("the standby to catch up", CAUGHT_UP);
        let has = async || self.ask(&has).await.unwrap_or(false);
        loop {
            match patience.look(has()).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => return Err(Self::late("catch up")),
            }
        }
    }

    /// Stops this server after its standby has everything that it has committed. A standby that
    /// does not reply would delay the stop, and this server is then killed after 5 s.
    ///
    /// # Errors
    /// [`BackendError::NotOurs`] unless this server is a native one, [`BackendError::Deadline`] if
    /// it was killed, so that the standby may lack commits.
    pub async fn hand_over(&self) -> Result<(), BackendError> {
        let Host::Native(process) = self.host() else {
            return Err(self.not_ours("hand over from"));
        };
        // The log also has the line of each earlier stop.
        let logged = process.end_with_logs(Postgres::STOP).await?;
        if logged.iter().any(|line| line.contains(SHUT_DOWN)) {
            return Ok(());
        }
        Err(BackendError::Deadline {
            action: "send its standby everything and shut down",
            server: Postgres::NAME,
            waited: native::STOP,
        })
    }

    /// Restarts this server as a standby of `primary`, which was its standby and has all its
    /// writes. It keeps its address.
    ///
    /// # Errors
    /// [`BackendError::NotOurs`] unless this server is a native one, [`BackendError::NotReady`]
    /// after 30 s.
    pub async fn follow(&self, primary: &Self) -> Result<(), BackendError> {
        let Host::Native(process) = self.host() else {
            return Err(self.not_ours("demote"));
        };
        self.stop().await?;
        let (host, port) = primary.host_and_port();
        let from = format!("primary_conninfo = 'host={host} port={port} user=postgres'\n");
        process.append_data("postgresql.auto.conf", &from)?;
        process.append_data(SIGNAL, "")?;
        self.restart().await
    }

    fn host_and_port(&self) -> (&str, &str) {
        self.address().rsplit_once(':').unwrap_or((self.address(), "5432"))
    }

    async fn ask(&self, question: &str) -> Result<bool, BackendError> {
        let mut connection = self.connect().await?;
        sqlx::query_scalar(AssertSqlSafe(question.to_owned()))
            .fetch_one(&mut connection)
            .await
            .map_err(BackendError::failed("ask the standby"))
    }

    fn late(action: &'static str) -> BackendError {
        BackendError::Deadline { action, server: Postgres::NAME, waited: CAUGHT_UP }
    }
}
