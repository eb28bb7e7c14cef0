//! Why there is no connection to Postgres: what failed, the cause, and what to do.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use super::errors::{self, DENIED, by_code};
use super::other_server::OtherServer;
use super::pooler;
use crate::model::credentials::CredentialsError;
use crate::model::error::{StoreError, StoreErrorKind as Kind, cause_of};
#[cfg(feature = "tls")]
use crate::model::tls::TlsProblem;

/// The beginning of the text with which std reports a name without an address. It has no kind of
/// its own.
const LOOK_UP_FAILED: &str = "failed to lookup address information";

/// The SQLSTATE of an error, without the server's text.
#[derive(Debug, thiserror::Error)]
#[error("SQLSTATE {0}")]
struct SqlState(String);

/// The address of a server, for messages.
pub(super) struct At<'a>(pub(super) &'a PgConnectOptions);

impl At<'_> {
    pub(super) fn is_socket(&self) -> bool {
        self.0.get_socket().is_some() || self.0.get_host().starts_with('/')
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get_socket() {
            Some(folder) => write!(f, "{}", folder.display()),
            None => write!(f, "{}:{}", self.0.get_host(), self.0.get_port()),
        }
    }
}

/// Returns the error for a failed attempt to connect.
pub(super) fn of_connecting(at: &At<'_>, error: sqlx::Error) -> StoreError {
    let error = match error {
        // A file of TLS is read after the server was reached.
        sqlx::Error::Io(file) if file.kind() == io::ErrorKind::NotFound && !at.is_socket() => {
            sqlx::Error::Tls(file.into())
        }
        other => other,
    };
    let (kind, why) = match &error {
        sqlx::Error::Database(refused) => {
            let code = sqlstate(refused.code().as_deref().unwrap_or_default());
            let (kind, message) = of_refused_connection(&code, refused.message(), at);
            let message = format!("no connection to Postgres at {at}: {message}");
            // The server's own text may repeat the user, the database and the password.
            return StoreError::new(kind, message).with_source(SqlState(code));
        }
        sqlx::Error::PoolClosed => return closed(),
        _ => (Kind::Unreachable, why(&error)),
    };
    StoreError::new(kind, format!("no connection to Postgres at {at}: {why}")).with_source(error)
}

/// Returns a SQLSTATE as it may be printed. A server may send anything in its place.
fn sqlstate(code: &str) -> String {
    let is_one = code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_one { code.to_owned() } else { "?".to_owned() }
}

/// Returns whether the error is one that Postgres, or a proxy that speaks as it does, replied.
pub(super) fn is_reply(error: &StoreError) -> bool {
    error.source().is_some_and(|source| source.is::<SqlState>())
}

/// Returns the error for a server that replied and is not the wanted one of several.
pub(super) fn not_wanted(at: &At<'_>, standby: bool) -> StoreError {
    let why = match standby {
        true => "it is a standby, and the primary is wanted",
        false => "it is read-only, and target_session_attrs=read-write excludes it",
    };
    StoreError::new(
        Kind::Unreachable,
        format!("no connection to Postgres at {at}: {why}: check the hosts in DATABASE_URL"),
    )
}

/// Returns the error for another kind of server. No wait makes it a Postgres, unless it is a proxy
/// that speaks HTTP while it has no Postgres behind it.
pub(super) fn other_server(at: &At<'_>, server: OtherServer) -> StoreError {
    let kind = match server {
        OtherServer::Http => Kind::Unreachable,
        OtherServer::Redis | OtherServer::Tls => Kind::Denied,
    };
    let what = server.as_str();
    StoreError::new(
        kind,
        format!(
            "no connection to Postgres at {at}: what replies there is {what}: check the host and \
             port in DATABASE_URL"
        ),
    )
}

