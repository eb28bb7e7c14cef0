//! The search for a server's program.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::wall_clock;

/// Finds a program in PATH, and also in /usr/sbin and /usr/local/bin.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Some systems keep servers in /usr/sbin, which is not in every PATH.
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Returns `program` in the subfolder of `folder` whose name is the highest number.
pub(crate) fn newest(folder: &str, program: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let number = |name: &Path| -> Option<u32> { name.file_name()?.to_str()?.parse().ok() };
    versions
        .filter_map(|entry| Some((number(&entry.path())?, entry.path().join(program))))
        .filter(|(_, file)| file.is_file())
        .max()
        .map(|(_, file)| file)
}

/// Returns the major and the minor version that `program --version` prints after `mark`. A missing
/// minor version is 0.
pub(crate) fn version(program: &Path, mark: &str) -> Result<(u32, u32), String> {
    let shown = program.display();
    let output = wall_clock::command(program)
        .arg("--version")
        .output()
        .map_err(|error| format!("{shown} --version: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers = text.split_once(mark).map(|(_, rest)| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let mut numbers = rest[..end].split('.').map(|number| number.parse().ok());
        (numbers.next().flatten(), numbers.next().flatten().unwrap_or_default())
    });
    numbers
        .and_then(|(major, minor)| Some((major?, minor)))
        .ok_or_else(|| format!("{shown} --version prints no version: {}", text.trim()))
}
