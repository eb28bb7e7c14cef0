//! A store and a cache in memory. Tests hold, slow down and break their calls.

mod cache;
mod calls;
mod store;

use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::store::SessionParts;
use session_layer::{Session, SessionId, Sessions, Timestamp, TokenDigest, Validation};

pub(crate) use self::cache::{Cache, entry};
pub(crate) use self::calls::How;
pub(crate) use self::store::{CROWD, Store};

/// A timeout that no test exhausts.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Returns well-formed token number `n`: 43 characters that encode 32 bytes.
pub(crate) fn token(n: usize) -> String {
    format!("{n:A<43}")
}

pub(crate) fn digest(n: usize) -> TokenDigest {
    TokenDigest::of(&token(n))
}

pub(crate) async fn ask(sessions: &Sessions, n: usize) -> &'static str {
    match sessions.validate(&token(n)).await {
        Validation::Valid(_) => "valid",
        Validation::Invalid => "invalid",
        _ => "unavailable",
    }
}

/// Returns the active session of token `n`.
pub(crate) async fn valid(sessions: &Sessions, n: usize) -> Session {
    match sessions.validate(&token(n)).await {
        Validation::Valid(session) => session,
        other => panic!("not valid: {other:?}"),
    }
}

/// Lets every other task run until the condition holds. No time passes.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("timed out waiting for {what}");
}

/// Creates a session that was last seen half of its idle timeout ago.
pub(crate) fn session(digest: TokenDigest, user: &str, idle_timeout: Option<Duration>) -> Session {
    let now = Timestamp::now();
    let unrecorded = idle_timeout.unwrap_or_default() / 2;
    let [id, ..] = *digest.as_bytes();
    SessionParts {
        id: SessionId::from_bytes([id; 16]),
        user_id: user.to_owned(),
        version: 1,
        created_at: now,
        authenticated_at: now,
        last_seen_at: Timestamp::from_micros(
            now.as_micros() - i64::try_from(unrecorded.as_micros()).unwrap(),
        ),
        expires_at: now.after(HOUR),
        idle_timeout,
        persistent: false,
        data: RawValue::from_string("{}".to_owned()).unwrap(),
    }
    .into()
}
