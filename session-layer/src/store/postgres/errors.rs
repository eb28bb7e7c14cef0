//! From what sqlx reports to what it means for the caller, by SQLSTATE, never by text.

use std::error::Error as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::rows::quoted;
use crate::error::{StoreError, StoreErrorKind as Kind};

/// How far a call has come. Once a change has left for the server, and until its answer, losing the
/// connection leaves it open whether it was made.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

const CONNECTING: u8 = 0;
const ASKING: u8 = 1;
const CHANGING: u8 = 2;

impl Progress {
    /// Waiting for a connection.
    pub(super) fn connecting(&self) {
        self.0.store(CONNECTING, Ordering::Relaxed);
    }

    /// There is a connection, and nothing on its way that changes anything.
    pub(super) fn asking(&self) {
        self.0.store(ASKING, Ordering::Relaxed);
    }

    /// What is asked next may change something.
    pub(super) fn changing(&self) {
        self.0.store(CHANGING, Ordering::Relaxed);
    }

    fn is(&self, stage: u8) -> bool {
        self.0.load(Ordering::Relaxed) == stage
    }
}

/// No answer within the deadline.
pub(super) fn timed_out(progress: &Progress, deadline: Duration) -> StoreError {
    let (kind, message) = if progress.is(CHANGING) {
        (
            Kind::Uncertain,
            format!(
                "Postgres did not answer a change within {deadline:?}: it may have been committed; ask again"
            ),
        )
    } else if progress.is(CONNECTING) {
        return no_connection(deadline, None);
    } else {
        (
            Kind::TimedOut,
            format!(
                "Postgres did not answer within {deadline:?}: it is stopped, overloaded or far away, or a lock is \
                 held (see pg_stat_activity)"
            ),
        )
    };
    StoreError::new(kind, message)
}

/// What a failed statement means, given whether a change was under way.
pub(super) fn of_statement(error: sqlx::Error, progress: &Progress) -> StoreError {
    let (kind, message) = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            if code == DENIED {
                return denied(error, None);
            }
            let Some(known) = by_code(&code, progress) else {
                let message = format!("Postgres reported an error ({code})");
                return StoreError::new(Kind::Other, message).with_source(error);
            };
            known
        }
        _ if progress.is(CHANGING) => (
            Kind::Uncertain,
            "the connection to Postgres was lost before it answered a change: it may have been committed; ask again",
        ),
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::Decode(_) => return super::rows::unexpected(error),
        _ => (
            Kind::Unreachable,
            "the connection to Postgres was lost before it answered",
        ),
    };
    StoreError::new(kind, message).with_source(error)
}

/// `insufficient_privilege`: the one code of a missing right.
const DENIED: &str = "42501";

/// Does our role lack a right, as far as Postgres tells?
pub(super) fn is_denied_right(error: &sqlx::Error) -> bool {
    let database = error.as_database_error();
    database.is_some_and(|refused| refused.code().as_deref() == Some(DENIED))
}

/// Of what, only Postgres' own words say: a table, the schema, a function. `of`: our role and schema, where they are
/// known.
pub(super) fn denied(error: sqlx::Error, of: Option<(&str, &str)>) -> StoreError {
    let what = error
        .as_database_error()
        .map_or_else(String::new, |refused| refused.message().to_owned());
    let (role, schema) = of.unzip();
    let (named, role) = match role {
        Some(role) => (format!(" {role}"), quoted(role)),
        None => (String::new(), "…".to_owned()),
    };
    let schema = schema.map_or_else(|| "…".to_owned(), quoted);
    let message = format!(
        "our role{named} lacks a right ({what}): GRANT USAGE ON SCHEMA {schema} TO {role}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}; (and EXECUTE on a function \
         that is named)"
    );
    StoreError::new(Kind::Denied, message).with_source(error)
}

