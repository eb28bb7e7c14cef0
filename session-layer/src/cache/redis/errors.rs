//! Redis' errors, classified by code, never by text.

use redis::{ErrorKind, RedisError};

use crate::error::{CacheError, CacheErrorKind};

/// What an error means and what to do about it.
pub(super) fn classify(error: RedisError) -> CacheError {
    let (kind, message) = match error.code() {
        Some("READONLY") => (
            CacheErrorKind::NotMaster,
            "the server is a replica now (READONLY); connecting anew".to_owned(),
        ),
        Some("OOM") => (
            CacheErrorKind::Refused,
            "Redis is out of memory (OOM): raise maxmemory, or set an eviction policy such as \
             allkeys-lru"
                .to_owned(),
        ),
        Some("MISCONF") => (
            CacheErrorKind::Refused,
            "Redis cannot save its snapshot and refuses writes (MISCONF): look at its log and disk"
                .to_owned(),
        ),
        Some("NOPERM") => (
            CacheErrorKind::Refused,
            format!(
                "Redis denies a command to this user (NOPERM{}): allow GET, SET, UNLINK, EVALSHA, \
                 SCRIPT, INFO and PING",
                error
                    .detail()
                    .map(|detail| format!(": {detail}"))
                    .unwrap_or_default()
            ),
        ),
        Some("NOAUTH" | "WRONGPASS") => (
            CacheErrorKind::Refused,
            "Redis wants other credentials: check user and password in REDIS_URL".to_owned(),
        ),
        Some("LOADING") => (
            CacheErrorKind::Refused,
            "Redis is loading its dump (LOADING); it will answer when it is done".to_owned(),
        ),
        Some(code) => (
            CacheErrorKind::Refused,
            format!("Redis refused a command ({code})"),
        ),
        None => match error.kind() {
            ErrorKind::AuthenticationFailed => (
                CacheErrorKind::Refused,
                "Redis wants other credentials: check user and password in REDIS_URL".to_owned(),
            ),
            ErrorKind::Io if error.is_timeout() => (
                CacheErrorKind::TimedOut,
                "Redis did not answer in time".to_owned(),
            ),
            ErrorKind::Io => (
                CacheErrorKind::Unreachable,
                format!(
                    "no connection to Redis ({error}): is it running, is REDIS_URL right, is it \
                     reachable from here?"
                ),
            ),
            _ => (
                CacheErrorKind::Protocol,
                format!("Redis answered something unexpected ({error})"),
            ),
        },
    };
    CacheError::new(kind, message).with_source(error)
}

/// No answer within the deadline of an operation.
pub(super) fn timed_out() -> CacheError {
    CacheError::new(CacheErrorKind::TimedOut, "Redis did not answer in time")
}
