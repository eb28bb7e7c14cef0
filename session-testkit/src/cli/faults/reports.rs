//! The files about the runs: pages, JUnit, what they reached, and the summary of a GitHub job.
//!
//! Each is written after every run, therefore an interrupted night leaves the finished runs.

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use quick_junit::TestSuite;

use super::{
    Arguments, FaultsError, junit,
    output::{check_folder, numbered_file},
    picture::{self, Linked, Picture},
    reached, summary,
};
use crate::{
    fault_run::{Judged, Reached},
    invariants::{Outcome, Verdict},
};

/// The variable of GitHub with the file to which a step adds Markdown.
const STEP_SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// The files of several runs.
pub(super) struct Reports<'a> {
    arguments: &'a Arguments,
    seed: u64,
    is_one: bool,
    linked: Vec<Linked>,
    suites: Vec<TestSuite>,
    reached: Reached,
    table: String,
    /// The violations as Markdown.
    violations: String,
}

impl<'a> Reports<'a> {
    /// Prepares the files, and checks their folders before a run of a whole night starts.
    pub(super) fn new(
        arguments: &'a Arguments,
        seed: u64,
        runs: usize,
    ) -> Result<Self, FaultsError> {
        let files = [&arguments.html, &arguments.junit, &arguments.reached];
        files.into_iter().flatten().try_for_each(|path| check_folder(path))?;
        Ok(Self {
            arguments,
            seed,
            is_one: runs == 1,
            linked: Vec::new(),
            suites: Vec::new(),
            reached: Reached::default(),
            table: summary::HEAD.to_owned(),
            violations: String::new(),
        })
    }

    /// Adds a run.
    pub(super) fn add(
        &mut self,
        number: u32,
        name: &str,
        seed: u64,
        judged: &Judged,
    ) -> Result<(), FaultsError> {
        self.table += &summary::row(name, seed, judged);
        self.violations += &violations(name, seed, judged);
        if let Some(path) = &self.arguments.html {
            let notes = judged.doubts();
            let picture = Picture {
                name,
                outcome: judged.outcome(),
                notes: &notes,
                machine: Some(&judged.machine),
                availability: Some(&judged.availability),
                history: &judged.history,
                verdicts: &judged.verdicts,
            };
            self.write_page(path, number, seed, &picture)?;
        }
        self.suites.push(junit::suite(name, seed, judged));
        self.write_junit()?;
        self.reached.add(&Reached::of(&judged.history));
        self.write_reached()
    }

    /// Adds a run that could not run, with the reason. It has no page.
    pub(super) fn add_failed(
        &mut self,
        name: &str,
        seed: u64,
        why: &str,
    ) -> Result<(), FaultsError> {
        self.table += &summary::failed_row(name, seed, why);
        self.suites.push(junit::failed_suite(name, seed, why));
        self.write_junit()?;
        self.write_reached()
    }

    fn write_junit(&self) -> Result<(), FaultsError> {
        let Some(path) = &self.arguments.junit else { return Ok(()) };
        let document = junit::document(&self.suites);
        write(path, &document.map_err(FaultsError::file("write", path))?)
    }

    fn write_reached(&self) -> Result<(), FaultsError> {
        let Some(path) = &self.arguments.reached else { return Ok(()) };
        let document = serde_json::to_string_pretty(&self.reached);
        write(path, &document.map_err(FaultsError::file("write", path))?)
    }

    fn write_page(
        &mut self,
        path: &Path,
        number: u32,
        seed: u64,
        picture: &Picture<'_>,
    ) -> Result<(), FaultsError> {
        if self.is_one {
            return write(path, &picture.page());
        }
        let page = numbered_file(path, number, picture.name);
        write(&page, &picture.page())?;
        self.linked.push(Linked {
            name: picture.name.to_owned(),
            seed,
            file: page.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            outcome: picture.outcome,
            reasons: picture.reasons(),
        });
        write(path, &picture::index(self.seed, &self.linked))
    }

    /// Returns the table of all runs.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Adds the summary of the job, if GitHub runs it.
    pub(super) fn summarize(&self, outcome: Outcome) -> Result<(), FaultsError> {
        summarize(&format!(
            "### Fault runs, seed {}: {outcome}\n\n{}\n{}\n<details><summary>What was under way \
             when the faults began</summary>\n\n{}\n</details>\n",
            self.seed,
            self.table,
            self.violations,
            reached::table(&self.reached)
        ))
    }
}

fn write(path: &Path, text: &str) -> Result<(), FaultsError> {
    fs::write(path, text).map_err(FaultsError::file("write", path))
}

/// Returns the first violation of each promise as Markdown. In a block of code, no text is markup.
fn violations(name: &str, seed: u64, judged: &Judged) -> String {
    let broken = judged.verdicts.iter().filter_map(|(_, verdict)| match verdict {
        Verdict::Broken { violations, .. } => violations.first(),
        Verdict::Holds { .. } | Verdict::Inconclusive { .. } => None,
    });
    let each = broken.map(|violation| {
        // An indented block ends with its indentation alone, whatever the text has.
        let proof = violation.to_string();
        let proof: String = proof.lines().map(|line| format!("    {line}\n")).collect();
        format!("\n{name}, seed {seed}:\n\n{proof}")
    });
    each.collect()
}

/// Adds Markdown to the summary of a GitHub job. Elsewhere it does nothing.
pub(super) fn summarize(text: &str) -> Result<(), FaultsError> {
    let Some(path) = env::var_os(STEP_SUMMARY).filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let path = PathBuf::from(path);
    let file = OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut file| writeln!(file, "{text}"));
    written.map_err(FaultsError::file("write", &path))
}
