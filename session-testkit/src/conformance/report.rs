//! Runs checks in sequence, and reports the results.

use std::{error::Error, fmt, future::Future, time::Duration};

use tokio::time::Instant;

use super::check::{Check, Failure};

/// Runs these checks in sequence, each on a port that `fresh` opens.
///
/// # Errors
///
/// [`NotConforming`] if any check failed, or if `fresh` failed for it.
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

/// The result of one check.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Checked {
    /// The group of the check.
    pub group: &'static str,
    /// The name of the check.
    pub name: &'static str,
    /// The demand of the check.
    pub demands: &'static str,
    /// The behaviour of the port, if the check failed.
    pub failure: Option<Failure>,
    /// The duration of the check.
    pub took: Duration,
}

/// The results of all checks.
#[derive(Debug, Clone)]
pub struct Report {
    checked: Vec<Checked>,
}

impl Report {
    /// Returns the results in the order in which the checks ran.
    pub fn iter(&self) -> impl Iterator<Item = &Checked> {
        self.checked.iter()
    }

    /// Returns the failed checks.
    pub fn failed(&self) -> impl Iterator<Item = &Checked> {
        self.iter().filter(|checked| checked.failure.is_some())
    }
}

impl fmt::Display for Report {
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

/// The error for a port that violates its contract.
#[derive(Clone)]
pub struct NotConforming {
    report: Report,
}

impl NotConforming {
    /// Returns the results of all checks, including those that passed.
    pub const fn report(&self) -> &Report {
        &self.report
    }
}

impl Error for NotConforming {}

impl fmt::Debug for NotConforming {
    /// Writes the same text, because a test or `main` that returns the error prints `Debug`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NotConforming {
    /// Writes how many checks failed, and for each the demand and the port's behaviour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, all) = (self.report.failed().count(), self.report.checked.len());
        write!(f, "{failed} of {all} checks failed:")?;
        for checked in self.report.failed() {
            let Checked { group, name, demands, .. } = checked;
            write!(f, "\n  {group}::{name}\n    demands: {demands}")?;
            if let Some(failure) = &checked.failure {
                write!(f, "\n    but {failure}")?;
            }
        }
        Ok(())
    }
}
