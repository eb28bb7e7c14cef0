//! The servers that a URL names. They are tried in order, from the one that was good last.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, fmt};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};

use super::PostgresStore;
use super::connect_error::{self, At};
use super::{errors, other_server};
use crate::model::error::StoreError;
use crate::model::server_url::{ATTRS, ServerUrl, ServerUrlError};
use crate::model::tls::TlsSettings;

/// Reports whether this server is a standby, and whether its transactions are read-only. The simple
/// protocol needs no second message, which a pooler may send to another server.
const STATE: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
     pg_catalog.current_setting('transaction_read_only')::bool";

/// The limit of an attempt if there are other servers: 2 s. A server that is gone without a word
/// delays the promoted one by this.
const LIMIT_OF_ONE: Duration = Duration::from_secs(2);

/// The servers of one URL. Clones share which one was good last.
#[derive(Clone)]
pub(super) struct Hosts {
    /// At least one.
    all: Vec<PgConnectOptions>,
    wanted: Wanted,
    last: Arc<AtomicUsize>,
}

/// Which server is used (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    Primary,
    ReadWrite,
}

/// Why no connection was opened. It has the reason of each server.
#[derive(Debug)]
pub(super) enum Failed {
    /// A server has no connection left for our role.
    Full(StoreError),
    /// A server did not reply in time.
    TimedOut(StoreError),
    Refused(StoreError),
}

// The options have the user and the password.
impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.all.iter().map(|options| At(options).to_string()).collect();
        f.debug_struct("Hosts").field("all", &all).field("wanted", &self.wanted).finish()
    }
}

impl Hosts {
    /// Returns the servers of a URL. If it names several, and not which one is wanted, it is the
    /// primary.
    pub(super) fn of(url: &ServerUrl) -> Result<Self, ServerUrlError> {
        let all = PostgresStore::options_of_each(url)?;
        let attrs = url.target_session_attrs().or_else(|| env::var("PGTARGETSESSIONATTRS").ok());
        let wanted = match attrs.as_deref() {
            Some("read-write") => Wanted::ReadWrite,
            Some("primary") => Wanted::Primary,
            Some("any") => Wanted::Any,
            Some(_) => return Err(ServerUrlError::because(ATTRS)),
            None if all.len() == 1 => Wanted::Any,
            None => Wanted::Primary,
        };
        Ok(Self { all, wanted, last: Arc::default() })
    }

    /// Returns the one server of a pool of the application.
    pub(super) fn one(options: PgConnectOptions) -> Self {
        Self { all: vec![options], wanted: Wanted::Any, last: Arc::default() }
    }

    /// Returns the servers with changed options.
    pub(super) fn map(&self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        let all = self.all.iter().cloned().map(change).collect();
        Self { all, wanted: self.wanted, last: Arc::clone(&self.last) }
    }

    /// Returns the servers with changed options, if each can be changed.
    pub(super) fn try_map<E>(
        &self,
        change: impl Fn(PgConnectOptions) -> Result<PgConnectOptions, E>,
    ) -> Result<Self, E> {
        let all = self.all.iter().cloned().map(change).collect::<Result<_, E>>()?;
        Ok(Self { all, wanted: self.wanted, last: Arc::clone(&self.last) })
    }

