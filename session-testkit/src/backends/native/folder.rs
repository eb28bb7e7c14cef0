//! A server's folder with its data, its log and its owner.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{PermissionsExt as _, chown},
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
            fs::create_dir(&self.path)?;
            fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))?;
            fs::create_dir(self.data())?;
            fs::set_permissions(self.data(), fs::Permissions::from_mode(0o700))?;
            if let Some(account) = self.account {
                for path in [self.path.as_path(), &self.data()] {
                    chown(path, Some(account.user), Some(account.group))?;
                }
            }
            Ok(())
        };
        make().map_err(BackendError::io(format!("create the folder {}", self.path.display())))
    }

    /// Removes the folder if a killed supervisor left it behind.
    pub(crate) fn remove(&self) {
        if !self.path.exists() {
            return;
        }
        // The id of the System V segment that a killed Postgres leaves behind.
        let pid_file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let segment = pid_file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
        if let Some(segment) = segment {
            let _status = Command::new("ipcrm").args(["-m", segment]).status();
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "could not remove a folder");
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn account(&self) -> Option<Account> {
        self.account
    }

    /// Returns the server's data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(crate) fn log(&self) -> io::Result<File> {
        super::append(&self.path.join("log"))
    }

    pub(crate) fn last_lines(&self) -> Vec<String> {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.path.join("log"))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
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
