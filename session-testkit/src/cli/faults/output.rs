//! The printed report and the history files.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use super::{Arguments, FaultsError};
use crate::{cli::output, fault_run::Judged};

/// The text of the runs, printed and written to the report file.
///
/// With `--json` it goes to standard error. Each text is written at once, therefore the report of
/// an interrupted night contains the finished runs.
pub(super) struct RunOutput {
    json: bool,
    report: Option<(PathBuf, File)>,
}

impl RunOutput {
    /// Opens the report file, before any server starts.
    pub(super) fn new(arguments: &Arguments) -> Result<Self, FaultsError> {
        let report = arguments.report.clone().map(|path| {
            let file = File::create(&path).map_err(FaultsError::file("write", &path))?;
            Ok::<_, FaultsError>((path, file))
        });
        Ok(Self { json: arguments.json, report: report.transpose()? })
    }

    pub(super) fn say(&mut self, text: &str) -> Result<(), FaultsError> {
        output::tell(self.json, text);
        match &mut self.report {
            Some((path, file)) => {
                writeln!(file, "{text}").map_err(FaultsError::file("write", path))
            }
            None => Ok(()),
        }
    }
}

/// Checks that the file's folder exists, before a run of a whole night starts.
pub(super) fn check_folder(path: &Path) -> Result<(), FaultsError> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => {
            let found = std::fs::read_dir(folder).map(drop);
            found.map_err(FaultsError::file("write", path))
        }
        None => Ok(()),
    }
}

/// Returns `run-1-redis-kill.jsonl` for `run.jsonl`, 1 and `redis-kill`.
pub(super) fn numbered_file(path: &Path, number: u32, name: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|it| it.to_string_lossy());
    let file = match extension {
        Some(extension) => format!("{stem}-{number}-{name}.{extension}"),
        None => format!("{stem}-{number}-{name}"),
    };
    path.with_file_name(file)
}

pub(super) fn write_history(judged: &Judged, path: &Path) -> Result<(), FaultsError> {
    let file = File::create(path).map_err(FaultsError::file("write", path))?;
    let written = judged.history.write(BufWriter::new(file));
    written.map(drop).map_err(FaultsError::file("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_its_own_file() {
        let path = numbered_file(Path::new("a/run.jsonl"), 1, "redis-kill");
        assert_eq!(path, Path::new("a/run-1-redis-kill.jsonl"));
        assert_eq!(numbered_file(Path::new("run"), 2, "x"), Path::new("run-2-x"));
    }
}