/// Returns whether a later attempt may succeed although no setting is changed. A CA that is not
/// known, a file of TLS, a server without TLS or a pooler that mixes up statements stays as it is.
/// A name may get an address, a server may start, and a certificate may become valid or be renewed.
pub(crate) fn heals_by_waiting(error: &StoreError) -> bool {
    if error.kind() != Kind::Unreachable {
        return false;
    }
    let connecting = error.source().and_then(|source| source.downcast_ref::<sqlx::Error>());
    let Some(connecting) = connecting else { return true };
    if errors::is_mixed_up(connecting) {
        return false;
    }
    #[cfg(feature = "tls")]
    if let Some(error) = cause_of::<rustls::Error>(connecting) {
        return TlsProblem::of(error).heals_by_waiting();
    }
    !matches!(connecting, sqlx::Error::Tls(_) | sqlx::Error::Configuration(_))
}

/// Returns the error of a store that is closed.
pub(super) fn closed() -> StoreError {
    StoreError::new(Kind::Unreachable, "the store is closed")
}

/// Returns the error of a source that has no credentials.
pub(super) fn no_credentials(at: &At<'_>, error: CredentialsError) -> StoreError {
    let message = format!(
        "no connection to Postgres at {at}: there are no credentials for it ({error}): check \
         DATABASE_PASSWORD_FILE, or the source of PostgresStoreBuilder::credentials"
    );
    StoreError::new(Kind::Denied, message).with_source(error)
}

/// Returns the error for attempts to connect that got no reply.
pub(super) fn connecting_timed_out(at: &At<'_>, limit: Duration) -> StoreError {
    StoreError::new(
        Kind::Unreachable,
        format!(
            "no connection to Postgres at {at}: it did not reply within {limit:?}. Check that it \
             is not stopped or overloaded, the host and port in DATABASE_URL, and that no firewall \
             drops packets"
        ),
    )
}

/// Returns the error for a name whose address got no reply in time.
pub(super) fn look_up_timed_out(at: &At<'_>, limit: Duration) -> StoreError {
    StoreError::new(
        Kind::Unreachable,
        format!(
            "no connection to Postgres at {at}: the look-up of its name got no reply within \
             {limit:?}: check the name server of this machine, and the host in DATABASE_URL"
        ),
    )
}

/// Returns the error for a wait without a connection. `busy` is the pool's size if all of its
/// connections are in use. Postgres can then be reached.
pub(super) fn no_connection(waited: Duration, busy: Option<u32>) -> StoreError {
    match busy {
        Some(size) => StoreError::new(
            Kind::TimedOut,
            format!(
                "no connection became free within {waited:?} ({size} in use): Postgres is stopped \
                 or slow, a lock is held (see pg_stat_activity), or the pool is too small \
                 (SESSION_DB_POOL_SIZE)"
            ),
        ),
        None => StoreError::new(
            Kind::Unreachable,
            format!(
                "no connection to Postgres within {waited:?}: check that it is running and \
                 reachable from here, DATABASE_URL, and that the server and the pool have a \
                 connection left (its max_connections, SESSION_DB_POOL_SIZE)"
            ),
        ),
    }
}

