//! A server's folder with its data, its log and its owner.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use crate::backends::error::BackendError;

/// The number of bytes that are read from the end of a log.
const TAIL: u64 = 16 * 1024;

/// A server's folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    account: Option<Account>,
}

/// The account of a server if we are root, because Postgres does not run as root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

impl Folder {
    /// Chooses a name without creating the folder, because the supervisor must know the name first.
    pub(crate) fn planned(accounts: &[&str]) -> Self {
        let name = format!("session-testkit-{}", uuid::Uuid::new_v4().simple());
        let root = rustix::process::geteuid().is_root();
        Self {
            path: std::env::temp_dir().join(name),
            account: root.then(|| accounts.iter().find_map(|name| Account::named(name))).flatten(),
        }
    }

    /// Creates the folder, readable only by its owner.
    pub(crate) fn make(&self) -> Result<(), BackendError> {
        let make = || -> io::Result<()> {
            for path in [self.path.as_path(), &self.data()] {
                DirBuilder::new().mode(0o700).create(path)?;
                if let Some(account) = self.account {
                    chown(path, Some(account.user), Some(account.group))?;
                }
            }
            Ok(())
        };
        make().map_err(BackendError::failed(format!("create the folder {}", self.path.display())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn account(&self) -> Option<Account> {
        self.account
    }

    /// Returns the server's data directory.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Appends to a file, which then belongs to the server's account.
    pub(crate) fn append(&self, path: &Path, text: &str) -> io::Result<()> {
        File::options().create(true).append(true).open(path)?.write_all(text.as_bytes())?;
        self.give(path)
    }

    /// Writes a file that only the server's account may read.
    pub(crate) fn write_secret(&self, path: &Path, text: &str) -> io::Result<()> {
        let mut file = File::options();
        let mut file = file.create(true).write(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        self.give(path)
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        match self.account {
            Some(account) => chown(path, Some(account.user), Some(account.group)),
            None => Ok(()),
        }
    }

    pub(crate) fn log(&self) -> io::Result<File> {
        File::options().create(true).append(true).open(self.path.join("log"))
    }

    /// Returns the number of bytes in the log.
    pub(crate) fn log_length(&self) -> io::Result<u64> {
        Ok(self.log()?.metadata()?.len())
    }

    /// Returns the last lines of the log, and none that ended before its first `from` bytes.
    pub(crate) fn last_lines(&self, from: u64) -> Vec<String> {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.path.join("log"))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL).max(from)))?;
            let mut bytes = Vec::new();
            file.take(TAIL).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Account {
    /// Looks up an account with `id`, which knows every source of accounts on the machine.
    fn named(name: &str) -> Option<Self> {
        let id = |flag| -> Option<u32> {
            let output = Command::new("id").args([flag, name]).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        Some(Self { user: id("-u")?, group: id("-g")? })
    }
}
