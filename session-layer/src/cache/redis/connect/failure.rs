//! The reasons why no connection to Redis could be opened. Each function here explains the failure
//! of one step, from its error and the first bytes that the server sent.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};

use super::sentinel::Sentinels;
use super::{Address, Server};
use crate::cache::redis::errors::{Explained, OTHER_CREDENTIALS, by_code, explain, in_short};
use crate::cache::redis::identity::is_lost;
use crate::model::credentials::CredentialsError;
#[cfg(feature = "tls")]
use crate::model::error::cause_of;
use crate::model::error::{CacheError, CacheErrorKind, ConfigError};

/// The error of opening a connection to Redis: what failed, why, and what to do. It contains no
/// user, no password and no parameter of the URL.
#[derive(Debug, Clone)]
pub struct ConnectError {
    cause: ConnectCause,
    address: String,
    why: String,
    remedy: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// An error reply without the arguments of the command, which may contain the password.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {detail}")]
struct Reply {
    code: String,
    detail: String,
}

impl Reply {
    fn new(code: &str, detail: Option<&str>) -> Self {
        Self { code: code.to_owned(), detail: in_short(detail.unwrap_or_default()).to_owned() }
    }
}

/// The causes of a [`ConnectError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectCause {
    /// The settings are wrong, so nothing was tried.
    Settings,
    /// The host name has no address.
    Name,
    /// No server listens at the address.
    Refused,
    /// The address cannot be reached, or the connection broke.
    Network,
    /// A step took too long.
    TimedOut,
    /// The server's certificate is not accepted: its CA, its name or its validity.
    Certificate,
    /// The server does not accept our certificate, or requires one.
    ClientCertificate,
    /// Any other failure of TLS.
    Tls,
    /// The server speaks another protocol: TLS on a plain port, plain on a TLS port, or not Redis.
    Protocol,
    /// The server rejected the user or the password, or requires them.
    Authentication,
    /// The server refuses clients: it has too many, is in protected mode, or denies commands.
    Rejected,
    /// The server is not a master.
    NotMaster,
}

impl ConnectError {
    fn new(
        cause: ConnectCause,
        at: &dyn fmt::Display,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (address, why, remedy) = (at.to_string(), why.into(), remedy.into());
        Self { cause, address, why, remedy, source: None }
    }

    fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Adds the error that caused this one. Of an error reply, only the short form is kept.
    fn with_reply(self, error: RedisError) -> Self {
        if error.kind() == ErrorKind::Io {
            return self.with_source(error);
        }
        let answers = error.clone().into_server_errors();
        let reply = match answers.as_deref().and_then(|answers| answers.first()) {
            Some((_, answer)) => Reply::new(answer.code(), answer.details()),
            None => Reply::new(error.code().unwrap_or(error.category()), error.detail()),
        };
        self.with_source(reply)
    }

    /// Names the credentials of sentinels, which are not in the URL.
    pub(super) fn of_sentinel(mut self) -> Self {
        if self.cause == ConnectCause::Authentication {
            "check REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD (or _FILE)"
                .clone_into(&mut self.remedy);
        }
        self
    }

    pub(in crate::cache::redis) fn settings(error: ConfigError) -> Self {
        Self {
            cause: ConnectCause::Settings,
            address: "(unknown)".to_owned(),
            why: error.to_string(),
            remedy: "correct the setting".to_owned(),
            source: Some(Arc::new(error)),
        }
    }

    /// Returns the cause.
    #[must_use]
    pub fn cause(&self) -> ConnectCause {
        self.cause
    }

