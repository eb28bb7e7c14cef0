//! The reports on steps, on stages and on the whole run.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{backends::Backends, bench};
use session_tools::check::{Finding, Status, Steps, Stop, millis};

/// A stage of the examination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// The responses of both servers and the rights of the application.
    Connection,
    /// The latencies with and without the cache.
    Benchmark,
    /// Miss, fill, hit, and the removal of entries.
    Caching,
    /// The health document.
    Health,
    /// Garbage in requests and in Redis.
    Errors,
    /// Requests during outages of Redis.
    Fallback,
}

impl Stage {
    pub(crate) const ALL: [Self; 6] = [
        Self::Connection,
        Self::Benchmark,
        Self::Caching,
        Self::Health,
        Self::Errors,
        Self::Fallback,
    ];

    /// Returns the name for readers.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Benchmark => "benchmark",
            Self::Caching => "caching integration",
            Self::Health => "health endpoint",
            Self::Errors => "error handling",
            Self::Fallback => "fallback",
        }
    }

    /// Returns the number of the stage, from 1.
    pub(crate) fn number(self) -> u32 {
        // The order is that of `ALL`.
        self as u32 + 1
    }
}

/// The report on a stage.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StageReport {
    pub(crate) stage: Stage,
    /// The worst result of its steps.
    pub(crate) status: Status,
    /// A line about the checks and measurements.
    pub(crate) summary: String,
    /// The executed steps. The steps after a fatal one are missing.
    pub(crate) steps: Vec<Finding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bench: Option<bench::Report>,
    pub(crate) ms: f64,
    /// Whether a step failed that the other stages need.
    #[serde(skip)]
    pub(super) fatal: bool,
}

/// The stage's line, followed by its warnings and failures.
impl fmt::Display for StageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, title) = (self.stage.number(), self.stage.title());
        let (sign, secs) = (self.status.sign(), self.ms / 1000.0);
        let all = Stage::ALL.len();
        write!(f, "{sign} [{number}/{all}] {title}: {} ({secs:.1} s)", self.summary)?;
        let shown = |step: &&Finding| matches!(step.status, Status::Warning | Status::Failed);
        for step in self.steps.iter().filter(shown) {
            for line in step.to_string().lines() {
                write!(f, "\n   {line}")?;
            }
        }
        Ok(())
    }
}

/// The report on the whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Whether no stage failed.
    pub(crate) ok: bool,
    /// The backend of Redis: `docker`, `native` or `given`.
    pub(crate) redis: String,
    pub(crate) postgres: String,
    pub(crate) stages: Vec<StageReport>,
    pub(crate) ms: f64,
}

impl Report {
    pub(super) fn new(backends: &Backends, stages: Vec<StageReport>, took: Duration) -> Self {
        Self {
            ok: stages.iter().all(|stage| stage.status != Status::Failed),
            redis: backends.redis().backend_name(),
            postgres: backends.postgres().backend_name(),
            stages,
            ms: millis(took, 10.0),
        }
    }

    /// Returns the last line.
    pub(crate) fn summary(&self) -> String {
        let titles = |status| {
            let stages = self.stages.iter().filter(|stage| stage.status == status);
            stages.map(|stage| stage.stage.title()).collect::<Vec<_>>()
        };
        let checks: usize = self.stages.iter().map(|stage| stage.steps.len()).sum();
        let mut text = format!(
            "{} of {} stages passed, {checks} checks in {:.1} s (Redis: {}, Postgres: {})",
            titles(Status::Ok).len() + titles(Status::Warning).len(),
            self.stages.len(),
            self.ms / 1000.0,
            self.redis,
            self.postgres,
        );
        for (status, word) in [
            (Status::Failed, "failed"),
            (Status::Skipped, "skipped"),
            (Status::Warning, "passed with warnings"),
        ] {
            let titles = titles(status);
            if !titles.is_empty() {
                text += &format!(", {word}: {}", titles.join(", "));
            }
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stage in &self.stages {
            writeln!(f, "{stage}")?;
        }
        f.write_str(&self.summary())
    }
}

/// An event during a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Progress<'a> {
    Begin(Stage),
    Step(&'a Finding),
    End(&'a StageReport),
}

/// The summary of a stage, or its early end.
pub(super) type Outcome = Result<String, Stop>;

impl StageReport {
    pub(super) fn new(
        stage: Stage,
        steps: Steps<'_>,
        outcome: Outcome,
        bench: Option<bench::Report>,
        took: Duration,
    ) -> Self {
        let status = steps.status();
        let steps = steps.taken;
        let all = steps.len();
        let failed = steps.iter().filter(|step| step.status == Status::Failed).count();
        let fatal = outcome.is_err();
        let summary = match outcome {
            Ok(summary) if failed == 0 => summary,
            Ok(summary) => format!("{failed} of {all} checks failed. {summary}"),
            Err(Stop) => format!("{failed} of {all} checks failed, and the stage ended early"),
        };
        Self { stage, status, summary, steps, bench, ms: millis(took, 10.0), fatal }
    }
}