/// `text` is that of the server. It is repeated if the code has no meaning of its own.
fn of_refused_connection(code: &str, text: &str, at: &At<'_>) -> (Kind, String) {
    match by_code(code) {
        _ if code == "28000" && text.contains("certificate") => (
            Kind::Denied,
            "Postgres requires a certificate of this client that its ssl_ca_file knows, for our \
             user: set DATABASE_TLS_CERT_FILE and DATABASE_TLS_KEY_FILE (sslcert, sslkey in \
             DATABASE_URL)"
                .to_owned(),
        ),
        _ if code == "28000" && (text.contains("no encryption") || text.contains("SSL off")) => (
            Kind::Denied,
            "Postgres does not accept our user without TLS (no line of pg_hba.conf does): set \
             DATABASE_TLS_CA_FILE, or sslmode=verify-full in DATABASE_URL"
                .to_owned(),
        ),
        _ if code == DENIED => (
            Kind::Denied,
            "our role may not connect to the database of DATABASE_URL: GRANT CONNECT ON DATABASE … \
             TO …"
                .to_owned(),
        ),
        _ if code.starts_with("22") || code == "42704" => (
            Kind::Denied,
            format!(
                "Postgres rejects a setting of the connection ({code}): check `options` in \
                 DATABASE_URL and in PGOPTIONS"
            ),
        ),
        Some((kind, message)) => (kind, message.to_owned()),
        None => {
            // A code that is not known may be that of a proxy whose Postgres wakes up. A feature
            // that is not supported never will be.
            let kind = if code == "0A000" { Kind::Denied } else { Kind::Unreachable };
            let unknown = (kind, "see the log of Postgres, or of the proxy before it");
            let (kind, meaning) = pooler::meaning(text).unwrap_or(unknown);
            let words = pooler::words(text, at.0);
            (kind, format!("the server replied \"{words}\" ({code}): {meaning}"))
        }
    }
}

/// Returns the cause and what to do about it.
fn why(error: &sqlx::Error) -> String {
    #[cfg(feature = "tls")]
    if let Some(error) = cause_of::<rustls::Error>(error) {
        return of_tls(error);
    }
    match (error, cause_of::<io::Error>(error)) {
        (sqlx::Error::Tls(source), None) if source.to_string().contains("does not support TLS") => {
            "the server has no TLS, and sslmode or DATABASE_TLS_… requires it: set ssl=on there, \
             or sslmode=prefer where the network is trusted"
                .to_owned()
        }
        (sqlx::Error::Tls(source) | sqlx::Error::Configuration(source), None) => format!(
            "TLS could not begin ({source}): check DATABASE_TLS_…, and sslmode, sslrootcert, \
             sslcert and sslkey in DATABASE_URL (TLS needs the feature `tls`)"
        ),
        (sqlx::Error::Tls(_) | sqlx::Error::Configuration(_), Some(file)) => unreadable(file),
        (_, Some(error)) => of_io(error),
        (sqlx::Error::Protocol(_), None) => {
            "what replies there is not Postgres: check the host and port in DATABASE_URL".to_owned()
        }
        _ => "check that it is running and reachable from here, and DATABASE_URL".to_owned(),
    }
}

fn unreadable(file: &io::Error) -> String {
    format!(
        "a file of TLS cannot be read ({file}): check DATABASE_TLS_…_FILE, and sslrootcert, \
         sslcert and sslkey in DATABASE_URL"
    )
}

fn of_io(error: &io::Error) -> String {
    let text = error.to_string();
    match error.kind() {
        _ if text.starts_with(LOOK_UP_FAILED) || text.contains("did not resolve") => format!(
            "the host name has no address ({text}): check the host in DATABASE_URL, and the name \
             server of this machine"
        ),
        io::ErrorKind::ConnectionRefused => {
            "the connection was refused: check that Postgres is running and listens there \
             (listen_addresses, port), and the host and port in DATABASE_URL"
                .to_owned()
        }
        io::ErrorKind::NotFound => {
            "there is no such socket: check that Postgres is running, the folder in DATABASE_URL, \
             and unix_socket_directories"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => format!(
            "this process may not connect, or not read a file of TLS ({text}): allow it \
             (unix_socket_permissions, the firewall of this machine, DATABASE_TLS_…_FILE)"
        ),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "the connection was closed before its first reply: the server is starting or full, a \
             proxy has no server behind it, or what replies there is not Postgres"
                .to_owned()
        }
        io::ErrorKind::TimedOut => {
            "it did not reply: check the host and port in DATABASE_URL, and that no firewall drops \
             packets"
                .to_owned()
        }
        _ => format!(
            "the network reports: {text}. Check the host and port in DATABASE_URL, and that they \
             are reachable from here (firewall, container network)"
        ),
    }
}

