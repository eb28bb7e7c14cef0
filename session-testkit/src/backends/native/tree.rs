//! Signals for a server and its children.
//!
//! A Postgres backend leads its own session, therefore a signal to the process group misses it.
//! Both servers have only one level of children. The leader is stopped before its children are
//! listed, therefore the list is complete.

use std::{fs, process::Command};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};

/// A server's process with its children.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    leader: Pid,
}

impl Tree {
    pub(super) fn of(leader: u32) -> Option<Self> {
        let leader = Pid::from_raw(i32::try_from(leader).ok()?)?;
        Some(Self { leader })
    }

    /// Kills all processes and returns the children, which may end later.
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

    pub(super) fn signal_leader(self, signal: Signal) {
        // A paused server would not receive the signal.
        self.resume();
        send(self.leader, signal);
    }

    fn children(self) -> Vec<Pid> {
        let leader = self.leader.as_raw_nonzero();
        let list = fs::read_to_string(format!("/proc/{leader}/task/{leader}/children"));
        let list = list.or_else(|_| {
            let output = Command::new("pgrep").args(["-P", &leader.to_string()]).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        });
        let list = list.unwrap_or_default();
        let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.filter_map(Pid::from_raw).collect()
    }
}

/// Sends a signal. An error means that the process has ended, which every caller accepts.
fn send(pid: Pid, signal: Signal) {
    let _gone = kill_process(pid, signal);
}

/// Returns whether a process still runs. A zombie does not.
pub(super) fn is_running(pid: Pid) -> bool {
    if test_kill_process(pid).is_err() {
        return false;
    }
    // The format is "PID (NAME) STATE …", and NAME may contain anything.
    match fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) {
        Ok(stat) => !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => cfg!(not(target_os = "linux")),
    }
}
