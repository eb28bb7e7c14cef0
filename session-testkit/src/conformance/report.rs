//! Making checks one after the other, and what came of them.

use std::{error::Error, fmt, future::Future, time::Duration};

use tokio::time::Instant;

use super::check::{Check, Failure};

/// Makes these checks, one after the other, each on a port that `fresh` opens.
///
/// # Errors
///
/// [`NotConforming`] if any check failed; a `fresh` that fails, fails its check.
pub async fn run<P, E, T>(
    checks: impl IntoIterator<Item = Check<P>>,
    mut fresh: impl FnMut() -> T,
) -> Result<Report, NotConforming>
where
    E: Into<Box<dyn Error + Send + Sync>>,
    T: Future<Output = Result<P, E>>,
{
    let mut checked = Vec::new();
    for check in checks {
        let opened = fresh().await;
        let begin = Instant::now();
        let failure = match opened {
            Ok(port) => check.run(&port).await.err(),
            Err(error) => {
                let error: Box<dyn Error> = error.into();
                let error = crate::backends::chain(&*error);
                Some(Failure::new(format!("there was no port to check: {error}")))
            }
        };
        checked.push(Checked {
            group: check.group(),
            name: check.name(),
            demands: check.demands(),
            failure,
            took: begin.elapsed(),
        });
    }
    let report = Report { checked };
    if report.failed().next().is_some() {
        return Err(NotConforming { report });
    }
    Ok(report)
}

/// One check that was made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Checked {
    /// What it is about.
    pub group: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it demands.
    pub demands: &'static str,
    /// What the port did instead, if it failed.
    pub failure: Option<Failure>,
    /// How long it took.
    pub took: Duration,
}

/// Which checks were made, and how each went.
#[derive(Debug, Clone)]
pub struct Report {
    checked: Vec<Checked>,
}

impl Report {
    /// Each check, in the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = &Checked> {
        self.checked.iter()
    }

    /// Those that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Checked> {
        self.iter().filter(|checked| checked.failure.is_some())
    }
}

impl fmt::Display for Report {
    /// A line per check.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, checked) in self.checked.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            let Checked { group, name, .. } = checked;
            match &checked.failure {
                None => write!(f, "passed  {group}::{name}")?,
                Some(failure) => write!(f, "FAILED  {group}::{name}: {failure}")?,
            }
        }
        Ok(())
    }
}

/// A port that does not keep its contract.
#[derive(Clone)]
pub struct NotConforming {
    report: Report,
}

impl NotConforming {
    /// All checks, those that passed included.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }
}

impl Error for NotConforming {}

impl fmt::Debug for NotConforming {
    /// The same sentences: it is what a test or a `main` that returns the error prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NotConforming {
    /// How many checks failed, and of each what is demanded and what the port did instead.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, all) = (self.report.failed().count(), self.report.checked.len());
        write!(f, "{failed} of {all} checks failed:")?;
        for checked in self.report.failed() {
            let Checked {
                group,
                name,
                demands,
                ..
            } = checked;
            write!(f, "\n  {group}::{name}\n    demands: {demands}")?;
            if let Some(failure) = &checked.failure {
                write!(f, "\n    but {failure}")?;
            }
        }
        Ok(())
    }
}
