//! The memory that a process occupies.

use crate::error::{Doing as _, Error};

/// The memory of a process, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The maximum so far.
    pub(crate) peak: u64,
}

/// Reads the memory of the process with this id.
pub(crate) fn of(pid: u32) -> Result<Memory, Error> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    parse(&status).ok_or_else(|| Error::new(format!("find VmRSS and VmHWM in {path}")))
}

/// Parses both figures from the text of `/proc/PID/status`.
fn parse(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some(Memory { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_figures_are_found() {
        let status = "Name:\tchanges\nVmPeak:\t  9 kB\nVmHWM:\t   40960 kB\nVmRSS:\t   20480 kB\n";
        let expected = Memory { resident: 20480, peak: 40960 };
        assert_eq!(parse(status), Some(expected));
    }

    #[test]
    fn status_without_memory_has_no_figures() {
        assert_eq!(parse("Name:\tkthreadd\n"), None);
        assert_eq!(parse("VmHWM: x kB\nVmRSS: 1 kB\n"), None);
    }

    #[test]
    fn this_process_has_memory() {
        let memory = of(std::process::id()).unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
    }
}