/// A code from the server is definite: the statement was rolled back, and nothing was changed. The
/// one exception is a crash of the server, which may have come after the commit.
///
/// `None`: of a code that we do not know, the code says more than we could.
fn by_code(code: &str, progress: &Progress) -> Option<(Kind, &'static str)> {
    let known = match code {
        "57P02" if progress.is(CHANGING) => (
            Kind::Uncertain,
            "Postgres crashed before it answered a change: it may have been committed; ask again",
        ),
        "57P01" | "57P02" | "57P05" | "25P03" => (
            Kind::Unreachable,
            "Postgres closed the connection (a restart, or pg_terminate_backend)",
        ),
        "57P03" => (
            Kind::Unreachable,
            "Postgres is starting up or shutting down: wait for it",
        ),
        "53300" => (
            Kind::Unreachable,
            "Postgres has no connection left for our role (53300): raise max_connections, the role's or the \
             database's CONNECTION LIMIT, or lower max_connections of the pools that use it",
        ),
        "57014" => (
            Kind::TimedOut,
            "Postgres gave the statement up (statement_timeout: it is overloaded, or a lock is held; or an \
             administrator cancelled it): nothing was changed",
        ),
        "55P03" => (
            Kind::TimedOut,
            "a lock was held for too long (lock_timeout): nothing was changed; pg_locks shows by whom",
        ),
        "25006" => (
            Kind::Denied,
            "Postgres is read-only (a replica, or default_transaction_read_only): point DATABASE_URL at the primary",
        ),
        "28000" | "28P01" => (
            Kind::Denied,
            "Postgres refused our user or password: check DATABASE_URL and pg_hba.conf",
        ),
        "3D000" => (
            Kind::Schema,
            "the database of DATABASE_URL does not exist: create it",
        ),
        "42P01" | "3F000" | "42703" | "42883" | "42704" => (
            Kind::Schema,
            "our tables are missing or out of date: run the migrations (SESSION_DB_MIGRATE=true, or \
             PostgresStore::migrate) on this schema; they need Postgres 13",
        ),
        "40001" | "40P01" => (
            Kind::Other,
            "Postgres rolled the change back because of a concurrent one (serialization or deadlock): ask again",
        ),
        // A pooler that refuses a startup option, or what we prepared over another of its connections. Definite,
        // and no fault of what was asked: of such a connection there is none to be had.
        "08P01" => (
            Kind::Unreachable,
            "the server refuses how we connect, or a statement with other parameters than were prepared: a pooler \
             in transaction mode (such as PgBouncer) is in between: set SESSION_DB_POOLED=true, or \
             PostgresStoreBuilder::pooled(true)",
        ),
        code if code.starts_with("22") => (
            Kind::Other,
            "Postgres refuses a value: the data holds something jsonb cannot (a lone surrogate, a number out of range)",
        ),
        "26000" | "42P05" => (
            Kind::Unreachable,
            "a statement that we prepared is gone, or its name is taken: a pooler in transaction mode (such as \
             PgBouncer) is in between: set SESSION_DB_POOLED=true, or PostgresStoreBuilder::pooled(true); or a hook of \
             the pool runs DEALLOCATE or DISCARD",
        ),
        "53100" => (
            Kind::Denied,
            "Postgres' disk is full (53100) and it refuses changes: free space there (its log, old WAL, an unused \
             replication slot); nothing was changed",
        ),
        "53200" => (
            Kind::Other,
            "Postgres is out of memory (53200): look at its log, max_connections and work_mem; nothing was changed",
        ),
        _ => return None,
    };
    Some(known)
}

/// Does the server refuse a function, or not have it?
pub(super) fn is_of_a_function(error: &StoreError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref());
    let Some(sqlx::Error::Database(refused)) = source else {
        return false;
    };
    matches!(refused.code().as_deref(), Some(DENIED | "0A000" | "42883"))
}

/// Is the connection of no further use after this?
pub(super) fn ends_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database
            .try_downcast_ref::<PgDatabaseError>()
            .is_none_or(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)),
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::RowNotFound => false,
        _ => true,
    }
}

/// No connection was had in so long. `busy`: all of the pool's are in use, so that Postgres can be reached.
pub(super) fn no_connection(waited: Duration, busy: Option<u32>) -> StoreError {
    match busy {
        Some(size) => StoreError::new(
            Kind::TimedOut,
            format!(
                "no connection came free within {waited:?} ({size} in use): Postgres is stopped or slow, a lock is held \
                 (see pg_stat_activity), or max_connections too low"
            ),
        ),
        None => StoreError::new(
            Kind::Unreachable,
            format!(
                "no connection to Postgres within {waited:?}: is it running, is DATABASE_URL right, is it \
                 reachable from here, has it or the pool a connection left (max_connections)?"
            ),
        ),
    }
}

/// No connection could be had.
pub(super) fn of_connecting(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(_) => of_statement(error, &Progress::default()),
        sqlx::Error::PoolClosed => {
            StoreError::new(Kind::Unreachable, "the store is closed").with_source(error)
        }
        sqlx::Error::Tls(_) => StoreError::new(
            Kind::Unreachable,
            "TLS with Postgres failed: check sslmode and the certificates (sslmode=require needs the feature `tls`)",
        )
        .with_source(error),
        _ => StoreError::new(
            Kind::Unreachable,
            "no connection to Postgres: is it running, is DATABASE_URL right, is it reachable from here?",
        )
        .with_source(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn at(set: fn(&Progress)) -> Progress {
        let progress = Progress::default();
        set(&progress);
        progress
    }

    #[test]
    fn a_lost_connection_is_uncertain_only_once_a_change_was_sent() {
        let lost = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let long = Duration::from_secs(1);
        for (progress, on_loss, on_silence) in [
            (
                at(Progress::connecting),
                Kind::Unreachable,
                Kind::Unreachable,
            ),
            (at(Progress::asking), Kind::Unreachable, Kind::TimedOut),
            (at(Progress::changing), Kind::Uncertain, Kind::Uncertain),
        ] {
            assert_eq!(of_statement(lost(), &progress).kind(), on_loss);
            assert_eq!(timed_out(&progress, long).kind(), on_silence);
        }
    }

    #[test]
    fn codes_are_definite_but_for_a_crash() {
        for (code, kind) in [
            ("57P01", Kind::Unreachable),
            ("57P03", Kind::Unreachable),
            ("53300", Kind::Unreachable),
            ("57014", Kind::TimedOut),
            ("55P03", Kind::TimedOut),
            ("25006", Kind::Denied),
            ("42P01", Kind::Schema),
            ("3F000", Kind::Schema),
            ("53100", Kind::Denied),
            ("53200", Kind::Other),
            ("08P01", Kind::Unreachable),
            ("26000", Kind::Unreachable),
            ("42P05", Kind::Unreachable),
        ] {
            let (said, _) = by_code(code, &at(Progress::changing)).unwrap();
            assert_eq!(said, kind, "{code}");
        }
        assert_eq!(by_code("99999", &at(Progress::changing)), None);
        for (progress, kind) in [
            (at(Progress::changing), Kind::Uncertain),
            (at(Progress::asking), Kind::Unreachable),
        ] {
            assert_eq!(by_code("57P02", &progress).unwrap().0, kind);
        }
    }
}
