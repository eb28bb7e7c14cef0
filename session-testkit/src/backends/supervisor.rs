//! A small process that cleans up after this one, also after a SIGKILL.
//!
//! `sh` reads a pipe, and this process has the only writing end. The kernel closes it at any end of
//! this process, such as a dropped guard, a panic or SIGKILL. At end of file the supervisor kills
//! the server and removes its folder, or its container. This is the only way of cleaning up,
//! therefore every test exercises it.
//!
//! Two alternatives were rejected. `PR_SET_PDEATHSIG` fires when the *thread* that started the
//! server ends, which can be at any time under a runtime. testcontainers' `watchdog` takes over
//! SIGINT and SIGTERM of the whole process, stops each container with a 10 s grace, and does not
//! handle SIGKILL.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::{Mutex, PoisonError},
};

use super::error::BackendError;
use crate::wall_clock;

/// The supervisor's script. The pipe carries `process PID` and `container NAME`, or no value.
///
/// Postgres' children lead their own sessions, therefore a signal to the process group misses them.
/// The script finds them as children of the leader. It stops the leader first, so that no more
/// children appear. A killed Postgres leaves a System V segment, whose id is in `postmaster.pid`.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
# A zombie counts as gone: it holds no resources, and init may reap it late.
gone() {
    kill -0 "$1" || return 0
    read -r stat <"/proc/$1/stat" || return 1
    case $stat in *") Z "*) return 0 ;; esac
    return 1
}
folder=$1 socket=$2 process= container=
while read -r word value; do
    case $word in
        process) process=$value ;;
        container) container=$value ;;
    esac
done
if [ -n "$process" ] && kill -STOP "$process"; then
    children=$(cat "/proc/$process/task/$process/children" || pgrep -P "$process")
    kill -KILL $children "$process" "-$process"
    tries=0
    for pid in $process $children; do
        while [ $tries -lt 100 ] && ! gone "$pid"; do tries=$((tries + 1)); sleep 0.01; done
    done
fi
if [ -n "$folder" ]; then
    if [ -f "$folder/data/postmaster.pid" ]; then
        segment=$(sed -n '7s/.* //p' "$folder/data/postmaster.pid")
        [ -z "$segment" ] || ipcrm -m "$segment"
    fi
    rm -rf "$folder"
fi
# The creator may end before the container exists, so the removal is repeated for a while.
# `docker rm -f` succeeds without a container. It prints the name only if it removed one.
tries=0
while [ -n "$container" ] && [ $tries -lt 40 ]; do
    [ -n "$(docker rm -f -v "$container")" ] && break
    url="http://docker/containers/$container?force=1&v=1"
    curl -sf -X DELETE --unix-socket "$socket" "$url" && break
    tries=$((tries + 1))
    sleep 0.1
done
exit 0
"#;

/// The writing end of the pipe, and the process at the other end.
#[derive(Debug)]
pub(crate) struct Supervisor {
    child: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Supervisor {
    /// Starts a supervisor, which removes `folder` at the end.
    pub(crate) fn start(folder: Option<&Path>) -> Result<Self, BackendError> {
        let socket = std::env::var("DOCKER_HOST")
            .ok()
            .and_then(|host| host.strip_prefix("unix://").map(str::to_owned))
            .unwrap_or_else(|| "/var/run/docker.sock".to_owned());
        let mut child = wall_clock::command("sh")
            .args(["-c", SCRIPT, "session-testkit-supervisor"])
            .arg(folder.unwrap_or_else(|| Path::new("")))
            .arg(socket)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C, or a runner that kills our process group, must not reach it.
            .process_group(0)
            .spawn()
            .map_err(BackendError::failed("start the supervisor (`sh`)"))?;
        let pipe = Mutex::new(child.stdin.take());
        Ok(Self { child, pipe })
    }

    /// Registers the leader of a process group, or withdraws it with `None`.
    pub(crate) fn process(&self, leader: Option<u32>) -> Result<(), BackendError> {
        let leader = leader.map(|pid| pid.to_string()).unwrap_or_default();
        self.send(&format!("process {leader}\n"))
    }

    /// Registers a container, which need not exist yet, or withdraws it with `None`.
    #[cfg(feature = "docker")]
    pub(crate) fn container(&self, name: Option<&str>) -> Result<(), BackendError> {
        self.send(&format!("container {}\n", name.unwrap_or_default()))
    }

    fn send(&self, line: &str) -> Result<(), BackendError> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pipe) = pipe.as_mut() else {
            return Ok(());
        };
        pipe.write_all(line.as_bytes()).map_err(BackendError::failed("write to the supervisor"))
    }

    /// Starts the cleanup and waits for its end, which takes milliseconds.
    pub(crate) fn finish(&mut self) {
        drop(self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "could not wait for the supervisor");
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.finish();
    }
}