    /// Returns the warning about TLS, if there is one for any of the servers.
    pub(super) fn tls_remark(&self, tls: &TlsSettings) -> Option<&'static str> {
        self.all.iter().find_map(|options| super::tls::remark(options, tls))
    }

    /// Returns the address of the server that is tried first.
    pub(super) fn first(&self) -> At<'_> {
        let last = self.last.load(Ordering::Relaxed);
        At(&self.all[last.min(self.all.len() - 1)])
    }

    /// Opens a connection to the first server that is the wanted one. Each has this time, and one
    /// of several at most [`LIMIT_OF_ONE`].
    pub(super) async fn connect(&self, limit: Duration) -> Result<PgConnection, Failed> {
        let limit = if self.all.len() > 1 { limit.min(LIMIT_OF_ONE) } else { limit };
        let first = self.last.load(Ordering::Relaxed).min(self.all.len() - 1);
        let mut failed: Option<Failed> = None;
        for index in (first..self.all.len()).chain(0..first) {
            let options = &self.all[index];
            let at = At(options);
            let connecting = in_steps(limit, look_up(&at), self.connect_to(options));
            let error = match connecting.await {
                Ok(Ok(connection)) => {
                    self.last.store(index, Ordering::Relaxed);
                    return Ok(connection);
                }
                Ok(Err(error)) => error,
                Err(Hung::LookUp) => Failed::TimedOut(connect_error::look_up_timed_out(&at, limit)),
                Err(Hung::Server) => {
                    Failed::TimedOut(connect_error::connecting_timed_out(&at, limit))
                }
            };
            failed = Some(match failed {
                None => error,
                Some(before) => before.and(error),
            });
        }
        Err(failed.unwrap_or_else(|| Failed::Refused(connect_error::closed())))
    }

    /// Returns the error for another kind of server at the only address.
    pub(super) async fn other_server(&self) -> Option<StoreError> {
        let [options] = &*self.all else { return None };
        let at = At(options);
        if at.is_socket() {
            return None;
        }
        let what = other_server::at(options.get_host(), options.get_port()).await?;
        Some(connect_error::other_server(&at, what))
    }

    async fn connect_to(&self, options: &PgConnectOptions) -> Result<PgConnection, Failed> {
        let at = At(options);
        let refused = |error: sqlx::Error| match errors::is_full(&error) {
            true => Failed::Full(connect_error::of_connecting(&at, error)),
            false => Failed::Refused(connect_error::of_connecting(&at, error)),
        };
        let mut connection = options.connect().await.map_err(refused)?;
        if self.wanted == Wanted::Any {
            return Ok(connection);
        }
        let state = sqlx::raw_sql(STATE).fetch_one(&mut connection).await.map_err(refused)?;
        let read = |index: usize| sqlx::Row::try_get::<bool, _>(&state, index);
        let (standby, read_only) = (read(0).map_err(refused)?, read(1).map_err(refused)?);
        if standby || (read_only && self.wanted == Wanted::ReadWrite) {
            let _ = sqlx::Connection::close(connection).await;
            return Err(Failed::Refused(connect_error::not_wanted(&at, standby)));
        }
        Ok(connection)
    }
}

/// The step that got no reply in time.
#[derive(Debug, PartialEq, Eq)]
enum Hung {
    LookUp,
    Server,
}

/// Looks the name of a server up, if it has one.
async fn look_up(at: &At<'_>) {
    if !at.is_socket() {
        let _found = lookup_host((at.0.get_host(), at.0.get_port())).await;
    }
}

/// Connects with a timeout. sqlx looks the name up itself and does not report that step. Therefore
/// a look-up of our own finds out whether it hangs, after half of the time.
async fn in_steps<T>(
    limit: Duration,
    look_up: impl Future<Output = ()>,
    connecting: impl Future<Output = T>,
) -> Result<T, Hung> {
    let found = AtomicBool::new(false);
    let looking = async {
        sleep(limit / 2).await;
        look_up.await;
        found.store(true, Ordering::Relaxed);
        pending::<Infallible>().await
    };
    let connected = tokio::select! {
        connected = timeout(limit, connecting) => connected,
        never = looking => match never {},
    };
    connected.map_err(|_elapsed| match found.load(Ordering::Relaxed) {
        true => Hung::Server,
        false => Hung::LookUp,
    })
}

impl Failed {
    /// Returns the reason without its kind.
    pub(super) fn reason(self) -> StoreError {
        match self {
            Self::Full(reason) | Self::TimedOut(reason) | Self::Refused(reason) => reason,
        }
    }

