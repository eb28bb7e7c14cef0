//! Servers as processes of this machine.
//!
//! Each server has its own folder for data and log. Its [`Supervisor`] ends the server and removes
//! the folder after any end of this process. A server must not outlive us even if we are killed
//! before the supervisor knows it. Therefore the server starts as a shell that waits for one line.
//! We write the line after the supervisor knows the process id.

pub(crate) mod find;
mod folder;
mod tree;

use std::{
    ffi::OsStr,
    future::ready,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal};

use super::{
    error::BackendError,
    kind::{Kind, Prepare},
    supervisor::Supervisor,
};
use crate::{wait::Patience, wall_clock};
pub(crate) use folder::Folder;

/// The limit for initdb. It usually takes a second, and more on a busy machine.
const PREPARATION: Duration = Duration::from_secs(60);
/// The limit for a stop, after which the server is killed.
pub(crate) const STOP: Duration = Duration::from_secs(5);

/// A server that runs, or ran, as our child process.
#[derive(Debug)]
pub(crate) struct Process {
    kind: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    folder: Folder,
    child: Mutex<Option<Child>>,
    supervisor: Supervisor,
}

impl Process {
    /// Creates the folder, prepares it (initdb, or a copy of another server) and starts the server,
    /// which is not ready yet.
    pub(crate) async fn start<K: Kind>(
        program: &Path,
        port: u16,
        extra: &[String],
        prepare: Prepare<'_>,
    ) -> Result<Self, BackendError> {
        let folder = Folder::planned(K::ACCOUNTS);
        let supervisor = Supervisor::start(Some(folder.path()))?;
        folder.make()?;
        let process = Self {
            kind: K::NAME,
            arguments: K::arguments(program, &folder, port, extra),
            child: Mutex::new(None),
            supervisor,
            folder,
            program: program.to_owned(),
        };
        if let Some((program, arguments)) = prepare(&process.folder.data()) {
            process.spawn(&program, &arguments)?;
            let end = process.ended(PREPARATION, "prepare its data directory").await?;
            if !end.success() {
                return Err(BackendError::Exited { server: K::NAME, logs: process.logs() });
            }
        }
        process.start_again()?;
        Ok(process)
    }

    /// Starts the server again with its data.
    pub(crate) fn start_again(&self) -> Result<(), BackendError> {
        self.spawn(&self.program, &self.arguments)
    }