#[cfg(feature = "tls")]
fn of_tls(error: &rustls::Error) -> String {
    match TlsProblem::of(error) {
        TlsProblem::UnknownCa => {
            "the CA of the server's certificate is not known: set DATABASE_TLS_CA_FILE \
             (sslrootcert in DATABASE_URL) to its file"
                .to_owned()
        }
        TlsProblem::OtherName => format!(
            "the server's certificate is for another name ({error}): use that name as the host in \
             DATABASE_URL"
        ),
        TlsProblem::Expired => format!(
            "the server's certificate has expired ({error}): renew it, and check the clock of this \
             machine"
        ),
        TlsProblem::NotValidYet => format!(
            "the server's certificate is not valid yet ({error}): check the clocks of this machine \
             and of the server"
        ),
        TlsProblem::OurCertificate => format!(
            "the server does not accept our certificate ({error}): set DATABASE_TLS_CERT_FILE and \
             DATABASE_TLS_KEY_FILE (sslcert, sslkey in DATABASE_URL) to one that its ssl_ca_file \
             knows"
        ),
        TlsProblem::ServerCertificate | TlsProblem::Handshake => {
            format!("TLS failed ({error}): check sslmode and the server's certificate")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(error: sqlx::Error) -> String {
        let options = PgConnectOptions::new_without_pgpass().host("db.internal").port(5433);
        of_connecting(&At(&options), error).to_string()
    }

    #[test]
    fn missing_file_is_a_socket_or_one_of_tls() {
        let missing = || sqlx::Error::Io(io::ErrorKind::NotFound.into());
        assert!(text(missing()).contains("a file of TLS"), "{}", text(missing()));
        let socket = PgConnectOptions::new_without_pgpass().socket("/run/postgresql");
        let text = of_connecting(&At(&socket), missing()).to_string();
        assert!(text.contains("no such socket"), "{text}");
    }

    fn io(kind: io::ErrorKind) -> sqlx::Error {
        sqlx::Error::Io(kind.into())
    }

    #[test]
    fn each_cause_has_its_own_reason() {
        let no_name = io::Error::other(format!("{LOOK_UP_FAILED}: Name or service not known"));
        let missing = io::Error::from(io::ErrorKind::NotFound);
        for (error, reason) in [
            (sqlx::Error::Io(no_name), "has no address"),
            (io(io::ErrorKind::ConnectionRefused), "refused"),
            (io(io::ErrorKind::PermissionDenied), "may not connect"),
            (io(io::ErrorKind::UnexpectedEof), "before its first reply"),
            (io(io::ErrorKind::TimedOut), "firewall"),
            (io(io::ErrorKind::HostUnreachable), "the network reports"),
            (sqlx::Error::Tls("server does not support TLS".into()), "has no TLS"),
            (sqlx::Error::Tls(missing.into()), "a file of TLS"),
            (sqlx::Error::Tls("Invalid certificate".into()), "TLS could not begin"),
            (sqlx::Error::Protocol("unexpected".into()), "is not Postgres"),
            (sqlx::Error::WorkerCrashed, "running"),
        ] {
            let text = text(error);
            assert!(text.starts_with("no connection to Postgres at db.internal:5433: "), "{text}");
            assert!(text.contains(reason), "{text}");
        }
    }

    #[test]
    fn only_what_a_setting_must_change_does_not_heal_by_waiting() {
        let options = PgConnectOptions::new_without_pgpass();
        let heals = |error| heals_by_waiting(&of_connecting(&At(&options), error));
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let no_name = io::Error::other(format!("{LOOK_UP_FAILED}: Name or service not known"));
        assert!(heals(io(io::ErrorKind::ConnectionRefused)) && heals(sqlx::Error::Io(no_name)));
        assert!(heals(io(io::ErrorKind::UnexpectedEof)) && heals(io(io::ErrorKind::TimedOut)));
        assert!(heals_by_waiting(&connecting_timed_out(&At(&options), Duration::from_secs(1))));
        assert!(!heals(sqlx::Error::Tls("server does not support TLS".into())));
        assert!(!heals(sqlx::Error::Tls(missing().into())));
        let other = |server| heals_by_waiting(&other_server(&At(&options), server));
        assert!(!other(OtherServer::Redis) && !other(OtherServer::Tls));
        // A proxy may reply with HTTP until its Postgres is there.
        assert!(other(OtherServer::Http));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn certificate_that_time_or_a_renewal_mends_is_waited_for() {
        use rustls::{AlertDescription, CertificateError, Error};
        let options = PgConnectOptions::new_without_pgpass();
        for (error, expected) in [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), false),
            (Error::InvalidCertificate(CertificateError::NotValidForName), false),
            (Error::InvalidCertificate(CertificateError::NotValidYet), true),
            (Error::InvalidCertificate(CertificateError::Expired), true),
            (Error::AlertReceived(AlertDescription::UnknownCA), false),
            (Error::AlertReceived(AlertDescription::InternalError), true),
        ] {
            let about = format!("{error:?}");
            let error = sqlx::Error::Io(io::Error::new(io::ErrorKind::InvalidData, error));
            let heals = heals_by_waiting(&of_connecting(&At(&options), error));
            assert_eq!(heals, expected, "{about}");
        }
    }

    #[test]
    fn refusal_without_a_code_of_its_own_is_shown_and_waited_for() {
        let options = PgConnectOptions::new_without_pgpass().username("alice").password("s3cret");
        let at = At(&options);
        for (code, text, kind, shown) in [
            ("XX000", "Couldn't wake s3cret of \"alice\"", Kind::Unreachable, "wake … of \"…\""),
            ("XX000", "Tenant or user not found", Kind::Denied, "Tenant or user not found"),
            ("0A000", "no command-line options", Kind::Denied, "SESSION_DB_POOLED=true"),
            ("0A000", "unsupported frontend protocol", Kind::Denied, "frontend protocol"),
            ("08P01", "no such user", Kind::Denied, "our user or password"),
            ("08P01", "no such database: x", Kind::Schema, "the database"),
            ("08P01", "database \"x\" is disabled", Kind::Unreachable, "is disabled"),
            ("08P01", "query_wait_timeout", Kind::Unreachable, "Postgres behind it"),
            ("99999", "new", Kind::Unreachable, "\"new\" (99999)"),
        ] {
            let (found, message) = of_refused_connection(code, text, &at);
            assert_eq!(found, kind, "{message}");
            assert!(message.contains(shown), "{message}");
            assert!(!message.contains("alice") && !message.contains("s3cret"), "{message}");
            assert_eq!(
                heals_by_waiting(&StoreError::new(found, message)),
                kind == Kind::Unreachable
            );
        }
    }

    #[test]
    fn only_a_sqlstate_is_printed_as_one() {
        assert_eq!(sqlstate("57P03"), "57P03");
        for code in ["", "57P0", "57P033", "\u{1b}[2J!", "äää"] {
            assert_eq!(sqlstate(code), "?", "{code:?}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn each_problem_of_a_certificate_has_its_own_reason() {
        use rustls::{AlertDescription, CertificateError, Error};
        for (error, reason) in [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "sslrootcert"),
            (Error::InvalidCertificate(CertificateError::BadSignature), "sslrootcert"),
            (Error::InvalidCertificate(CertificateError::NotValidForName), "another name"),
            (Error::InvalidCertificate(CertificateError::Expired), "has expired"),
            (Error::InvalidCertificate(CertificateError::NotValidYet), "not valid yet"),
            (Error::AlertReceived(AlertDescription::CertificateRequired), "sslcert, sslkey"),
            (Error::DecryptError, "TLS failed"),
        ] {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            let text = text(sqlx::Error::Io(error));
            assert!(text.contains(reason), "{text}");
        }
    }
}
