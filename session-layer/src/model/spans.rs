//! Spans: what a trace shows of validations, changes and background work.
//!
//! [`SPANS`] lists all of them, as `docs/tracing.md` does. They have the target [`TARGET`], so that
//! an application selects them without the events of the log. No attribute has a token, a digest,
//! a key or a text that a client sent. The ids of user and session are recorded only if
//! [`trace_ids`](crate::SessionsBuilder::trace_ids) is set.
//!
//! - A span of a request is a child of the span in which the application made the call.
//! - Work for several callers belongs to none of them. It has a trace of its own, and links in both
//!   directions ([`for_callers`]).
//! - Work that no request waits for has a trace of its own as well ([`after_response`],
//!   [`background`]).
//! - A call of Redis or of a store has a span only within another one.
//!
//! Without an interested subscriber, each function here costs the check of its callsite.

use std::future::Future;

use futures_util::FutureExt as _;
use smallvec::SmallVec;
use tracing::field::Empty;
use tracing::instrument::Instrumented;
use tracing::{Instrument as _, Span, debug_span, span_enabled, trace_span};

use crate::model::error::{CacheError, Error, StoreError};

/// The target of every span.
pub const TARGET: &str = "session_layer::trace";

/// The description of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SpanDescription {
    /// The name in `tracing`. The calls of servers are exported under the names of their commands.
    pub name: &'static str,
    /// The kind of OpenTelemetry: `internal` or `client`.
    pub kind: &'static str,
    /// The level: `DEBUG`, or `TRACE` for the work of loops.
    pub level: &'static str,
    /// The attributes that it may have, beside `error.type`.
    pub attributes: &'static [&'static str],
    /// The meaning.
    pub help: &'static str,
}

/// Declares the descriptions.
macro_rules! spans {
    ($($name:literal $kind:literal $level:literal $attributes:tt $help:literal;)*) => {
        /// Every span, in the order of `docs/tracing.md`.
        pub const SPANS: &[SpanDescription] = &[$(SpanDescription {
            name: $name,
            kind: $kind,
            level: $level,
            attributes: &$attributes,
            help: $help,
        }),*];
    };
}

spans! {
    "session.validate" "internal" "DEBUG"
        ["session_layer.tokens", "session_layer.source", "session_layer.result",
            "session_layer.degraded", "enduser.id", "session.id"]
        "A validation. The source is near, cache, store or none, and the result is valid, invalid \
         or unavailable. Degraded: the cache failed. That of a near hit has no duration.";
    "session.cache.look_up" "internal" "DEBUG" ["session_layer.tokens", "session_layer.result"]
        "A look-up in the cache, the wait for a shared command included. The result is hit, miss, \
         error or skipped (the breaker is open).";
    "session.cache.fence" "internal" "DEBUG" ["session_layer.tokens"]
        "Fences before a change, which keep new fills away.";
    "session.cache.fill" "internal" "DEBUG" ["session_layer.result"]
        "A fill of the cache after the response. The result is stored or refused (the lease was \
         gone).";
    "session.cache.invalidate" "internal" "DEBUG" ["session_layer.tokens"]
        "The removal of entries.";
    "session.store.read" "internal" "DEBUG" ["session_layer.tokens"]
        "A validation's wait for its read of the store, in the queue and for the reply.";
    "session.shared_read" "internal" "DEBUG" ["session_layer.callers"]
        "A command to Redis or a read of the store for several callers. It has a trace of its own, \
         and links to and from the spans of the callers.";
    "session.begin_login" "internal" "DEBUG" []
        "The beginning of a login.";
    "session.create" "internal" "DEBUG" ["enduser.id", "session.id"]
        "The creation of a session.";
    "session.revoke" "internal" "DEBUG" ["session_layer.result"]
        "A revocation. The result is nothing, propagated, committed, rejected, unavailable or \
         unknown, as for update and rotate.";
    "session.update" "internal" "DEBUG" ["session_layer.result"]
        "An update of a session's data.";
    "session.rotate" "internal" "DEBUG" ["session_layer.result"]
        "A new token for a session.";
    "session.erase" "internal" "DEBUG" []
        "The erasure of a user's sessions. It contains a revocation.";
    "session.list" "internal" "DEBUG" []
        "A page of a user's sessions.";
    "session.redis.command" "client" "DEBUG"
        ["db.system.name", "db.operation.name", "db.operation.batch.size"]
        "A command to Redis, or a pipeline. It is exported under the command's name, such as GET, \
         MGET or PIPELINE UNLINK.";
    "session.store.call" "client" "DEBUG"
        ["db.system.name", "db.operation.name", "db.collection.name", "session_layer.operation"]
        "A call of the store, the wait for a connection included. It is exported under its main \
         operation, such as SELECT sessions. session_layer.operation has the label of the metrics.";
    "session.background" "internal" "DEBUG" ["session_layer.work"]
        "Work after a response: a fill or a touch. It has a trace of its own, and links to the \
         validations that caused it. The work of loops (journal, register, probe, invalidate, \
         housekeeping) has the same name, no links and the level TRACE.";
}

