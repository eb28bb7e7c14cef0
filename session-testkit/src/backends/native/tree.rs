//! Signals for a server and its children.
//!
//! A Postgres backend leads its own session, therefore a signal to the process group misses it.
//! Both servers have only one level of children. The leader is stopped before its children are
//! listed, therefore the list is complete.

use std::{fs, process::Command};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};

/// Kills the leader and its children. Returns the children, which may end later.
pub(super) fn kill(leader: Pid) -> Vec<Pid> {
    send(leader, Signal::STOP);
    let children = children(leader);
    for child in &children {
        send(*child, Signal::KILL);
    }
    let _gone = kill_process_group(leader, Signal::KILL);
    send(leader, Signal::KILL);
    children
}

pub(super) fn pause(leader: Pid) {
    send(leader, Signal::STOP);
    for child in children(leader) {
        send(child, Signal::STOP);
    }
}

pub(super) fn resume(leader: Pid) {
    for child in children(leader) {
        send(child, Signal::CONT);
    }
    send(leader, Signal::CONT);
}

fn children(leader: Pid) -> Vec<Pid> {
    let leader = leader.as_raw_nonzero();
    let list = fs::read_to_string(format!("/proc/{leader}/task/{leader}/children"));
    let list = list.or_else(|_| {
        let output = Command::new("pgrep").args(["-P", &leader.to_string()]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    });
    let list = list.unwrap_or_default();
    let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}

/// Sends a signal. An error means that the process has ended, which every caller accepts.
pub(super) fn send(pid: Pid, signal: Signal) {
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
