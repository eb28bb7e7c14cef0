//! The classification of Redis' errors by code, never by text.

use redis::{ErrorKind, RedisError};

use crate::model::error::{CacheError, CacheErrorKind};

/// The meaning of an error: its kind, its reason, and the remedy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Explained {
    pub(super) kind: CacheErrorKind,
    pub(super) why: String,
    pub(super) remedy: String,
}

impl Explained {
    pub(super) fn new(
        kind: CacheErrorKind,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { kind, why: why.into(), remedy: remedy.into() }
    }
}

/// Classifies an error, with a message that says what to do.
pub(super) fn classify(error: RedisError) -> CacheError {
    let Explained { kind, why, remedy } = explain(&error);
    let message = if remedy.is_empty() { why } else { format!("{why}: {remedy}") };
    CacheError::new(kind, message).with_source(error)
}

/// Explains an error.
pub(super) fn explain(error: &RedisError) -> Explained {
    // The first error of a failed pipeline counts. Its own `code()` knows only some codes.
    let answers = error.clone().into_server_errors();
    let answer = answers.as_deref().and_then(|answers| answers.first());
    match answer {
        Some((_, answer)) => by_code(answer.code(), answer.details()),
        // The library makes its own error of a rejected SELECT.
        None => match (error.kind(), error.code(), error.detail()) {
            (ErrorKind::Server(_), Some(code), Some(detail)) => by_code(code, Some(detail)),
            _ => without_code(error),
        },
    }
}

/// Explains an error reply of the server by its code.
pub(super) fn by_code(code: &str, detail: Option<&str>) -> Explained {
    let (kind, why, remedy) = match code {
        "READONLY" => (
            CacheErrorKind::NotMaster,
            "the Redis server became a replica (READONLY)",
            "reconnecting",
        ),
        "MASTERDOWN" => (
            CacheErrorKind::NotMaster,
            "the Redis server is a replica without its master (MASTERDOWN)",
            "set REDIS_URL to the master",
        ),
        "OOM" => (
            CacheErrorKind::Refused,
            "Redis is out of memory (OOM)",
            "raise maxmemory, or set an eviction policy such as allkeys-lru",
        ),
        "MISCONF" => (
            CacheErrorKind::Refused,
            "Redis rejects writes because it cannot save its snapshot (MISCONF)",
            "check its log and its disk",
        ),
        "NOREPLICAS" => (
            CacheErrorKind::Refused,
            "Redis rejects writes because it has too few replicas (NOREPLICAS)",
            "check min-replicas-to-write and the replicas",
        ),
        "NOPERM" => {
            let what = detail.map(|detail| format!(": {}", in_short(detail)));
            let why =
                format!("Redis denies a command to this user (NOPERM{})", what.unwrap_or_default());
            return Explained::new(CacheErrorKind::Refused, why, RIGHTS);
        }
        "NOAUTH" => (
            CacheErrorKind::Refused,
            "Redis requires a password and got none (NOAUTH)",
            OTHER_CREDENTIALS,
        ),
        "WRONGPASS" => (
            CacheErrorKind::Refused,
            "Redis rejected the user or the password (WRONGPASS)",
            OTHER_CREDENTIALS,
        ),
        "LOADING" => (
            CacheErrorKind::Refused,
            "Redis is loading its dump (LOADING)",
            "it is used again when it is done",
        ),
        "BUSY" => (
            CacheErrorKind::Refused,
            "Redis is busy with a script of another client (BUSY)",
            "end it with SCRIPT KILL",
        ),
        "DENIED" => (
            CacheErrorKind::Refused,
            "Redis is in protected mode (DENIED): it has no password and accepts clients of its \
             own machine only",
            "give its user a password (ACL SETUSER default on >PASSWORD) and put that into \
             REDIS_URL",
        ),
        "CLUSTERDOWN" => (
            CacheErrorKind::Refused,
            "the Redis cluster is down (CLUSTERDOWN)",
            "restore the shard that has no master, or set cluster-require-full-coverage to no",
        ),
        "MOVED" | "ASK" | "CROSSSLOT" | "TRYAGAIN" => {
            return Explained::new(
                CacheErrorKind::Refused,
                format!("another node of the Redis cluster has the key ({code})"),
                "begin REDIS_URL with redis+cluster://. With it, slots are being moved, and this \
                 ends by itself",
            );
        }
        // Errors without their own code, such as an unknown command or too many clients.
        "ERR" => return without_own_code(detail.map_or("ERR", in_short)),
        code => {
            let why = format!("Redis rejected a command ({code})");
            return Explained::new(CacheErrorKind::Refused, why, "");
        }
    };
    Explained::new(kind, why, remedy)
}

