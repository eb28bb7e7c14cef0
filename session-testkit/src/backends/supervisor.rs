//! A small process that cleans up after us, also when we get no chance to.
//!
//! `sh` reads a pipe whose only writing end is ours. The kernel closes it however we end (a guard
//! dropped, a panic, SIGKILL), and at end of file the supervisor kills the server and removes its
//! folder, or its container. So there is one way of cleaning up, and every test exercises it.
//!
//! Rejected: `PR_SET_PDEATHSIG` fires when the *thread* that started the server ends, which under a
//! runtime is any time; testcontainers' `watchdog` takes over SIGINT and SIGTERM of the whole
//! process, stops each container with a 10 s grace, and knows nothing of SIGKILL.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::{Mutex, PoisonError},
};

use super::error::BackendError;
use crate::wall_clock;

/// Words on the pipe: `process PID`, `container NAME`; an empty value withdraws it.
///
/// Postgres' children lead sessions of their own, so signalling the process group does not reach
/// them: they are found as children of the leader, which is stopped first so that it makes no more.
/// Postgres killed hard leaves a System V segment behind; its id stands in `postmaster.pid`.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
# One that nobody has reaped yet is gone: it holds nothing any more, and init may take its time.
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
# The container may still be in the making when its creator dies: ask again for a while. `docker rm -f`
# calls it a success when there is none; only when it removed one it prints the name.
tries=0
while [ -n "$container" ] && [ $tries -lt 40 ]; do
    [ -n "$(docker rm -f -v "$container")" ] && break
    curl -sf -X DELETE --unix-socket "$socket" "http://docker/containers/$container?force=1&v=1" && break
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
    /// Starts a supervisor; `folder` is removed at the end.
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
            // Ctrl-C and a runner that kills our process group must not reach it.
            .process_group(0)
            .spawn()
            .map_err(BackendError::io("start the supervisor (`sh`)"))?;
        let pipe = Mutex::new(child.stdin.take());
        Ok(Self { child, pipe })
    }

    /// Puts the leader of a process group into its care; `None` withdraws it.
    pub(crate) fn process(&self, leader: Option<u32>) -> Result<(), BackendError> {
        self.tell(&match leader {
            Some(pid) => format!("process {pid}\n"),
            None => "process\n".to_owned(),
        })
    }

    /// Puts a container, which need not exist yet, into its care; `None` withdraws it.
    pub(crate) fn container(&self, name: Option<&str>) -> Result<(), BackendError> {
        self.tell(&format!("container {}\n", name.unwrap_or_default()))
    }

    /// Lets it clean up, without waiting for its end.
    pub(crate) fn close(&self) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        drop(pipe.take());
    }

    fn tell(&self, line: &str) -> Result<(), BackendError> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pipe) = pipe.as_mut() else {
            return Ok(());
        };
        pipe.write_all(line.as_bytes())
            .map_err(BackendError::io("tell the supervisor"))
    }

    /// Lets it clean up and waits for its end (milliseconds).
    pub(crate) fn finish(&mut self) {
        self.close();
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "lost the supervisor");
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.finish();
    }
}
