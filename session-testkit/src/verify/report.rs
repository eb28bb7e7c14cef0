//! What was found: steps, stages, the whole.

use std::{fmt, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    backends::{Backends, Kind, Server},
    bench,
    check::{Finding, Status, Step},
    url::without_password,
};

/// A stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Do both servers answer, and may the application do what it must?
    Connection,
    /// What the cache is worth.
    Benchmark,
    /// Miss, fill, hit, and the end of copies.
    Caching,
    /// The health document.
    Health,
    /// Garbage, in requests and in Redis.
    Errors,
    /// Requests while Redis is away.
    Fallback,
}

impl Stage {
    /// All of them, in their order.
    pub const ALL: [Self; 6] = [
        Self::Connection,
        Self::Benchmark,
        Self::Caching,
        Self::Health,
        Self::Errors,
        Self::Fallback,
    ];

    /// Its name for people.
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

    /// Which one it is, from 1.
    #[must_use]
    pub fn number(self) -> u32 {
        // In the order of `ALL`.
        self as u32 + 1
    }
}

/// What was found in a stage.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StageReport {
    /// Which one.
    pub stage: Stage,
    /// The worst of its steps.
    pub status: Status,
    /// What was checked and measured, in a line.
    pub summary: String,
    /// In the order in which they were taken; those after a fatal one are missing.
    pub steps: Vec<Step>,
    /// What the benchmark measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bench: Option<bench::Report>,
    /// How long it took, in milliseconds.
    pub ms: f64,
    /// A step failed that others need.
    #[serde(skip)]
    pub(super) fatal: bool,
}

/// The stage's line, and below it what is not well.
impl fmt::Display for StageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, title) = (self.stage.number(), self.stage.title());
        let (sign, secs) = (self.status.sign(), self.ms / 1000.0);
        let all = Stage::ALL.len();
        write!(
            f,
            "{sign} [{number}/{all}] {title}: {} ({secs:.1} s)",
            self.summary
        )?;
        let told = |step: &&Step| matches!(step.status, Status::Warning | Status::Failed);
        for step in self.steps.iter().filter(told) {
            for line in step.to_string().lines() {
                write!(f, "\n   {line}")?;
            }
        }
        Ok(())
    }
}

/// What was found in all.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Whether no stage failed.
    pub ok: bool,
    /// What runs the Redis: `docker`, `native` or `given`.
    pub redis: String,
    /// What runs the Postgres.
    pub postgres: String,
    /// In their order.
    pub stages: Vec<StageReport>,
    /// How long it took, in milliseconds.
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

    /// The last line.
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
                text += &format!("; {word}: {}", named(status));
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

/// What is told while it goes on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A stage begins.
    Begin(Stage),
    /// A step was taken.
    Step(&'a Step),
    /// A stage is over.
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

/// The stage can't go on: what its next steps need is not there. The finding is noted.
#[derive(Debug)]
pub(super) struct Stop;

/// What a stage answers: its summary.
pub(super) type Outcome = Result<String, Stop>;

/// Collects the steps of a stage.
pub(super) struct Checks<'a> {
    /// URLs whose passwords no text may show.
    urls: [&'a str; 2],
    steps: Vec<Step>,
    tell: Box<dyn FnMut(&Step) + 'a>,
    last: Instant,
}

impl<'a> Checks<'a> {
    pub(super) fn new(backends: &'a Backends, tell: impl FnMut(&Step) + 'a) -> Self {
        Self {
            urls: [backends.redis().url(), backends.postgres().url()],
            steps: Vec::new(),
            tell: Box::new(tell),
            last: Instant::now(),
        }
    }

    /// Notes what a step found that took since the last one.
    pub(super) fn note(&mut self, name: &'static str, finding: Finding) {
        let hide = |text: String| {
            let urls = self.urls.iter();
            urls.fold(text, |text, url| without_password(&text, url))
        };
        let step = finding.step(name, self.last.elapsed(), hide);
        self.take(step);
    }

    /// Notes a step that somebody else took.
    pub(super) fn take(&mut self, step: Step) {
        (self.tell)(&step);
        self.steps.push(step);
        self.last = Instant::now();
    }

    /// [`note`](Self::note) of a step without which there is no next one.
    pub(super) fn must(&mut self, name: &'static str, finding: Finding) -> Result<(), Stop> {
        let failed = finding.status == Status::Failed;
        self.note(name, finding);
        if failed { Err(Stop) } else { Ok(()) }
    }

    /// What is needed to go on; where it could not be had, that is the finding.
    pub(super) fn need<T>(
        &mut self,
        name: &'static str,
        had: Result<T, Finding>,
    ) -> Result<T, Stop> {
        had.map_err(|finding| {
            self.note(name, finding);
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
            Ok(summary) => format!("{failed} of {all} checks failed; {summary}"),
            Err(Stop) => format!("{failed} of {all} checks failed, and the stage ended there"),
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
    server
        .backend()
        .map_or_else(|| "given".to_owned(), |backend| backend.to_string())
}

fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 10_000.0).round() / 10.0
}
