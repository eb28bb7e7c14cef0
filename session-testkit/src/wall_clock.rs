//! The wall clock of this process, stepped: as an NTP client does, or an administrator.
//!
//! A real clock is everybody's, so the process runs under libfaketime (Debian's package `libfaketime`), which
//! reads from a file how far off the wall clock is to be. Monotonic time is left as it is, and so are the servers
//! that we start.

use std::{
    convert::Infallible,
    env,
    ffi::OsStr,
    fs::OpenOptions,
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::wait::{Patience, WaitedInVain};

/// What libfaketime reads.
const FILE: &str = "FAKETIME_TIMESTAMP_FILE";
/// How the dynamic linker is told to load it.
const PRELOAD: &str = "LD_PRELOAD";
/// libfaketime looks at the file once a second.
const SEEN: Duration = Duration::from_secs(5);
/// What a step may be off, by the time that reading both clocks takes.
const OFF: Duration = Duration::from_secs(1);

/// Why the clock can't be stepped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClockError {
    /// It is not there.
    #[error(
        "stepping the clock takes libfaketime, which is not installed; on Debian: apt-get install libfaketime"
    )]
    NotInstalled,
    /// This process has its own clock.
    #[error(
        "this process does not run under libfaketime, so its clock can't be stepped; `session-testkit faults` starts itself anew under it"
    )]
    NotSteppable,
    /// The file could not be made or written, or the process not be started anew.
    #[error("could not {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The step was asked for, and the clock did not take it.
    #[error("the clock did not step")]
    NoEffect(#[from] WaitedInVain),
}

/// Can this process' clock be stepped?
#[must_use]
pub fn is_steppable() -> bool {
    env::var_os(FILE).is_some() && env::var_os(PRELOAD).is_some()
}

/// Starts this process anew, with the same arguments, so that its clock can be stepped.
///
/// # Errors
/// [`ClockError`]; where it succeeds, nothing returns.
pub(crate) fn start_anew() -> Result<Infallible, ClockError> {
    let library = library().ok_or(ClockError::NotInstalled)?;
    let failed = |doing| move |source: io::Error| ClockError::Io { doing, source };
    // It has no name, and is gone with the process. It stays open at exec.
    let file = tempfile::tempfile().map_err(failed("make the clock's file"))?;
    let kept = fcntl_setfd(&file, FdFlags::empty());
    kept.map_err(|error| failed("keep the clock's file open")(error.into()))?;
    let path = format!("/dev/fd/{}", file.as_raw_fd());
    write(Path::new(&path), Duration::ZERO)?;
    let program = env::current_exe().map_err(failed("find this program"))?;
    let refused = Command::new(program)
        .args(env::args_os().skip(1))
        .env(PRELOAD, library)
        .env(FILE, path)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_CACHE_DURATION", "1")
        .exec();
    Err(failed("start this program anew, under libfaketime")(
        refused,
    ))
}

/// To start somebody else, who keeps the true clock. (Redis, with its allocator, would not even start under
/// libfaketime.)
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    if is_steppable() {
        command.env_remove(PRELOAD).env_remove(FILE);
    }
    command
}

/// The clock as it was found.
#[derive(Debug)]
pub(crate) struct WallClock {
    file: PathBuf,
    found: (SystemTime, Instant),
}

impl WallClock {
    /// # Errors
    /// [`ClockError::NotSteppable`].
    pub(crate) fn found() -> Result<Self, ClockError> {
        let file = env::var_os(FILE).filter(|_| is_steppable());
        Ok(Self {
            file: PathBuf::from(file.ok_or(ClockError::NotSteppable)?),
            found: (SystemTime::now(), Instant::now()),
        })
    }

    /// Steps it to so much later than it was found; zero steps it back. Answers when that can be seen.
    ///
    /// # Errors
    /// [`ClockError`].
    pub(crate) async fn step_to(&self, later: Duration) -> Result<(), ClockError> {
        write(&self.file, later)?;
        let mut patience = Patience::new("the clock to step", SEEN);
        let stepped = async || {
            let expected = self.found.0 + self.found.1.elapsed() + later;
            let off = SystemTime::now().duration_since(expected);
            off.unwrap_or_else(|behind| behind.duration()) < OFF
        };
        while !patience.look(stepped()).await? {}
        Ok(())
    }
}

/// Always as long, so that nobody reads half of it.
fn write(file: &Path, later: Duration) -> Result<(), ClockError> {
    let opened = OpenOptions::new().write(true).open(file);
    let written = opened.and_then(|mut file| writeln!(file, "+{:08}", later.as_secs()));
    written.map_err(|source| ClockError::Io {
        doing: "write the clock's file",
        source,
    })
}

/// Where distributions put it: Debian and Ubuntu beside the architecture's other libraries, others in one folder.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let debian = folders.flatten().map(|folder| folder.path());
    let others = ["/usr/lib64", "/usr/lib"].map(PathBuf::from);
    let mut files = debian
        .chain(others)
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    files.find(|file| file.is_file())
}
