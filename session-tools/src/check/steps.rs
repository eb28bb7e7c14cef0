//! The execution of steps, and their findings. The commands `check`, `verify` and `report` share
//! them.

use std::{fmt, future::Future, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::{DEADLINE, Status};
use crate::chain;

/// The finding of a step: a line and, unless all is well, the cause and the remedy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The name for programs: `connect`, `ping`, `set`, … [`Steps::record`] sets it.
    pub step: &'static str,
    /// The result.
    pub status: Status,
    /// What was found, in one line.
    pub message: String,
    /// The cause, unless all is well.
    pub why: Option<String>,
    /// The remedy, unless all is well.
    pub help: Option<String>,
    /// The duration, which [`Steps::record`] sets.
    pub ms: f64,
}

impl Finding {
    /// Creates the finding of a step without a problem.
    pub fn ok(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { step: "", status: Status::Ok, message, why: None, help: None, ms: 0.0 }
    }

    /// Creates a finding with its cause and remedy.
    pub fn new(
        status: Status,
        message: &str,
        why: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        let (why, help) = (Some(why.into()), Some(help.into()));
        Self { status, why, help, ..Self::ok(message) }
    }

    /// Creates the finding of a step that failed.
    pub fn failed(message: &str, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(Status::Failed, message, why, help)
    }

    /// Creates the finding of a step that works with a limitation.
    pub fn warning(message: &str, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(Status::Warning, message, why, help)
    }

    /// Creates the finding of a step that had nothing to check.
    pub fn skipped(message: impl Into<String>) -> Self {
        Self { status: Status::Skipped, ..Self::ok(message) }
    }
}

/// A line, followed by the cause and the remedy.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.sign(), self.message)?;
        if let Some(why) = &self.why {
            write!(f, "\n   why: {why}")?;
        }
        for line in self.help.iter().flat_map(|help| help.lines()) {
            write!(f, "\n   → {line}")?;
        }
        Ok(())
    }
}

/// The reason why a step failed: a finding, or an error with the step's own message and remedy.
pub(super) enum Problem {
    Found(Finding),
    Error(String),
}

impl From<Finding> for Problem {
    fn from(finding: Finding) -> Self {
        Self::Found(finding)
    }
}

impl<E: std::error::Error + 'static> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Error(chain(&error))
    }
}

/// The end of a stage whose next steps lack a requirement. The finding is recorded.
#[derive(Debug)]
pub struct Stop;

/// A sequence of executed steps.
pub struct Steps<'a> {
    /// The findings so far.
    pub taken: Vec<Finding>,
    notify: &'a mut dyn FnMut(&Finding),
    last: Instant,
}

impl fmt::Debug for Steps<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl<'a> Steps<'a> {
    /// Creates an empty sequence. `notify` gets each finding.
    pub fn new(notify: &'a mut dyn FnMut(&Finding)) -> Self {
        Self { taken: Vec::new(), notify, last: Instant::now() }
    }

    /// Executes a step and returns its value. `failed` is the message and the remedy for an error,
    /// and for the deadline.
    pub(super) async fn take<T>(
        &mut self,
        step: &'static str,
        failed: (&str, &str),
        work: impl Future<Output = Result<(T, Finding), Problem>>,
    ) -> Option<T> {
        self.last = Instant::now();
        let late = || Problem::Error(format!("no response within {} s", DEADLINE.as_secs()));
        let worked = timeout(DEADLINE, work).await.unwrap_or_else(|_| Err(late()));
        let (value, finding) = match worked {
            Ok((value, finding)) => (Some(value), finding),
            Err(Problem::Found(finding)) => (None, finding),
            Err(Problem::Error(why)) => (None, Finding::failed(failed.0, why, failed.1)),
        };
        self.record(step, finding);
        value
    }

    /// Executes a step without a value. Returns whether the next steps can be executed.
    pub(super) async fn check(
        &mut self,
        step: &'static str,
        failed: (&str, &str),
        work: impl Future<Output = Result<Finding, Problem>>,
    ) -> bool {
        let work = async { work.await.map(|finding| ((), finding)) };
        self.take(step, failed, work).await.is_some()
    }

    /// Records the finding of a step, which took the time since the last one.
    pub fn record(&mut self, step: &'static str, finding: Finding) {
        let ms = millis(self.last.elapsed(), 100.0);
        self.push(Finding { step, ms, ..finding });
    }

    /// Records an executed step.
    pub fn push(&mut self, step: Finding) {
        (self.notify)(&step);
        self.taken.push(step);
        self.last = Instant::now();
    }

    /// Records a step that the next ones need.
    ///
    /// # Errors
    /// [`Stop`] if the step failed.
    pub fn must(&mut self, step: &'static str, finding: Finding) -> Result<(), Stop> {
        let failed = finding.status == Status::Failed;
        self.record(step, finding);
        if failed { Err(Stop) } else { Ok(()) }
    }

    /// Records a failure that ends the stage.
    pub fn stop(&mut self, step: &'static str, finding: Finding) -> Stop {
        self.record(step, finding);
        Stop
    }

    /// Returns a required value. An error is recorded as the finding.
    ///
    /// # Errors
    /// [`Stop`] if there is none.
    pub fn need<T>(&mut self, step: &'static str, result: Result<T, Finding>) -> Result<T, Stop> {
        result.map_err(|finding| self.stop(step, finding))
    }

    /// Returns the worst result.
    pub fn status(&self) -> Status {
        self.taken.iter().map(|step| step.status).max().unwrap_or(Status::Skipped)
    }
}

/// Returns milliseconds, rounded to `parts` of one.
pub fn millis(span: Duration, parts: f64) -> f64 {
    (span.as_secs_f64() * 1000.0 * parts).round() / parts
}
