//! The execution of steps, and their findings.

use std::{future::Future, time::Duration};

use session_layer::server_url::ServerUrl;
use tokio::time::{Instant, timeout};

use super::{DEADLINE, Progress, ServerReport, Status, Step};

/// The finding of a step: a line and, unless all is well, the cause and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) status: Status,
    pub(crate) message: String,
    pub(crate) why: Option<String>,
    pub(crate) help: Option<String>,
}

impl Finding {
    pub(crate) fn ok(message: impl Into<String>) -> Self {
        Self { status: Status::Ok, message: message.into(), why: None, help: None }
    }

    pub(crate) fn new(
        status: Status,
        message: &str,
        why: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { status, message: message.to_owned(), why: Some(why.into()), help: Some(help.into()) }
    }

    pub(crate) fn failed(message: &str, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(Status::Failed, message, why, help)
    }

    pub(crate) fn warning(message: &str, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(Status::Warning, message, why, help)
    }

    pub(crate) fn skipped(message: impl Into<String>) -> Self {
        Self { status: Status::Skipped, ..Self::ok(message) }
    }

    /// Returns the step with this finding and its duration.
    pub(crate) fn step(self, step: &'static str, took: Duration) -> Step {
        Step {
            step,
            status: self.status,
            message: self.message,
            why: self.why,
            help: self.help,
            ms: (took.as_secs_f64() * 100_000.0).round() / 100.0,
        }
    }
}

/// A sequence of steps.
pub(super) struct Steps<'a> {
    url: Option<String>,
    taken: Vec<Step>,
    notify: &'a mut dyn FnMut(Progress<'_>),
}

impl<'a> Steps<'a> {
    pub(super) fn begin(
        heading: &str,
        url: Option<&ServerUrl>,
        notify: &'a mut dyn FnMut(Progress<'_>),
    ) -> Self {
        notify(Progress::Begin(heading));
        Self { url: url.map(ServerUrl::to_string), taken: Vec::new(), notify }
    }

    /// Executes a step and returns its value. After the deadline, the finding is `late`.
    pub(super) async fn take<T>(
        &mut self,
        step: &'static str,
        late: impl FnOnce(String) -> Finding,
        work: impl Future<Output = Result<(T, Finding), Finding>>,
    ) -> Option<T> {
        let begin = Instant::now();
        let (value, finding) = match timeout(DEADLINE, work).await {
            Ok(Ok((value, finding))) => (Some(value), finding),
            Ok(Err(finding)) => (None, finding),
            Err(_) => (None, late(format!("no response within {} s", DEADLINE.as_secs()))),
        };
        let step = finding.step(step, begin.elapsed());
        (self.notify)(Progress::Step(&step));
        self.taken.push(step);
        value
    }

    /// Records a finding that needs no server.
    pub(super) async fn record(&mut self, step: &'static str, finding: Finding) {
        let _nothing: Option<()> =
            self.take(step, |_| Finding::ok(""), async { Err(finding) }).await;
    }

    pub(super) fn end(self, server: &'static str) -> ServerReport {
        let worst = self.taken.iter().map(|step| step.status).max();
        ServerReport {
            server,
            url: self.url,
            status: worst.unwrap_or(Status::Skipped),
            steps: self.taken,
        }
    }
}
