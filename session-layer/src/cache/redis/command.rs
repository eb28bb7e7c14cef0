//! Commands on a link: its choice, the deadline, and what a failure shows about the link.

use std::future::Future;

use futures_util::FutureExt as _;
use redis::aio::MultiplexedConnection;
use redis::{Arg, Pipeline, RedisError, RedisResult, Value};
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use super::errors::{classify, timed_out};
use super::identity::is_lost;
use super::link::{Borrowed, Link};
use super::links::Links;
use crate::model::error::{CacheError, CacheErrorKind};
use crate::model::spans::{ErrorType, current, redis_command};

impl Links {
    /// Runs `operation` on the least busy link, within the deadline. If the server had closed the
    /// idle link, another link is tried, and then a new one.
    pub(super) async fn run<T, F>(
        &self,
        deadline: Instant,
        operation: impl Fn(MultiplexedConnection) -> F,
    ) -> Result<(T, Borrowed), CacheError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let mut lost = 0;
        loop {
            let link = match self.least_busy() {
                Some(link) => link,
                None => timeout_at(deadline, self.pick()).await.map_err(|_| timed_out())??,
            };
            match self.run_on(&link, deadline, operation(link.0.connection())).await {
                Ok(value) => return Ok((value, link)),
                Err(CommandFailure::Lost(_)) if lost < self.size() => lost += 1,
                Err(failure) => return Err(failure.into_error()),
            }
        }
    }

    /// Runs one command on this link only, and updates the state of the link. A time-out shows
    /// nothing about the link if the command was given less than half of the usual time, because
    /// its caller had waited before.
    ///
    /// It is no `async fn`, because such a future would have room for `operation` twice.
    pub(super) fn run_on<T>(
        &self,
        link: &Borrowed,
        deadline: Instant,
        operation: impl Future<Output = RedisResult<T>>,
    ) -> impl Future<Output = Result<T, CommandFailure>> {
        let given = deadline.saturating_duration_since(Instant::now());
        timeout_at(deadline, link.0.run(operation)).map(move |ended| match ended {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if is_lost(&error) => {
                self.close_link(&link.0);
                Err(CommandFailure::Lost(error))
            }
            Ok(Err(error)) => {
                self.note_demotion(&link.0, error.code());
                Err(CommandFailure::Refused(error))
            }
            Err(_elapsed) => {
                if given >= self.deadline / 2 {
                    self.suspect(&link.0);
                }
                Err(CommandFailure::TimedOut)
            }
        })
    }

    /// Closes the link if the server replied READONLY. The server was demoted, but would continue
    /// to reply to GET on this connection.
    pub(super) fn note_demotion(&self, link: &Link, code: Option<&str>) {
        if code == Some("READONLY") {
            self.close_link(link);
        }
    }
}

/// The failure of a command, by its effect on the link.
pub(super) enum CommandFailure {
    Lost(RedisError),
    Refused(RedisError),
    TimedOut,
}

impl CommandFailure {
    pub(super) fn into_error(self) -> CacheError {
        match self {
            Self::Lost(error) | Self::Refused(error) => classify(error),
            Self::TimedOut => timed_out(),
        }
    }
}

impl ErrorType for CommandFailure {
    fn error_type(&self) -> &'static str {
        match self {
            Self::Lost(_) => CacheErrorKind::Unreachable.as_str(),
            Self::Refused(_) => CacheErrorKind::Refused.as_str(),
            Self::TimedOut => CacheErrorKind::TimedOut.as_str(),
        }
    }
}

/// Creates a pipeline that returns the error of each command.
pub(super) fn pipe() -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    pipeline
}

/// Creates the span of a pipeline. It has the name of the commands, if they are alike.
pub(super) fn pipeline_span(pipeline: &Pipeline) -> Span {
    if current().is_disabled() {
        return Span::none();
    }
    let mut names = pipeline.cmd_iter().map(|command| match command.args_iter().next() {
        Some(Arg::Simple(name)) => str::from_utf8(name).unwrap_or_default(),
        _ => "",
    });
    let first = names.next().unwrap_or_default();
    let name = if names.all(|name| name == first) { first } else { "" };
    redis_command(name, pipeline.len())
}

pub(super) async fn send(
    pipeline: &Pipeline,
    mut link: MultiplexedConnection,
) -> RedisResult<Vec<Value>> {
    // The client reports an empty pipeline as an error.
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    pipeline.query_async(&mut link).await
}
