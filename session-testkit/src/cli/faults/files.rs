//! Where words and histories go.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use super::{Arguments, Refusal};
use crate::{cli::output, history::HistoryError, trial::Judged};

/// Words: to standard output, or standard error where that has the JSON; and to the report as they come, so
/// that of a night that is broken off the runs until then are kept.
pub(super) struct Words {
    json: bool,
    report: Option<(PathBuf, File)>,
}

impl Words {
    /// # Errors
    /// Where the report can't be written: before anything is started.
    pub(super) fn new(arguments: &Arguments) -> Result<Self, Refusal> {
        let report = arguments.report.clone().map(|path| {
            let file = File::create(&path).map_err(unwritten(&path))?;
            Ok::<_, Refusal>((path, file))
        });
        Ok(Self {
            json: arguments.json,
            report: report.transpose()?,
        })
    }

    pub(super) fn say(&mut self, text: &str) -> Result<(), Refusal> {
        output::tell(self.json, text);
        match &mut self.report {
            Some((path, file)) => writeln!(file, "{text}").map_err(unwritten(path)),
            None => Ok(()),
        }
    }
}

fn unwritten<E: Into<HistoryError>>(path: &Path) -> impl FnOnce(E) -> Refusal {
    let path = path.to_owned();
    move |source| Refusal::Write {
        path,
        source: source.into(),
    }
}

/// Is the folder there? A night's work must not end at one that is not.
pub(super) fn folder_of(path: &Path) -> Result<(), Refusal> {
    let folder = path.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or(Ok(()), |folder| {
        let found = std::fs::read_dir(folder).map(drop);
        found.map_err(unwritten(path))
    })
}

/// `run.jsonl` and `redis-kill` make `run-redis-kill.jsonl`.
pub(super) fn named(path: &Path, name: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|it| it.to_string_lossy());
    let file = match extension {
        Some(extension) => format!("{stem}-{name}.{extension}"),
        None => format!("{stem}-{name}"),
    };
    path.with_file_name(file)
}

pub(super) fn write_history(judged: &Judged, path: &Path) -> Result<(), Refusal> {
    let file = File::create(path).map_err(unwritten(path))?;
    let written = judged.history.write(BufWriter::new(file));
    written.map(drop).map_err(unwritten(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_a_file_of_its_own() {
        let path = named(Path::new("a/run.jsonl"), "1-redis-kill");
        assert_eq!(path, Path::new("a/run-1-redis-kill.jsonl"));
        assert_eq!(named(Path::new("run"), "x"), Path::new("run-x"));
    }
}