fn without_own_code(detail: &str) -> Explained {
    let (why, remedy) = if detail.starts_with("max number of clients") {
        (
            "Redis has reached its limit of clients (max number of clients reached)".to_owned(),
            "raise maxclients, or lower SESSION_CACHE_POOL_SIZE of its applications",
        )
    } else if detail.contains("without any password configured")
        || detail.contains("no password is set")
    {
        ("Redis got a password and its user has none".to_owned(), OTHER_CREDENTIALS)
    } else if detail.starts_with("DB index is out of range") {
        (
            format!("Redis rejected the number of the database ({detail})"),
            "correct the number in REDIS_URL, or raise `databases` of Redis",
        )
    } else {
        (format!("Redis rejected a command ({detail})"), "")
    };
    Explained::new(CacheErrorKind::Refused, why, remedy)
}

/// Returns the server's message without the arguments of the command, which contain a key or a
/// password.
pub(super) fn in_short(detail: &str) -> &str {
    detail.split(", with args").next().unwrap_or_default()
}

fn without_code(error: &RedisError) -> Explained {
    match error.kind() {
        ErrorKind::AuthenticationFailed => Explained::new(
            CacheErrorKind::Refused,
            "Redis rejected the credentials",
            OTHER_CREDENTIALS,
        ),
        ErrorKind::Io if error.is_timeout() => {
            Explained::new(CacheErrorKind::TimedOut, TIMED_OUT, "")
        }
        ErrorKind::Io => Explained::new(
            CacheErrorKind::Unreachable,
            format!("no connection to Redis ({error})"),
            "check that it is running, that REDIS_URL is right, and that it is reachable from here",
        ),
        _ => Explained::new(
            CacheErrorKind::Protocol,
            format!("Redis sent an unexpected reply ({})", in_short(&error.to_string())),
            "",
        ),
    }
}

pub(super) const OTHER_CREDENTIALS: &str =
    "check user and password in REDIS_URL (or REDIS_PASSWORD_FILE)";
const RIGHTS: &str = "allow the keys <namespace>:*, and GET, MGET, SET, UNLINK, EVAL, EVALSHA, \
                      SCRIPT, INFO, DBSIZE and PING (ACL SETUSER)";
const TIMED_OUT: &str = "Redis did not respond in time";

pub(super) fn timed_out() -> CacheError {
    CacheError::new(CacheErrorKind::TimedOut, TIMED_OUT)
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
            ("DENIED", Refused, "PASSWORD"),
        ] {
            let explained = by_code(code, None);
            assert_eq!(explained.kind, kind, "{code}");
            assert!(explained.remedy.contains(advice), "{code}: {explained:?}");
        }
        assert!(by_code("CLUSTERDOWN", None).remedy.contains("full-coverage"));
        for code in ["MOVED", "NEVERSEEN"] {
            let explained = by_code(code, None);
            assert_eq!(explained.kind, Refused, "{code}");
            assert!(explained.why.contains(code), "{explained:?}");
        }
    }

    #[test]
    fn errors_without_a_code_are_told_by_their_beginning() {
        for (detail, why, remedy) in [
            ("max number of clients reached", "limit of clients", "maxclients"),
            (
                "AUTH <password> called without any password configured for the default user",
                "its user has none",
                "REDIS_URL",
            ),
            ("Client sent AUTH, but no password is set", "its user has none", "REDIS_URL"),
            ("DB index is out of range", "number of the database", "databases"),
            ("unknown command 'EVALSHA', with args beginning with: 'a-key' ", "'EVALSHA')", ""),
        ] {
            let explained = by_code("ERR", Some(detail));
            assert!(explained.why.contains(why), "{explained:?}");
            assert!(explained.remedy.contains(remedy), "{explained:?}");
            assert!(!explained.why.contains("a-key"), "{explained:?}");
        }
    }
}
