//! The classification of Redis' errors by code, never by text.

use redis::{ErrorKind, RedisError};

use crate::model::error::{CacheError, CacheErrorKind};

/// Classifies an error, with a message that says what to do.
pub(super) fn classify(error: RedisError) -> CacheError {
    // The first error of a failed pipeline counts. Its own `code()` knows only some codes.
    let answers = error.clone().into_server_errors();
    let answer = answers.as_deref().and_then(|answers| answers.first());
    let (kind, message) = match answer {
        Some((_, answer)) => by_code(answer.code(), answer.details()),
        None => without_code(&error),
    };
    CacheError::new(kind, message).with_source(error)
}

/// Classifies an error reply of the server by its code.
fn by_code(code: &str, detail: Option<&str>) -> (CacheErrorKind, String) {
    let (kind, message) = match code {
        "READONLY" => (
            CacheErrorKind::NotMaster,
            "the Redis server became a replica (READONLY): reconnecting",
        ),
        "MASTERDOWN" => (
            CacheErrorKind::NotMaster,
            "the Redis server is a replica without its master (MASTERDOWN): set REDIS_URL to \
             the master",
        ),
        "OOM" => (
            CacheErrorKind::Refused,
            "Redis is out of memory (OOM): raise maxmemory, or set an eviction policy such as \
             allkeys-lru",
        ),
        "MISCONF" => (
            CacheErrorKind::Refused,
            "Redis rejects writes because it cannot save its snapshot (MISCONF): check its log \
             and its disk",
        ),
        "NOREPLICAS" => (
            CacheErrorKind::Refused,
            "Redis rejects writes because it has too few replicas (NOREPLICAS): check \
             min-replicas-to-write and the replicas",
        ),
        "NOPERM" => {
            let what = detail.map(|detail| format!(": {}", in_short(detail)));
            let message = format!(
                "Redis denies a command to this user (NOPERM{}): allow the keys <namespace>:*, and \
                 GET, MGET, SET, UNLINK, EVAL, EVALSHA, SCRIPT, INFO, DBSIZE and PING (ACL \
                 SETUSER)",
                what.unwrap_or_default()
            );
            return (CacheErrorKind::Refused, message);
        }
        "NOAUTH" | "WRONGPASS" => (CacheErrorKind::Refused, OTHER_CREDENTIALS),
        "LOADING" => (
            CacheErrorKind::Refused,
            "Redis is loading its dump (LOADING): it is used again when it is done",
        ),
        "BUSY" => (
            CacheErrorKind::Refused,
            "Redis is busy with a script of another client (BUSY): end it with SCRIPT KILL",
        ),
        "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" | "TRYAGAIN" => {
            let message = format!(
                "REDIS_URL leads to a cluster node ({code}), which is not supported: set it to one \
                 Redis that has all keys"
            );
            return (CacheErrorKind::Refused, message);
        }
        // Errors without their own code, such as an unknown command or too many clients.
        "ERR" => {
            let what = detail.map_or("ERR", in_short);
            return (CacheErrorKind::Refused, format!("Redis rejected a command ({what})"));
        }
        code => {
            return (CacheErrorKind::Refused, format!("Redis rejected a command ({code})"));
        }
    };
    (kind, message.to_owned())
}

/// Returns the server's message without the arguments of the command, which contain a key.
fn in_short(detail: &str) -> &str {
    detail.split(", with args").next().unwrap_or_default()
}

fn without_code(error: &RedisError) -> (CacheErrorKind, String) {
    match error.kind() {
        ErrorKind::AuthenticationFailed => (CacheErrorKind::Refused, OTHER_CREDENTIALS.to_owned()),
        ErrorKind::Io if error.is_timeout() => {
            (CacheErrorKind::TimedOut, "Redis did not respond in time".to_owned())
        }
        ErrorKind::Io => (
            CacheErrorKind::Unreachable,
            format!(
                "no connection to Redis ({error}): check that it is running, that REDIS_URL is \
                 right, and that it is reachable from here"
            ),
        ),
        _ => (CacheErrorKind::Protocol, format!("Redis sent an unexpected reply ({error})")),
    }
}

const OTHER_CREDENTIALS: &str =
    "Redis rejected the credentials: check user and password in REDIS_URL";

pub(super) fn timed_out() -> CacheError {
    CacheError::new(CacheErrorKind::TimedOut, "Redis did not respond in time")
}

/// Copies an error for another caller. Its source stays with the original.
pub(super) fn again(error: &CacheError) -> CacheError {
    CacheError::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_code_has_advice() {
        use CacheErrorKind::{NotMaster, Refused};
        for (code, kind, advice) in [
            ("READONLY", NotMaster, "reconnecting"),
            ("MASTERDOWN", NotMaster, "the master"),
            ("OOM", Refused, "maxmemory"),
            ("MISCONF", Refused, "disk"),
            ("NOREPLICAS", Refused, "min-replicas-to-write"),
            ("NOPERM", Refused, "ACL SETUSER"),
            ("NOAUTH", Refused, "REDIS_URL"),
            ("WRONGPASS", Refused, "REDIS_URL"),
            ("LOADING", Refused, "when it is done"),
            ("BUSY", Refused, "SCRIPT KILL"),
            ("MOVED", Refused, "cluster"),
            ("NEVERSEEN", Refused, "NEVERSEEN"),
        ] {
            let (seen, message) = by_code(code, None);
            assert_eq!(seen, kind, "{code}");
            assert!(message.contains(advice), "{code}: {message}");
        }
    }

    #[test]
    fn error_message_omits_the_command_arguments() {
        let detail = "unknown command 'EVALSHA', with args beginning with: 'a-key' ";
        let (_, message) = by_code("ERR", Some(detail));
        assert_eq!(message, "Redis rejected a command (unknown command 'EVALSHA')");
    }
}
