//! The reports on steps, on stages and on the whole run.

use std::{fmt, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    backends::{Backends, Kind, Server},
    bench,
    check::{Finding, Status, Step},
};

/// A stage of the examination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
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
    /// All stages in their order.
    pub const ALL: [Self; 6] = [
        Self::Connection,
        Self::Benchmark,
        Self::Caching,
        Self::Health,
        Self::Errors,
        Self::Fallback,
    ];

    /// Returns the name for readers.
    #[must_use]
    pub fn title(self) -> &'static str {
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
    #[must_use]
    pub fn number(self) -> u32 {
        // The order is that of `ALL`.
        self as u32 + 1
    }
}

/// The report on a stage.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StageReport {
    /// The stage.
    pub stage: Stage,
    /// The worst result of its steps.
    pub status: Status,
    /// A line about the checks and measurements.
    pub summary: String,
    /// The executed steps. The steps after a fatal one are missing.
    pub steps: Vec<Step>,
    /// The report of the benchmark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bench: Option<bench::Report>,
    /// The duration in milliseconds.
    pub ms: f64,
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
        let shown = |step: &&Step| matches!(step.status, Status::Warning | Status::Failed);
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
#[non_exhaustive]
pub struct Report {
    /// Whether no stage failed.
    pub ok: bool,
    /// The backend of Redis: `docker`, `native` or `given`.
    pub redis: String,
    /// The backend of Postgres.
    pub postgres: String,
    /// The reports on the stages, in their order.
    pub stages: Vec<StageReport>,
    /// The duration in milliseconds.
    pub ms: f64,
}

impl Report {
    pub(super) fn new(backends: &Backends, stages: Vec<StageReport>, took: Duration) -> Self {
        Self {
            ok: stages.iter().all(|stage| stage.status != Status::Failed),
            redis: host(backends.redis()),
            postgres: host(backends.postgres()),
            stages,
            ms: millis(took),
        }
    }

    /// Returns the last line.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |status| {
            let stages = self.stages.iter();
            stages.filter(|stage| stage.status == status).count()
        };
        let named = |status| {
            let stages = self.stages.iter().filter(|stage| stage.status == status);
            let titles: Vec<&str> = stages.map(|stage| stage.stage.title()).collect();
            titles.join(", ")
        };
        let checks: usize = self.stages.iter().map(|stage| stage.steps.len()).sum();
        let mut text = format!(
            "{} of {} stages passed, {checks} checks in {:.1} s (Redis: {}, Postgres: {})",
            count(Status::Ok) + count(Status::Warning),
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
            if count(status) > 0 {
                text += &format!(", {word}: {}", named(status));
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
#[non_exhaustive]
pub enum Progress<'a> {
    /// A stage begins.
    Begin(Stage),
    /// An executed step.
    Step(&'a Step),
    /// A stage has ended.
    End(&'a StageReport),
}

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(stage) => f.write_str(stage.title()),
            Self::Step(step) => step.fmt(f),
            Self::End(stage) => stage.fmt(f),
        }
    }
}

/// The end of a stage whose next steps lack a requirement. The finding is recorded.
#[derive(Debug)]
pub(super) struct Stop;

/// The summary of a stage, or its early end.
pub(super) type Outcome = Result<String, Stop>;

/// A collector of a stage's steps.
pub(super) struct Checks<'a> {
    steps: Vec<Step>,
    notify: Box<dyn FnMut(&Step) + 'a>,
    last: Instant,
}

impl<'a> Checks<'a> {
    pub(super) fn new(notify: impl FnMut(&Step) + 'a) -> Self {
        Self { steps: Vec::new(), notify: Box::new(notify), last: Instant::now() }
    }

    /// Records the finding of a step, which took the time since the last one.
    pub(super) fn record(&mut self, name: &'static str, finding: Finding) {
        let step = finding.step(name, self.last.elapsed());
        self.push(step);
    }

    /// Records an executed step.
    pub(super) fn push(&mut self, step: Step) {
        (self.notify)(&step);
        self.steps.push(step);
        self.last = Instant::now();
    }

    /// Records a step that the next ones need.
    pub(super) fn must(&mut self, name: &'static str, finding: Finding) -> Result<(), Stop> {
        let failed = finding.status == Status::Failed;
        self.record(name, finding);
        if failed { Err(Stop) } else { Ok(()) }
    }

    /// Returns a required value. An error is recorded as the finding.
    pub(super) fn need<T>(
        &mut self,
        name: &'static str,
        result: Result<T, Finding>,
    ) -> Result<T, Stop> {
        result.map_err(|finding| {
            self.record(name, finding);
            Stop
        })
    }

    fn failed(&self) -> usize {
        let failed = |step: &&Step| step.status == Status::Failed;
        self.steps.iter().filter(failed).count()
    }

    pub(super) fn end(
        self,
        stage: Stage,
        outcome: Outcome,
        bench: Option<bench::Report>,
        took: Duration,
    ) -> StageReport {
        let (all, failed) = (self.steps.len(), self.failed());
        let fatal = outcome.is_err();
        let summary = match outcome {
            Ok(summary) if failed == 0 => summary,
            Ok(summary) => format!("{failed} of {all} checks failed. {summary}"),
            Err(Stop) => format!("{failed} of {all} checks failed, and the stage ended early"),
        };
        let worst = self.steps.iter().map(|step| step.status).max();
        StageReport {
            stage,
            status: worst.unwrap_or(Status::Skipped),
            summary,
            steps: self.steps,
            bench,
            ms: millis(took),
            fatal,
        }
    }
}

fn host<K: Kind>(server: &Server<K>) -> String {
    server.backend().map_or_else(|| "given".to_owned(), |backend| backend.to_string())
}

fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 10_000.0).round() / 10.0
}