    /// Joins the failure of the next server. What another attempt could change decides, so a server
    /// that may come back counts more than one that refused. Its kind and its source are kept.
    fn and(self, next: Self) -> Self {
        let make = match (&self, &next) {
            (Self::Full(_), _) | (_, Self::Full(_)) => Self::Full,
            (Self::TimedOut(_), _) | (_, Self::TimedOut(_)) => Self::TimedOut,
            _ => Self::Refused,
        };
        let (before, next) = (self.reason(), next.reason());
        let text = format!("{before}. Also: {next}");
        let heals = connect_error::heals_by_waiting;
        let decisive = if heals(&before) || !heals(&next) { before } else { next };
        make(decisive.with_message(text))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Hosts {
        Hosts::of(&url.parse().unwrap()).unwrap()
    }

    #[test]
    fn each_host_of_a_url_has_its_port() {
        let hosts = hosts("postgres://u:hunter2@a:5433,b,[::1]:7/app");
        let places: Vec<_> =
            hosts.all.iter().map(|it| (it.get_host().to_owned(), it.get_port())).collect();
        assert_eq!(places, [("a".to_owned(), 5433), ("b".to_owned(), 5432), ("::1".to_owned(), 7)]);
        assert!(hosts.all.iter().all(|it| it.get_database() == Some("app")));
        assert!(!format!("{hosts:?}").contains("hunter2"));
    }

    #[test]
    fn several_hosts_want_the_primary_unless_the_url_says_otherwise() {
        for (url, wanted) in [
            ("postgres://a/d", Wanted::Any),
            ("postgres://a,b/d", Wanted::Primary),
            ("postgres://a,b/d?target_session_attrs=any", Wanted::Any),
            ("postgres://a,b/d?target_session_attrs=read-write", Wanted::ReadWrite),
            ("postgres://a/d?target_session_attrs=primary", Wanted::Primary),
        ] {
            assert_eq!(hosts(url).wanted, wanted, "{url}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn look_up_that_hangs_is_told_apart_from_a_server_that_hangs() {
        let limit = Duration::from_secs(1);
        let after = |time| async move { sleep(time).await };
        for (look_up, connecting, expected) in [
            (limit / 10, limit * 2, Err(Hung::Server)),
            (limit * 2, limit * 2, Err(Hung::LookUp)),
            // A look-up of our own that hangs alone delays nothing.
            (limit * 2, limit * 9 / 10, Ok(())),
        ] {
            assert_eq!(in_steps(limit, after(look_up), after(connecting)).await, expected);
        }
        let options = PgConnectOptions::new_without_pgpass().host("db.internal");
        let error = connect_error::look_up_timed_out(&At(&options), limit).to_string();
        assert!(error.contains("db.internal") && error.contains("name server"), "{error}");
    }

    #[test]
    fn several_hosts_are_waited_for_if_one_of_them_may_come_back() {
        let options = PgConnectOptions::new_without_pgpass();
        let lost = || sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into());
        let no_tls = || sqlx::Error::Tls("server does not support TLS".into());
        for (first, second, heals) in [
            (no_tls(), no_tls(), false),
            (lost(), no_tls(), true),
            (no_tls(), lost(), true),
            (lost(), lost(), true),
        ] {
            let failed =
                |error| Failed::Refused(connect_error::of_connecting(&At(&options), error));
            let joined = failed(first).and(failed(second)).reason();
            assert_eq!(connect_error::heals_by_waiting(&joined), heals, "{joined}");
            assert!(std::error::Error::source(&joined).is_some(), "{joined:?}");
        }
    }

    #[test]
    fn failure_of_several_hosts_names_each() {
        use crate::model::error::StoreErrorKind::{Denied, Unreachable};
        let error = |text: &str| StoreError::new(Unreachable, text);
        let both = Failed::TimedOut(error("a hangs")).and(Failed::Refused(error("b is a standby")));
        assert!(matches!(both, Failed::TimedOut(_)), "{both:?}");
        let text = both.reason().to_string();
        assert!(text.contains("a hangs") && text.contains("b is a standby"), "{text}");
        // The order of the hosts does not matter.
        for (first, second) in [(Unreachable, Denied), (Denied, Unreachable)] {
            let failed = |kind| Failed::Refused(StoreError::new(kind, "it failed"));
            assert_eq!(failed(first).and(failed(second)).reason().kind(), Unreachable);
        }
    }
}
