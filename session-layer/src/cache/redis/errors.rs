//! Redis' errors, classified by code, never by text.

use redis::{ErrorKind, RedisError};

use crate::error::{CacheError, CacheErrorKind};

/// What an error means and what to do about it.
pub(super) fn classify(error: RedisError) -> CacheError {
    // Of a pipeline whose commands all failed, the first. Its own `code()` knows some codes only.
    let answers = error.clone().into_server_errors();
    let answer = answers.as_deref().and_then(|answers| answers.first());
    let (kind, message) = match answer {
        Some((_, answer)) => by_code(answer.code(), answer.details()),
        None => without_code(&error),
    };
    CacheError::new(kind, message).with_source(error)
}

/// The server answered, and refused.
fn by_code(code: &str, detail: Option<&str>) -> (CacheErrorKind, String) {
    let (kind, message) = match code {
        "READONLY" => (
            CacheErrorKind::NotMaster,
            "the server is a replica now (READONLY); connecting anew",
        ),
        "MASTERDOWN" => (
            CacheErrorKind::NotMaster,
            "the server is a replica without its master (MASTERDOWN): REDIS_URL must lead to the master",
        ),
        "OOM" => (
            CacheErrorKind::Refused,
            "Redis is out of memory (OOM): raise maxmemory, or set an eviction policy such as allkeys-lru",
        ),
        "MISCONF" => (
            CacheErrorKind::Refused,
            "Redis cannot save its snapshot and refuses writes (MISCONF): look at its log and disk",
        ),
        "NOREPLICAS" => (
            CacheErrorKind::Refused,
            "Redis refuses writes while it has too few replicas (NOREPLICAS): look at min-replicas-to-write and at \
             the replicas",
        ),
        "NOPERM" => {
            let what = detail.map(|detail| format!(": {}", in_short(detail)));
            let message = format!(
                "Redis denies something to this user (NOPERM{}): allow the keys <namespace>:* and GET, SET, UNLINK, \
                 EVAL, EVALSHA, SCRIPT, INFO, DBSIZE and PING (ACL SETUSER)",
                what.unwrap_or_default()
            );
            return (CacheErrorKind::Refused, message);
        }
        "NOAUTH" | "WRONGPASS" => (CacheErrorKind::Refused, OTHER_CREDENTIALS),
        "LOADING" => (
            CacheErrorKind::Refused,
            "Redis is loading its dump (LOADING); it will answer when it is done",
        ),
        "BUSY" => (
            CacheErrorKind::Refused,
            "Redis is busy with somebody's script (BUSY): SCRIPT KILL ends it",
        ),
        "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" | "TRYAGAIN" => {
            let message = format!(
                "REDIS_URL leads to a node of a cluster ({code}), which is not supported: it must lead to one Redis \
                 that has all keys"
            );
            return (CacheErrorKind::Refused, message);
        }
        // No code of its own: an unknown command, too many clients, …
        "ERR" => {
            let what = detail.map_or("ERR", in_short);
            return (
                CacheErrorKind::Refused,
                format!("Redis refused a command ({what})"),
            );
        }
        code => {
            return (
                CacheErrorKind::Refused,
                format!("Redis refused a command ({code})"),
            );
        }
    };
    (kind, message.to_owned())
}

/// What the server said, without the arguments of the command, which name a key.
fn in_short(detail: &str) -> &str {
    detail.split(", with args").next().unwrap_or_default()
}

fn without_code(error: &RedisError) -> (CacheErrorKind, String) {
    match error.kind() {
        ErrorKind::AuthenticationFailed => (CacheErrorKind::Refused, OTHER_CREDENTIALS.to_owned()),
        ErrorKind::Io if error.is_timeout() => (
            CacheErrorKind::TimedOut,
            "Redis did not answer in time".to_owned(),
        ),
        ErrorKind::Io => (
            CacheErrorKind::Unreachable,
            format!(
                "no connection to Redis ({error}): is it running, is REDIS_URL right, is it reachable from here?"
            ),
        ),
        _ => (
            CacheErrorKind::Protocol,
            format!("Redis answered something unexpected ({error})"),
        ),
    }
}

const OTHER_CREDENTIALS: &str =
    "Redis wants other credentials: check user and password in REDIS_URL";

/// No answer within the deadline of an operation.
pub(super) fn timed_out() -> CacheError {
    CacheError::new(CacheErrorKind::TimedOut, "Redis did not answer in time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_says_what_to_do() {
        use CacheErrorKind::{NotMaster, Refused};
        for (code, kind, advice) in [
            ("READONLY", NotMaster, "connecting anew"),
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
    fn arguments_of_a_command_are_not_repeated() {
        let detail = "unknown command 'EVALSHA', with args beginning with: 'a-key' ";
        let (_, message) = by_code("ERR", Some(detail));
        assert_eq!(
            message,
            "Redis refused a command (unknown command 'EVALSHA')"
        );
    }
}
