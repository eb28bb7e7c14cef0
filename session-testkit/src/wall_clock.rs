//! Steps of this process' wall clock, as by an NTP client or an administrator.
//!
//! The real clock belongs to the whole machine. Therefore the process runs under libfaketime
//! (Debian's package `libfaketime`), which reads the offset of the wall clock from a file.
//! Monotonic time and the started servers are not affected.

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

use crate::wait::{Patience, WaitTimeoutError};

/// The variable that names libfaketime's file.
const FILE: &str = "FAKETIME_TIMESTAMP_FILE";
/// The variable that makes the dynamic linker load libfaketime.
const PRELOAD: &str = "LD_PRELOAD";
/// The maximum wait for a step. libfaketime reads the file once a second.
const SEEN: Duration = Duration::from_secs(5);
/// The permitted error of a step, because reading both clocks takes time.
const OFF: Duration = Duration::from_secs(1);

/// The reason why the clock can't be stepped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClockError {
    /// libfaketime is not installed.
    #[error(
        "stepping the clock needs libfaketime, which is not installed. On Debian: apt-get install \
         libfaketime"
    )]
    NotInstalled,
    /// This process does not run under libfaketime.
    #[error(
        "this process does not run under libfaketime, therefore its clock can't be stepped. \
         `session-testkit faults` restarts itself under it"
    )]
    NotSteppable,
    /// The file could not be created or written, or the process could not be restarted.
    #[error("could not {doing}")]
    Io {
        /// The failed action.
        doing: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The clock did not follow the step.
    #[error("the clock did not step")]
    NoEffect(#[from] WaitTimeoutError),
}

/// Returns whether this process' clock can be stepped.
pub fn is_steppable() -> bool {
    env::var_os(FILE).is_some() && env::var_os(PRELOAD).is_some()
}

/// Restarts this process under libfaketime, with the same arguments. Returns only an error.
pub(crate) fn start_anew() -> Result<Infallible, ClockError> {
    let library = library().ok_or(ClockError::NotInstalled)?;
    let failed = |doing| move |source: io::Error| ClockError::Io { doing, source };
    // The file has no name, disappears with the process, and stays open at exec.
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
    Err(failed("restart this program under libfaketime")(refused))
}

/// Returns a command with the true clock. Redis would not even start under libfaketime.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    if is_steppable() {
        command.env_remove(PRELOAD).env_remove(FILE);
    }
    command
}

/// The clock before any step.
#[derive(Debug)]
pub(crate) struct WallClock {
    file: PathBuf,
    found: (SystemTime, Instant),
}

impl WallClock {
    /// Reads the clock. Fails with [`ClockError::NotSteppable`] without libfaketime.
    pub(crate) fn found() -> Result<Self, ClockError> {
        let file = env::var_os(FILE).filter(|_| is_steppable());
        Ok(Self {
            file: PathBuf::from(file.ok_or(ClockError::NotSteppable)?),
            found: (SystemTime::now(), Instant::now()),
        })
    }

    /// Steps the clock to `later` than it was found. Returns when the step is visible.
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

/// Writes the offset. The length is constant, so that a reader never sees half of it.
fn write(file: &Path, later: Duration) -> Result<(), ClockError> {
    let opened = OpenOptions::new().write(true).open(file);
    let written = opened.and_then(|mut file| writeln!(file, "+{:08}", later.as_secs()));
    written.map_err(|source| ClockError::Io { doing: "write the clock's file", source })
}

/// Finds libfaketime. Debian and Ubuntu install it in the architecture's folder of libraries.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let debian = folders.flatten().map(|folder| folder.path());
    let others = ["/usr/lib64", "/usr/lib"].map(PathBuf::from);
    let mut files = debian.chain(others).map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    files.find(|file| file.is_file())
}