    /// Returns the reason, in words.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Returns what to do about it.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no connection to Redis at {}: {}", self.address, self.why)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, ": {}", self.remedy) }
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<ConnectError> for CacheError {
    fn from(error: ConnectError) -> Self {
        let kind = match error.cause {
            ConnectCause::TimedOut => CacheErrorKind::TimedOut,
            ConnectCause::Authentication | ConnectCause::Rejected => CacheErrorKind::Refused,
            ConnectCause::NotMaster => CacheErrorKind::NotMaster,
            ConnectCause::Name
            | ConnectCause::Refused
            | ConnectCause::Network
            | ConnectCause::Certificate
            | ConnectCause::ClientCertificate
            | ConnectCause::Tls
            | ConnectCause::Protocol
            | ConnectCause::Settings => CacheErrorKind::Unreachable,
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

/// The protocol of a server, by the first bytes that it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// It sent nothing.
    Nothing,
    Redis,
    Tls,
    Http,
    Unknown,
}

impl Speaks {
    pub(super) fn of(first: &[u8]) -> Self {
        match first {
            [] => Self::Nothing,
            // A handshake message or an alert, of any version of TLS.
            [0x15 | 0x16, 0x03, ..] => Self::Tls,
            [b'H', b'T', b'T', b'P', b'/', ..] => Self::Http,
            [b'+' | b'-' | b':' | b'$' | b'*' | b'%' | b'>' | b'_', ..] => Self::Redis,
            _ => Self::Unknown,
        }
    }

    /// Returns the failure of a client that does not speak it.
    fn mismatch(self, at: &Address) -> Option<ConnectError> {
        let (why, remedy) = match self {
            Self::Nothing | Self::Redis => return None,
            Self::Tls => (
                "the port expects TLS, and REDIS_URL is without",
                "begin REDIS_URL with rediss://, or set it to the plain port",
            ),
            Self::Http => (
                "the server speaks HTTP, not Redis",
                "set REDIS_URL to the host and port of Redis itself (not to its web or REST \
                 address)",
            ),
            Self::Unknown => (
                "the server does not speak the protocol of Redis",
                "check the host and port in REDIS_URL",
            ),
        };
        Some(ConnectError::new(ConnectCause::Protocol, at, why, remedy))
    }
}

pub(super) fn timed_out(at: &Address, step: &str) -> ConnectError {
    let why = format!("{step} got no reply in time");
    let remedy = "check that Redis is not paused or overloaded, and that no firewall drops packets \
                  to the host and port in REDIS_URL";
    ConnectError::new(ConnectCause::TimedOut, at, why, remedy)
}

/// Explains a look-up of the host's name that takes too long.
pub(super) fn look_up_timed_out(at: &Address) -> ConnectError {
    let why = "the look-up of its name took too long";
    let remedy = "check the name server of this machine";
    ConnectError::new(ConnectCause::TimedOut, at, why, remedy)
}

/// Explains files of TLS whose reading takes too long.
#[cfg(feature = "tls")]
pub(super) fn files_timed_out(at: &Address) -> ConnectError {
    let why = "reading the files of TLS took too long";
    let remedy = "check the volume with the files of REDIS_TLS_CA_FILE and those beside it";
    ConnectError::new(ConnectCause::TimedOut, at, why, remedy)
}

pub(super) fn credentials(at: &Server, error: CredentialsError) -> ConnectError {
    let why = format!("there are no credentials for it ({error})");
    let remedy = "check REDIS_PASSWORD_FILE, or the source of RedisCacheBuilder::credentials";
    ConnectError::new(ConnectCause::Authentication, at, why, remedy).with_source(error)
}

pub(super) fn name(at: &Address, error: io::Error) -> ConnectError {
    let why = format!("the host name has no address ({error})");
    let remedy = "check the host in REDIS_URL, and the name server of this machine";
    ConnectError::new(ConnectCause::Name, at, why, remedy).with_source(error)
}

pub(super) fn connecting(at: &Address, error: io::Error) -> ConnectError {
    const REACHABLE: &str = "check the host and port in REDIS_URL, and that they are reachable \
                             from here (firewall, container network)";
    let (cause, why, remedy) = match (error.kind(), at) {
        (io::ErrorKind::NotFound, Address::Unix(_)) => (
            ConnectCause::Refused,
            "there is no such socket".to_owned(),
            "check the path in REDIS_URL (CONFIG GET unixsocket), and that Redis is running",
        ),
        (io::ErrorKind::PermissionDenied, _) => (
            ConnectCause::Network,
            format!("this process may not connect ({error})"),
            "allow it (unixsocketperm, or the firewall of this machine)",
        ),
        (io::ErrorKind::ConnectionRefused, _) => (
            ConnectCause::Refused,
            "the connection was refused".to_owned(),
            "check that Redis is running and listens at the host and port in REDIS_URL",
        ),
        (io::ErrorKind::TimedOut, _) => return timed_out(at, "the connection").with_source(error),
        _ => (ConnectCause::Network, format!("the network reports: {error}"), REACHABLE),
    };
    ConnectError::new(cause, at, why, remedy).with_source(error)
}

/// Explains the failure of the first commands: AUTH, HELLO, SELECT. `first` is what the server sent
/// first, and `speaks` is its protocol.
pub(super) fn greeting(
    at: &Address,
    error: RedisError,
    first: &[u8],
    speaks: Speaks,
) -> ConnectError {
    if let Some(mismatch) = speaks.mismatch(at) {
        return mismatch.with_reply(error);
    }
    #[cfg(feature = "tls")]
    if let Some(alert) = cause_of::<rustls::Error>(&error) {
        let (cause, why, remedy) = super::tls::explain(alert);
        return ConnectError::new(cause, at, why, remedy).with_reply(error);
    }
    // The library drops the reply to AUTH.
    if let Some((code, detail)) = refusal(first, !is_lost(&error)) {
        return explained(at, &by_code(&code, Some(&detail))).with_reply(error);
    }
    if is_lost(&error) {
        let why = format!("the server closed the connection before its first reply ({error})");
        let remedy = "check its log: it may have reached maxclients, be in protected mode, or \
                      expect TLS";
        return ConnectError::new(ConnectCause::Network, at, why, remedy).with_reply(error);
    }
    explained(at, &explain(&error)).with_reply(error)
}

/// Explains why the identity could not be read.
pub(super) fn identity(at: &Address, error: RedisError) -> ConnectError {
    let found = explain(&error);
    if matches!(error.code(), Some("NOPERM" | "ERR")) {
        let reply = error.detail().map_or("", in_short);
        let why = format!(
            "the role of the server is unknown, because it refused INFO, ROLE and HELLO ({reply}), \
             so a demoted server would go unnoticed"
        );
        let remedy = "correct what its reply names. If it denies INFO, allow that to this user \
                      (ACL SETUSER <user> +info). A proxy without these commands cannot be used";
        return ConnectError::new(ConnectCause::Rejected, at, why, remedy).with_reply(error);
    }
    explained(at, &found).with_reply(error)
}

/// Explains a server that is not the master.
pub(in crate::cache::redis) fn not_master(connector: &super::Connector) -> ConnectError {
    let (why, remedy) = match connector.server {
        Server::At(_) => ("the Redis server is a replica", "set REDIS_URL to the master"),
        Server::Behind(_) => (
            "the Redis server that they name is a replica",
            "a failover is in progress, and they are asked again",
        ),
        Server::Cluster(_) | Server::Node(_) => (
            "the node of the cluster is a replica",
            "a failover is in progress, and the map of the slots is read again",
        ),
    };
    ConnectError::new(ConnectCause::NotMaster, &connector.server, why, remedy)
}

/// Explains a sentinel in the place of a Redis.
pub(super) fn is_sentinel(at: &Address) -> ConnectError {
    let why = "this is a sentinel, which stores no keys";
    let remedy = "name the sentinels and their service instead \
                  (redis+sentinel://HOST,HOST/SERVICE), or set REDIS_URL to the master itself";
    ConnectError::new(ConnectCause::NotMaster, at, why, remedy)
}

/// Explains a Redis that lacks a command.
pub(super) fn outdated(at: &Address, version: &str) -> ConnectError {
    let why = format!("this is Redis {version}, and versions before 4.0 lack UNLINK");
    let remedy = "upgrade to Redis 6.2 or later, or to Valkey";
    ConnectError::new(ConnectCause::Protocol, at, why, remedy)
}

/// Explains a node of a cluster in the place of one Redis.
pub(super) fn is_cluster(at: &Address) -> ConnectError {
    let why = "this server is a node of a cluster, which has a part of the keys";
    let remedy = "begin REDIS_URL with redis+cluster:// (with TLS: rediss+cluster://)";
    ConnectError::new(ConnectCause::Protocol, at, why, remedy)
}

/// Explains why a node does not report the slots.
pub(super) fn slots(at: &Address, error: RedisError) -> ConnectError {
    let detail = error.detail().unwrap_or_default();
    if detail.contains("cluster support disabled") || detail.starts_with("unknown command") {
        let why = "the server is no node of a cluster";
        let remedy = "begin REDIS_URL with redis:// (with TLS: rediss://)";
        return ConnectError::new(ConnectCause::Protocol, at, why, remedy).with_reply(error);
    }
    if error.code() == Some("NOPERM") {
        let why = "the server denies CLUSTER SLOTS to this user";
        let remedy = "allow it (ACL SETUSER <user> +cluster|slots)";
        return ConnectError::new(ConnectCause::Rejected, at, why, remedy).with_reply(error);
    }
    explained(at, &explain(&error)).with_reply(error)
}

/// Explains a node that reports slots in an unknown form.
pub(super) fn unreadable_slots(at: &Address) -> ConnectError {
    let why = "its reply to CLUSTER SLOTS is not readable";
    let remedy = "check that REDIS_URL leads to the nodes of a Redis or Valkey cluster";
    ConnectError::new(ConnectCause::Protocol, at, why, remedy)
}

/// Explains a cluster without a master for a slot.
pub(super) fn not_served(at: &Server) -> ConnectError {
    let why = "no shard of the cluster serves the slot of the key";
    let remedy = "restore the shard, or give its slots to another (CLUSTER SHARDS lists them)";
    ConnectError::new(ConnectCause::NotMaster, at, why, remedy)
}

/// Explains why the sentinels name no master.
pub(super) fn no_master(sentinels: &Sentinels, is_unknown: bool) -> ConnectError {
    let (cause, why, remedy) = if is_unknown {
        (
            ConnectCause::Rejected,
            "the sentinels do not know the service",
            "check the name behind the hosts in REDIS_URL (SENTINEL MASTERS lists them)",
        )
    } else {
        (
            ConnectCause::NotMaster,
            "fewer than half of the sentinels name the same master",
            "a failover is in progress, or some of them are cut off from the others or do not know \
             the service (SENTINEL MASTERS)",
        )
    };
    ConnectError::new(cause, sentinels, why, remedy)
}

/// Explains the error of a sentinel.
pub(super) fn sentinel(at: &Address, error: RedisError) -> ConnectError {
    let is_unknown = error.detail().is_some_and(|text| text.starts_with("unknown command"));
    if is_unknown {
        let why = "the server is not a sentinel";
        let remedy = "name sentinels in REDIS_URL, or begin it with redis:// for this server";
        return ConnectError::new(ConnectCause::Protocol, at, why, remedy).with_reply(error);
    }
    explained(at, &explain(&error)).with_reply(error)
}

/// Explains why TLS could not begin.
#[cfg(feature = "tls")]
pub(super) fn tls_settings(at: &Address, error: super::tls::TlsError) -> ConnectError {
    let remedy = "correct the settings of TLS (REDIS_TLS_CA_FILE and those beside it)";
    ConnectError::new(ConnectCause::Settings, at, error.to_string(), remedy).with_source(error)
}

/// Explains why the TLS handshake failed.
#[cfg(feature = "tls")]
pub(super) fn tls(at: &Address, error: io::Error, speaks: Speaks) -> ConnectError {
    if speaks == Speaks::Redis {
        let why = "the port speaks plain Redis, and REDIS_URL asks for TLS";
        let remedy = "begin REDIS_URL with redis://, or set it to the TLS port (tls-port)";
        return ConnectError::new(ConnectCause::Protocol, at, why, remedy).with_source(error);
    }
    if let Some(mismatch) = speaks.mismatch(at)
        && speaks != Speaks::Tls
    {
        return mismatch.with_source(error);
    }
    let (cause, why, remedy) = match cause_of::<rustls::Error>(&error) {
        Some(error) => super::tls::explain(error),
        None => (
            ConnectCause::Tls,
            format!("the server ended the TLS handshake ({error})"),
            "check its log: it may have reached maxclients, or its port may not speak TLS",
        ),
    };
    ConnectError::new(cause, at, why, remedy).with_source(error)
}

fn explained(at: &Address, found: &Explained) -> ConnectError {
    let cause = match found.kind {
        CacheErrorKind::NotMaster => ConnectCause::NotMaster,
        CacheErrorKind::TimedOut => ConnectCause::TimedOut,
        CacheErrorKind::Protocol => ConnectCause::Protocol,
        CacheErrorKind::Unreachable => ConnectCause::Network,
        _ if found.remedy == OTHER_CREDENTIALS => ConnectCause::Authentication,
        _ => ConnectCause::Rejected,
    };
    ConnectError::new(cause, at, &found.why, &found.remedy)
}

/// Returns the code and the text of an error reply. `later` is whether it may follow a success, as
/// that of SELECT follows that of AUTH.
fn refusal(first: &[u8], later: bool) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(first);
    let line = text.split("\r\n").find(|line| !(later && line.starts_with('+')))?;
    let line = line.strip_prefix('-')?;
    let (code, detail) = line.split_once(' ').unwrap_or((line, ""));
    Some((code.to_owned(), detail.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Address {
        Address::tcp("cache:6379")
    }

    fn lost() -> RedisError {
        io::Error::from(io::ErrorKind::UnexpectedEof).into()
    }

    #[test]
    fn protocol_shows_in_the_first_bytes() {
        for (first, speaks) in [
            (&b""[..], Speaks::Nothing),
            (b"\x15\x03\x01\x00\x02\x02\x46", Speaks::Tls),
            (b"\x16\x03\x03", Speaks::Tls),
            (b"HTTP/1.1 400 Bad Request", Speaks::Http),
            (b"-ERR unknown command", Speaks::Redis),
            (b"+PONG\r\n", Speaks::Redis),
            (b"SSH-2.0-OpenSSH", Speaks::Unknown),
        ] {
            assert_eq!(Speaks::of(first), speaks, "{first:?}");
        }
    }

    #[test]
    fn refusal_line_is_explained_though_the_connection_ends() {
        use ConnectCause::{Authentication, Network, NotMaster, Protocol, Rejected};
        for (first, cause, why, remedy) in [
            (&b"-ERR max number of clients reached\r\n"[..], Rejected, "limit", "maxclients"),
            (b"-DENIED Redis is running in protected mode because", Rejected, "protected", "pass"),
            (
                b"-WRONGPASS invalid username-password pair",
                Authentication,
                "WRONGPASS",
                "REDIS_URL",
            ),
            (b"-NOAUTH HELLO must be called", Authentication, "NOAUTH", "REDIS_URL"),
            (
                b"-ERR AUTH <password> called without any password configured for",
                Authentication,
                "has none",
                "REDIS_URL",
            ),
            (b"-NOPERM this user has no permissions", Rejected, "NOPERM", "ACL SETUSER"),
            (b"-LOADING Redis is loading", Rejected, "LOADING", "done"),
            (b"-MASTERDOWN Link with MASTER is down", NotMaster, "MASTERDOWN", "master"),
            (b"", Network, "closed the connection", "maxclients"),
            (b"HTTP/1.1 400", Protocol, "HTTP", "REDIS_URL"),
            (b"\x15\x03\x01", Protocol, "expects TLS", "rediss://"),
        ] {
            let error = greeting(&at(), lost(), first, Speaks::of(first));
            assert_eq!(error.cause(), cause, "{error}");
            assert!(error.why().contains(why), "{error}");
            assert!(error.remedy().contains(remedy), "{error}");
            assert!(error.source().is_some(), "{error}");
            assert!(error.to_string().starts_with("no connection to Redis at cache:6379: "));
        }
    }

    fn reply(line: &str) -> RedisError {
        match redis::parse_redis_value(line.as_bytes()) {
            Ok(redis::Value::ServerError(error)) => error.into(),
            other => unreachable!("{other:?}"),
        }
    }

    // Redis repeats the arguments of a command that it does not know.
    #[test]
    fn password_in_a_reply_is_not_repeated() {
        let line =
            "-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 's3cret' \r\n";
        for error in [
            greeting(&at(), reply(line), line.as_bytes(), Speaks::Redis),
            greeting(&at(), reply(line), b"", Speaks::Redis),
            greeting(&at(), reply(line), b"HTTP/1.1", Speaks::Http),
            identity(&at(), reply(line)),
            sentinel(&at(), reply(line)),
        ] {
            let source = error.source().map(ToString::to_string);
            assert_eq!(source.as_deref(), Some("ERR: unknown command 'HELLO'"));
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn rejected_select_after_a_password_is_explained() {
        let select = || {
            let detail = "DB index is out of range".to_owned();
            RedisError::from((redis::ServerErrorKind::ResponseError.into(), "refused", detail))
        };
        for first in [&b"+OK\r\n-ERR DB index is out of range\r\n"[..], b"+OK\r\n", b"%7\r\n"] {
            let error = greeting(&at(), select(), first, Speaks::Redis);
            assert!(error.remedy().contains("databases"), "{error}");
        }
        let first = b"+OK\r\n-NOPERM this user has no permissions\r\n";
        let error = greeting(&at(), select(), first, Speaks::Redis);
        assert!(error.remedy().contains("ACL SETUSER"), "{error}");
    }

    #[test]
    fn errors_of_the_network_are_told_apart() {
        use ConnectCause::{Network, Refused, TimedOut};
        let unix = Address::Unix("/run/redis".into());
        for (kind, at, cause) in [
            (io::ErrorKind::ConnectionRefused, at(), Refused),
            (io::ErrorKind::TimedOut, at(), TimedOut),
            (io::ErrorKind::HostUnreachable, at(), Network),
            (io::ErrorKind::NotFound, unix, Refused),
            (io::ErrorKind::PermissionDenied, at(), Network),
        ] {
            let error = connecting(&at, kind.into());
            assert_eq!(error.cause(), cause, "{error}");
        }
    }
}
