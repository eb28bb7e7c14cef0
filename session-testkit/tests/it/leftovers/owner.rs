//! An owner of servers in its own process, and its leftovers.

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use session_testkit::{backends::Backend, wait};
use testcontainers::{
    bollard::query_parameters::ListContainersOptionsBuilder, core::client::docker_client_instance,
};

use super::CHILD;
use crate::harness::Outcome;

/// The limit of a wait: 60 s. A busy engine removes a container in seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// An owner in its own process. Its folders are inside one of ours.
pub(super) struct Owner {
    pub(super) child: Child,
    folder: tempfile::TempDir,
    backend: Backend,
}

impl Owner {
    /// Starts the owner, which starts its servers in the background.
    pub(super) fn spawn(backend: Backend, end: &str) -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        // The servers of root run under another account.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let child = Command::new(env::current_exe()?)
            .args(["--exact", "leftovers::child", "--ignored", "--nocapture"])
            .env(CHILD, format!("{backend} {end}"))
            .env("TMPDIR", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self { child, folder, backend })
    }

    /// Starts the command `session-testkit faults` as the owner, and waits for its load.
    pub(super) fn faults(backend: Backend) -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_session-testkit"))
            .args(["faults", "--rate", "20", "--duration", "60s"])
            // Redis is paused when the owner is killed.
            .args(["--fault", "redis-pause@0+50"])
            .env("SESSION_TESTKIT_BACKEND", backend.to_string())
            .env_remove("SESSION_TESTKIT_REDIS_URL")
            .env_remove("SESSION_TESTKIT_DATABASE_URL")
            .env("RUST_LOG", "session_testkit=info")
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut text = String::new();
        while !text.contains("workload begins") {
            assert_ne!(errors.read_line(&mut text)?, 0, "{text}");
        }
        // A closed pipe would end the command.
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        Ok(Self { child, folder, backend })
    }

    /// Waits until its servers run.
    pub(super) fn ready(&mut self) -> std::io::Result<()> {
        let out = BufReader::new(self.child.stdout.as_mut().expect("a pipe"));
        let ready = out.lines().map_while(Result::ok).any(|line| line == "ready");
        assert!(ready, "the child did not start its servers");
        Ok(())
    }

    /// Returns all processes and memory segments that it has started.
    pub(super) async fn traces(&self) -> Traces {
        Traces { processes: descendants(self.child.id()), segments: segments(self.folder.path()) }
    }

    /// Waits until nothing is left.
    pub(super) async fn leaves_nothing(&self, traces: &Traces) -> Outcome {
        let begin = Instant::now();
        let mut left = String::new();
        let gone = wait::until("everything to be gone", PATIENCE, async || {
            left = self.left(traces).await;
            left.is_empty()
        });
        let gone = gone.await;
        assert!(gone.is_ok(), "left after {PATIENCE:?}: {left}");
        eprintln!("{}: all gone after {:?}", self.backend, begin.elapsed());
        Ok(())
    }

    pub(super) async fn left(&self, traces: &Traces) -> String {
        let mut left = Vec::new();
        for (pid, name) in &traces.processes {
            if alive(*pid) {
                left.push(format!("process {pid} ({name})"));
            }
        }
        for entry in fs::read_dir(self.folder.path()).expect("the folder") {
            left.push(format!("folder {}", entry.expect("an entry").path().display()));
        }
        let shared = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
        for line in shared.lines() {
            let id = line.split_whitespace().nth(1).unwrap_or_default();
            if traces.segments.iter().any(|segment| segment == id) {
                left.push(format!("shared memory {id}"));
            }
        }
        if self.backend == Backend::Docker {
            left.extend(containers(self.child.id()).await);
        }
        left.join(", ")
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _over = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub(super) struct Traces {
    pub(super) processes: HashMap<i32, String>,
    segments: Vec<String>,
}

/// Returns the ids of System V segments, from the seventh line of Postgres' pid file.
fn segments(folder: &Path) -> Vec<String> {
    let servers = fs::read_dir(folder).expect("the folder").filter_map(Result::ok);
    let pid_files = servers
        .filter_map(|entry| fs::read_to_string(entry.path().join("data/postmaster.pid")).ok());
    pid_files
        .filter_map(|text| Some(text.lines().nth(6)?.split_whitespace().nth(1)?.to_owned()))
        .collect()
}

/// Returns the parent and the name of each process.
fn processes() -> HashMap<i32, (i32, String)> {
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            // "PID (NAME) STATE PARENT …". A zombie has ended.
            let (head, rest) = stat.rsplit_once(") ")?;
            let (pid, name) = head.split_once(" (")?;
            let mut rest = rest.split(' ');
            let state = rest.next()?;
            let parent = rest.next()?.parse().ok()?;
            (state != "Z").then_some(())?;
            Some((pid.parse().ok()?, (parent, name.to_owned())))
        })
        .collect()
}

fn alive(pid: i32) -> bool {
    processes().contains_key(&pid)
}

fn descendants(of: u32) -> HashMap<i32, String> {
    let all = processes();
    let of = i32::try_from(of).expect("a pid");
    let descends = |mut pid: i32| {
        while let Some((parent, _)) = all.get(&pid) {
            if *parent == of {
                return true;
            }
            pid = *parent;
        }
        false
    };
    let found = all.iter().filter(|(pid, _)| descends(**pid));
    found.map(|(pid, (_, name))| (*pid, name.clone())).collect()
}

pub(super) async fn containers(owner: u32) -> Vec<String> {
    let engine = docker_client_instance().await.expect("the engine");
    let filters = HashMap::from([("label", vec![format!("session-testkit.owner={owner}")])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let found = engine.list_containers(Some(options)).await.expect("a list");
    found.into_iter().map(|one| format!("container {:?}", one.names)).collect()
}

/// Checks that the servers run. Otherwise their absence later proves nothing.
pub(super) async fn seen(owner: &Owner, traces: &Traces) {
    match owner.backend {
        Backend::Native => {
            let has = |name: &str| traces.processes.values().any(|it| it.starts_with(name));
            assert!(has("redis-server") || has("valkey-server"), "{:?}", traces.processes);
            assert!(has("postgres"), "{:?}", traces.processes);
            assert_eq!(traces.segments.len(), 1);
        }
        Backend::Docker => assert_eq!(containers(owner.child.id()).await.len(), 2),
    }
}

pub(super) fn kill(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a pid");
    kill_process(pid, signal).expect("a running process");
}

/// Kills the supervisors, which are shells.
pub(super) fn kill_supervisors(traces: &Traces) {
    let shells = traces.processes.iter().filter(|(_, name)| *name == "sh");
    let killed = shells.map(|(pid, _)| kill(*pid, Signal::KILL)).count();
    assert_eq!(killed, 2);
}
