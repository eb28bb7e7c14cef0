//! The spans of the engine's calls. `model/spans.rs` describes them.

use tracing::Span;
use tracing::field::Empty;

use crate::engine::instruments::{ChangeKind, ChangeResult, StoreCall};
use crate::engine::validation::{Answers, UNAVAILABLE, Validation};
use crate::model::session::Session;
pub(crate) use crate::model::spans::{
    after_response, background, failed, for_callers, in_current, within,
};
use crate::model::spans::{count, internal, store_call};

/// Creates the span of a validation of this many tokens.
pub(crate) fn validate(tokens: usize) -> Span {
    internal!(
        "session.validate",
        "session_layer.tokens" = count(tokens),
        "session_layer.source" = Empty,
        "session_layer.result" = Empty,
        "session_layer.degraded" = Empty,
        "enduser.id" = Empty,
        "session.id" = Empty
    )
}

/// Records the answers of a validation, with the ids if they may be traced.
pub(crate) fn validated(span: &Span, answers: &Answers, ids: bool) {
    if span.is_disabled() {
        return;
    }
    let result = answers.result();
    span.record("session_layer.source", answers.source.label());
    span.record("session_layer.result", result);
    span.record("session_layer.degraded", answers.degraded);
    if result == UNAVAILABLE {
        failed(span, result);
    }
    let valid = answers.validations.iter().find_map(|validation| match validation {
        Validation::Valid(session) => Some(session),
        Validation::Invalid | Validation::Unavailable => None,
    });
    if let (true, Some(session)) = (ids, valid) {
        record_ids(span, session);
    }
}

/// Records the ids of user and session.
pub(crate) fn record_ids(span: &Span, session: &Session) {
    span.record("enduser.id", session.user_id());
    span.record("session.id", tracing::field::display(session.id()));
}

/// Creates the span of a look-up of this many tokens in the cache.
pub(crate) fn look_up(tokens: usize) -> Span {
    internal!(
        "session.cache.look_up",
        "session_layer.tokens" = count(tokens),
        "session_layer.result" = Empty
    )
}

/// Creates the span of fences for this many tokens.
pub(crate) fn fence(tokens: usize) -> Span {
    internal!("session.cache.fence", "session_layer.tokens" = count(tokens))
}

/// Creates the span of a fill.
pub(crate) fn fill() -> Span {
    internal!("session.cache.fill", "session_layer.result" = Empty)
}

/// Creates the span of the removal of this many entries.
pub(crate) fn invalidate(tokens: usize) -> Span {
    internal!("session.cache.invalidate", "session_layer.tokens" = count(tokens))
}

/// Creates the span of a validation's wait for this many rows.
pub(crate) fn read(tokens: usize) -> Span {
    internal!("session.store.read", "session_layer.tokens" = count(tokens))
}

/// Creates the span of the beginning of a login.
pub(crate) fn begin_login() -> Span {
    internal!("session.begin_login")
}

/// Creates the span of the creation of a session.
pub(crate) fn create() -> Span {
    internal!("session.create", "enduser.id" = Empty, "session.id" = Empty)
}

/// Creates the span of the erasure of a user's sessions.
pub(crate) fn erase() -> Span {
    internal!("session.erase")
}

/// Creates the span of a page of a user's sessions.
pub(crate) fn list() -> Span {
    internal!("session.list")
}

/// Creates the span of a change.
pub(crate) fn change(kind: ChangeKind) -> Span {
    match kind {
        ChangeKind::Revoke => internal!("session.revoke", "session_layer.result" = Empty),
        ChangeKind::Update => internal!("session.update", "session_layer.result" = Empty),
        ChangeKind::Rotate => internal!("session.rotate", "session_layer.result" = Empty),
    }
}

/// Records the result of a change.
pub(crate) fn changed(span: &Span, result: ChangeResult) {
    span.record("session_layer.result", result.as_str());
    if matches!(result, ChangeResult::Unavailable | ChangeResult::Unknown) {
        failed(span, result.as_str());
    }
}

/// Creates the span of a call of the store.
pub(crate) fn stored(backend: &str, call: StoreCall) -> Span {
    let (operation, collection) = call.statement();
    store_call(backend, call.as_str(), operation, collection)
}