    fn spawn(&self, program: &Path, arguments: &[String]) -> Result<(), BackendError> {
        let starting = || format!("start {}", program.display());
        let log = self.folder.log().map_err(BackendError::failed(starting()))?;
        let errors = log.try_clone().map_err(BackendError::failed(starting()))?;
        let mut command = wall_clock::command("sh");
        command
            .args(["-c", r#"read -r go && exec "$@" </dev/null"#, "sh"])
            .arg(program)
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        // PGDATA, PGPORT and similar variables belong to the developer's own server.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_postgres(name)) {
            command.env_remove(name);
        }
        if let Some(account) = self.folder.account() {
            command.uid(account.user).gid(account.group);
        }
        let mut child = command.spawn().map_err(BackendError::failed(starting()))?;
        let go = child.stdin.take();
        let known = self.supervisor.process(Some(child.id()));
        *self.child() = Some(child);
        known?;
        if let Some(mut go) = go {
            go.write_all(b"go\n").map_err(BackendError::failed(starting()))?;
        }
        Ok(())
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the exit status, if any, and then releases the process from the supervisor.
    fn status(&self) -> Option<ExitStatus> {
        let mut child = self.child();
        let status = child.as_mut()?.try_wait().ok()??;
        *child = None;
        drop(child);
        if let Err(error) = self.supervisor.process(None) {
            tracing::warn!(%error, "the supervisor has ended");
        }
        Some(status)
    }

    pub(crate) fn running(&self) -> bool {
        let _ended = self.status();
        self.child().is_some()
    }

    async fn ended(
        &self,
        deadline: Duration,
        action: &'static str,
    ) -> Result<ExitStatus, BackendError> {
        let mut patience = Patience::new(action, deadline);
        loop {
            if let Some(status) = self.status() {
                return Ok(status);
            }
            if patience.look(ready(false)).await.is_err() {
                return Err(BackendError::Deadline { action, server: self.kind, waited: deadline });
            }
        }
    }

    /// Returns the server's process, which leads its children.
    fn leader(&self) -> Option<Pid> {
        let id = self.child().as_ref()?.id();
        Pid::from_raw(i32::try_from(id).ok()?)
    }

    /// Ends the server with this signal, and with SIGKILL after 5 s.
    pub(crate) async fn end(&self, signal: Signal) -> Result<(), BackendError> {
        let Some(leader) = self.leader() else {
            return Ok(());
        };
        if signal != Signal::KILL {
            // A paused server would not receive the signal.
            tree::resume(leader);
            tree::send(leader, signal);
            if self.ended(STOP, "stop").await.is_ok() {
                return Ok(());
            }
        }
        let (children, action) = (tree::kill(leader), "end after SIGKILL");
        let deadline = Duration::from_secs(5);
        self.ended(deadline, action).await?;
        let mut patience = Patience::new("the children of the server to end", deadline);
        let gone = || ready(!children.iter().any(|child| tree::is_running(*child)));
        let in_vain = |_| BackendError::Deadline { action, server: self.kind, waited: deadline };
        while !patience.look(gone()).await.map_err(in_vain)? {}
        Ok(())
    }

    pub(crate) fn pause(&self) {
        if let Some(leader) = self.leader() {
            tree::pause(leader);
        }
    }

    pub(crate) fn resume(&self) {
        if let Some(leader) = self.leader() {
            tree::resume(leader);
        }
    }

    /// Appends to a file of the data directory, or creates it.
    pub(crate) fn append_data(&self, file: &str, text: &str) -> Result<(), BackendError> {
        let file = self.folder.data().join(file);
        self.folder
            .append(&file, text)
            .map_err(BackendError::failed(format!("write {}", file.display())))
    }

    /// Writes a file of the data directory that only the server may read.
    pub(crate) fn write_data(&self, file: &str, text: &str) -> Result<(), BackendError> {
        let file = self.folder.data().join(file);
        self.folder
            .write_secret(&file, text)
            .map_err(BackendError::failed(format!("write {}", file.display())))
    }

    /// Returns the last log lines.
    pub(crate) fn logs(&self) -> Vec<String> {
        self.folder.last_lines(0)
    }

    /// Ends the server as [`end`](Self::end) does. Returns the last lines that it logged meanwhile.
    pub(crate) async fn end_with_logs(&self, signal: Signal) -> Result<Vec<String>, BackendError> {
        let length = self.folder.log_length();
        let length = length.map_err(BackendError::failed("read the log of the server"))?;
        self.end(signal).await?;
        Ok(self.folder.last_lines(length))
    }
}

impl Drop for Process {
    /// Lets the supervisor clean up, as after the end of this process. If it was killed, a new one
    /// does it.
    fn drop(&mut self) {
        self.supervisor.finish();
        let child = self.child().take();
        if self.folder.path().exists() {
            tracing::warn!("the supervisor of {} was killed, so a new one cleans up", self.kind);
            if let Ok(mut supervisor) = Supervisor::start(Some(self.folder.path())) {
                let _killed = supervisor.process(child.as_ref().map(Child::id));
                supervisor.finish();
            }
        }
        if let Some(mut child) = child {
            let _reaped = child.wait();
        }
    }
}

fn is_postgres(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("PG"))
}

/// Returns a port for a server, which keeps it over restarts.
///
/// The port is below the system's ephemeral range. No outgoing connection and no `bind` to port 0
/// can take it while the server is down.
pub(crate) fn free_port() -> Result<u16, BackendError> {
    const FIRST: u16 = 15_000;
    const COUNT: u128 = 15_000;
    let mut refused = None;
    for _ in 0..100 {
        let offset = uuid::Uuid::new_v4().as_u128() % COUNT;
        let port = FIRST + u16::try_from(offset).unwrap_or_default();
        match std::net::TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) => refused = Some(error),
        }
    }
    let refused = refused.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into());
    Err(BackendError::failed("find a free port between 15000 and 30000")(refused))
}
