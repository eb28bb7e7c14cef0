//! Taking steps, and what a step finds.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout};

use super::{DEADLINE, Progress, ServerReport, Status, Step};
use crate::url::redacted;

/// What a step found: a line and, where not all is well, why and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) status: Status,
    pub(crate) message: String,
    pub(crate) why: Option<String>,
    pub(crate) help: Option<String>,
}

impl Finding {
    pub(crate) fn ok(message: impl Into<String>) -> Self {
        Self {
            status: Status::Ok,
            message: message.into(),
            why: None,
            help: None,
        }
    }

    pub(crate) fn new(
        status: Status,
        message: &str,
        why: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            status,
            message: message.to_owned(),
            why: Some(why.into()),
            help: Some(help.into()),
        }
    }

    pub(crate) fn failed(message: &str, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(Status::Failed, message, why, help)
    }

    pub(crate) fn warning(message: &str, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(Status::Warning, message, why, help)
    }

    pub(crate) fn skipped(message: impl Into<String>) -> Self {
        Self {
            status: Status::Skipped,
            ..Self::ok(message)
        }
    }

    /// With all that is secret hidden, and how long it took.
    pub(crate) fn step(
        self,
        step: &'static str,
        took: Duration,
        hide: impl Fn(String) -> String,
    ) -> Step {
        Step {
            step,
            status: self.status,
            message: hide(self.message),
            why: self.why.map(&hide),
            help: self.help.map(&hide),
            ms: (took.as_secs_f64() * 100_000.0).round() / 100.0,
        }
    }
}

/// Takes steps, one after the other.
pub(super) struct Steps<'a> {
    url: Option<&'a str>,
    taken: Vec<Step>,
    tell: &'a mut dyn FnMut(Progress<'_>),
}

impl<'a> Steps<'a> {
    pub(super) fn begin(
        heading: &str,
        url: Option<&'a str>,
        tell: &'a mut dyn FnMut(Progress<'_>),
    ) -> Self {
        tell(Progress::Begin(heading));
        Self {
            url,
            taken: Vec::new(),
            tell,
        }
    }

    /// Takes a step under the deadline; a value goes on to the next one. `late` is what is found
    /// when the deadline passes.
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
            Err(_) => (
                None,
                late(format!("no answer within {} s", DEADLINE.as_secs())),
            ),
        };
        let hide = |text: String| match self.url {
            Some(url) => crate::url::without_password(&text, url),
            None => text,
        };
        let step = finding.step(step, begin.elapsed(), hide);
        (self.tell)(Progress::Step(&step));
        self.taken.push(step);
        value
    }

    /// A step that needs no server.
    pub(super) async fn note(&mut self, step: &'static str, finding: Finding) {
        let _nothing: Option<()> = self
            .take(step, |_| Finding::ok(""), async { Err(finding) })
            .await;
    }

    pub(super) fn end(self, server: &'static str) -> ServerReport {
        let worst = self.taken.iter().map(|step| step.status).max();
        ServerReport {
            server,
            url: self.url.map(redacted),
            status: worst.unwrap_or(Status::Skipped),
            steps: self.taken,
        }
    }
}