/// Returns whether a subscriber is interested in the spans of requests.
fn are_on() -> bool {
    span_enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// Returns the span of the work that runs now. There is none if no subscriber is interested.
pub(crate) fn current() -> Span {
    if are_on() { Span::current() } else { Span::none() }
}

/// Creates an internal span within the current one.
macro_rules! internal {
    ($name:literal $(, $field:literal = $value:expr)*) => {
        tracing::debug_span!(
            target: $crate::model::spans::TARGET,
            $name,
            "otel.kind" = "internal",
            "otel.status_code" = tracing::field::Empty,
            "error.type" = tracing::field::Empty,
            $($field = $value),*
        )
    };
}
pub(crate) use internal;

/// Returns a count as an attribute, which is signed in OpenTelemetry.
pub(crate) fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Creates the span of a command to Redis, or of a pipeline of several.
#[cfg(feature = "redis")]
pub(crate) fn redis_command(name: &str, commands: usize) -> Span {
    if current().is_disabled() {
        return Span::none();
    }
    let pipeline;
    let name = if commands > 1 {
        pipeline = format!("PIPELINE {name}");
        pipeline.trim_end()
    } else {
        name
    };
    let span = debug_span!(
        target: TARGET,
        "session.redis.command",
        "otel.name" = name,
        "otel.kind" = "client",
        "otel.status_code" = Empty,
        "error.type" = Empty,
        "db.system.name" = "redis",
        "db.operation.name" = name,
        "db.operation.batch.size" = Empty,
    );
    if commands > 1 {
        span.record("db.operation.batch.size", count(commands));
    }
    span
}

/// Creates the span of a call of the store `backend`, whose main statement is `operation` on the
/// table `collection`.
pub(crate) fn store_call(backend: &str, call: &str, operation: &str, collection: &str) -> Span {
    if current().is_disabled() {
        return Span::none();
    }
    let system = if backend == "postgres" { "postgresql" } else { backend };
    debug_span!(
        target: TARGET,
        "session.store.call",
        "otel.name" = format!("{operation} {collection}"),
        "otel.kind" = "client",
        "otel.status_code" = Empty,
        "error.type" = Empty,
        "db.system.name" = system,
        "db.operation.name" = operation,
        "db.collection.name" = collection,
        "session_layer.operation" = call,
    )
}

/// Returns the span in which work for these callers runs: that of the caller if it is one. Work for
/// several has a trace of its own. It has a link to each caller, and each caller has one to it.
pub(crate) fn for_callers<'a>(callers: impl IntoIterator<Item = &'a Span>) -> Span {
    if !are_on() {
        return Span::none();
    }
    let callers = distinct(callers);
    match callers[..] {
        [] => Span::none(),
        [caller] => caller.clone(),
        _ => {
            let shared = debug_span!(
                target: TARGET,
                parent: None,
                "session.shared_read",
                "otel.kind" = "internal",
                "session_layer.callers" = count(callers.len()),
            );
            for caller in callers {
                shared.follows_from(caller);
                caller.follows_from(&shared);
            }
            shared
        }
    }
}

/// Creates the span of work after the response to these callers, with a link to each.
pub(crate) fn after_response<'a>(
    work: &'static str,
    callers: impl IntoIterator<Item = &'a Span>,
) -> Span {
    if !are_on() {
        return Span::none();
    }
    let callers = distinct(callers);
    if callers.is_empty() {
        return Span::none();
    }
    let span = debug_span!(
        target: TARGET,
        parent: None,
        "session.background",
        "otel.kind" = "internal",
        "session_layer.work" = work,
    );
    for caller in callers {
        span.follows_from(caller);
    }
    span
}

/// Creates the span of one round of a loop.
pub(crate) fn background(work: &'static str) -> Span {
    trace_span!(
        target: TARGET,
        parent: None,
        "session.background",
        "otel.kind" = "internal",
        "session_layer.work" = work,
    )
}

/// Returns the spans without the disabled ones. One request may wait for several tokens.
fn distinct<'a>(spans: impl IntoIterator<Item = &'a Span>) -> SmallVec<[&'a Span; 1]> {
    let mut distinct = SmallVec::<[&Span; 1]>::new();
    for span in spans {
        if !span.is_disabled() && !distinct.contains(&span) {
            distinct.push(span);
        }
    }
    distinct
}

/// Records that the work of a span failed. Only the kind of error is recorded, because a message
/// may contain what a client sent.
pub(crate) fn failed(span: &Span, kind: &'static str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", kind);
}

/// An error whose kind a span shows.
pub(crate) trait ErrorType {
    /// Returns the value of `error.type`.
    fn error_type(&self) -> &'static str;
}

impl ErrorType for CacheError {
    fn error_type(&self) -> &'static str {
        self.kind().as_str()
    }
}

impl ErrorType for StoreError {
    fn error_type(&self) -> &'static str {
        self.kind().as_str()
    }
}

impl ErrorType for Error {
    fn error_type(&self) -> &'static str {
        match self {
            Self::Unavailable(error) | Self::Unknown(error) => error.error_type(),
            _ => "rejected",
        }
    }
}

/// Runs a call within its span, which shows its error.
pub(crate) fn within<T, E: ErrorType>(
    span: Span,
    call: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    call.instrument(span.clone()).map(move |result| {
        if let Err(error) = &result {
            failed(&span, error.error_type());
        }
        result
    })
}

/// Runs a task's work within the span of the work that starts it.
pub(crate) fn in_current<F: Future>(work: F) -> Instrumented<F> {
    work.instrument(current())
}
