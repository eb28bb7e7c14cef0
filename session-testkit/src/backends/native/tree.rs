//! Signals for a server and its children.
//!
//! A Postgres backend leads a session of its own, so a signal to the process group misses it. Both
//! servers are only one level deep, and the leader is stopped before its children are listed, so
//! the list is complete.

use std::{fs, process::Command};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};

use crate::backends::kind::Stop;

/// A server's process, of whose children we take care too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    leader: Pid,
}

impl Tree {
    pub(super) fn of(leader: u32) -> Option<Self> {
        let leader = Pid::from_raw(i32::try_from(leader).ok()?)?;
        Some(Self { leader })
    }

    /// Kills all of them; answers the children, which end on their own time.
    pub(super) fn kill(self) -> Vec<Pid> {
        send(self.leader, Signal::STOP);
        let children = self.children();
        for child in &children {
            send(*child, Signal::KILL);
        }
        let _gone = kill_process_group(self.leader, Signal::KILL);
        send(self.leader, Signal::KILL);
        children
    }

    pub(super) fn pause(self) {
        send(self.leader, Signal::STOP);
        for child in self.children() {
            send(child, Signal::STOP);
        }
    }

    pub(super) fn resume(self) {
        for child in self.children() {
            send(child, Signal::CONT);
        }
        send(self.leader, Signal::CONT);
    }

    pub(super) fn signal_leader(self, stop: Stop) {
        // A paused server would not notice.
        self.resume();
        send(
            self.leader,
            match stop {
                Stop::Terminate => Signal::TERM,
                Stop::Interrupt => Signal::INT,
                Stop::Quit => Signal::QUIT,
            },
        );
    }

    fn children(self) -> Vec<Pid> {
        let leader = self.leader.as_raw_nonzero();
        let list = fs::read_to_string(format!("/proc/{leader}/task/{leader}/children"));
        let list = list.or_else(|_| {
            let output = Command::new("pgrep")
                .args(["-P", &leader.to_string()])
                .output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        });
        let list = list.unwrap_or_default();
        let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.filter_map(Pid::from_raw).collect()
    }
}

/// An error means that the process is gone, which is what every caller can live with.
fn send(pid: Pid, signal: Signal) {
    let _gone = kill_process(pid, signal);
}

/// Whether a process still runs; one that waits to be reaped (by init) does not.
pub(super) fn alive(pid: Pid) -> bool {
    if test_kill_process(pid).is_err() {
        return false;
    }
    // "PID (NAME) STATE …", where NAME may contain anything.
    match fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) {
        Ok(stat) => !stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => cfg!(not(target_os = "linux")),
    }
}
