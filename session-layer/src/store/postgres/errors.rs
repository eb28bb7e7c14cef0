//! Mapping of sqlx's errors to store errors, by SQLSTATE, and by text only where a pooler may have
//! sent it.

use std::error::Error as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::model::error::{StoreError, StoreErrorKind as Kind};

/// The progress of a call. If the connection is lost after a change was sent and before its reply,
/// it is unknown whether the change was made.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

const CONNECTING: u8 = 0;
const READING: u8 = 1;
const BEGUN: u8 = 2;
const CHANGING: u8 = 3;

impl Progress {
    /// Records that the call waits for a connection.
    pub(super) fn connecting(&self) {
        self.0.store(CONNECTING, Ordering::Relaxed);
    }

    /// Records that the call has a connection, and no change is in flight.
    pub(super) fn reading(&self) {
        self.0.store(READING, Ordering::Relaxed);
    }

    /// Records that the next statement may change something.
    pub(super) fn changing(&self) {
        self.0.store(CHANGING, Ordering::Relaxed);
    }

    /// Records that the next statements are a transaction that changes something. Nothing is
    /// changed before its COMMIT.
    pub(super) fn begun(&self) {
        self.0.store(BEGUN, Ordering::Relaxed);
    }

    /// Records that the COMMIT of a transaction follows. If it only reads, nothing is at stake.
    pub(super) fn committing(&self) {
        let _ = self.0.compare_exchange(BEGUN, CHANGING, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn is(&self, stage: u8) -> bool {
        self.0.load(Ordering::Relaxed) == stage
    }
}

/// Returns the error for a reply that missed the deadline.
pub(super) fn timed_out(progress: &Progress, deadline: Duration) -> StoreError {
    let (kind, message) = if progress.is(CHANGING) {
        (
            Kind::Uncertain,
            format!(
                "Postgres did not reply to a change within {deadline:?}: it may have been \
                 committed, try again"
            ),
        )
    } else if progress.is(CONNECTING) {
        return super::connect_error::no_connection(deadline, None);
    } else {
        (
            Kind::TimedOut,
            format!(
                "Postgres did not reply within {deadline:?}: it is stopped, overloaded or far \
                 away, or a lock is held (see pg_stat_activity)"
            ),
        )
    };
    StoreError::new(kind, message)
}

/// Returns the error for a failed statement, given whether a change was in flight.
pub(super) fn of_statement(error: sqlx::Error, progress: &Progress) -> StoreError {
    let (kind, message) = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            if code == DENIED {
                return denied(error, None);
            }
            if progress.is(CHANGING) && !rules_out_commit(&code, is_fatal(&**database)) {
                let message = format!(
                    "Postgres, or a pooler before it, reported {code} instead of the result of a \
                     change: it may have been committed, try again"
                );
                return StoreError::new(Kind::Uncertain, message).with_source(error);
            }
            let Some((kind, message)) = of_reply(&code, &**database) else {
                let (kind, what) = match is_fatal(&**database) {
                    true => (Kind::Unreachable, "or a pooler before it, ended the connection"),
                    false => (Kind::Other, "reported an error"),
                };
                let message = format!("Postgres {what} ({code})");
                return StoreError::new(kind, message).with_source(error);
            };
            if kind == Kind::Input {
                let message = format!("{message} ({code})");
                return StoreError::new(kind, message).with_source(error);
            }
            (kind, message)
        }
        _ if progress.is(CHANGING) => (
            Kind::Uncertain,
            "the connection to Postgres was lost before the reply to a change: it may have been \
             committed, try again",
        ),
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::Decode(_) => return super::rows::unexpected(error),
        _ => (Kind::Unreachable, "the connection to Postgres was lost before its reply: try again"),
    };
    StoreError::new(kind, message).with_source(error)
}

const READ_ONLY: &str = "Postgres is read-only (a replica, or default_transaction_read_only): \
                         point DATABASE_URL at the primary";

/// Returns the error for a server that rejects every change.
pub(super) fn read_only() -> StoreError {
    StoreError::new(Kind::Denied, READ_ONLY)
}

/// Returns the error for a read of a replica.
pub(super) fn in_recovery() -> StoreError {
    StoreError::new(
        Kind::NotAuthoritative,
        "this Postgres server is a replica in recovery and may lag: point DATABASE_URL at the \
         primary",
    )
}

/// `insufficient_privilege`, the only code of a missing right.
pub(super) const DENIED: &str = "42501";

/// Returns whether the cause is a value in a row that was read, rather than the server. The value
/// cannot be converted (class 22), is too large (class 54), or is damaged.
pub(super) fn is_of_a_row(error: &StoreError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref());
    let Some(sqlx::Error::Database(refused)) = source else {
        return false;
    };
    let code = refused.code().unwrap_or_default();
    code == "XX001" || code.starts_with("54") || code.starts_with("22") && code != MIXED_UP
}

/// `protocol_violation`, which `PgBouncer` sends for every error of its own.
const POOLERS: &str = "08P01";

/// `invalid_binary_representation`, which means that a pooler mixed up statements.
const MIXED_UP: &str = "22P03";

/// Returns whether Postgres reports that our role lacks a right.
pub(super) fn is_denied_right(error: &sqlx::Error) -> bool {
    has_code(error, &[DENIED])
}

/// Returns whether Postgres reports that a table of ours, or its schema, does not exist.
pub(super) fn is_missing_table(error: &sqlx::Error) -> bool {
    has_code(error, &["42P01", "3F000"])
}

/// Returns the error for a missing right. Only the text from Postgres names the object: a table,
/// the schema, a function. `of` is our role and schema, if they are known.
pub(super) fn denied(error: sqlx::Error, of: Option<(&str, &str)>) -> StoreError {
    let what =
        error.as_database_error().map_or_else(String::new, |refused| refused.message().to_owned());
    let (role, schema) = of.unzip();
    let named = role.map_or_else(String::new, |role| format!(" {role}"));
    let grants = super::schema::grants(schema.unwrap_or("…"), role.unwrap_or("…"));
    let message =
        format!("our role{named} lacks a right ({what}): as the owner of the tables, run {grants}");
    StoreError::new(Kind::Denied, message).with_source(error)
}

/// The classes of an ERROR with which Postgres has rolled the statement back.
const ROLLED_BACK: &str = "03 09 0A 0B 0F 0L 0P 0Z 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 38 39 3B \
     3D 3F 40 42 44 53 54 55 57 72 F0 HV P0";

/// Returns whether a change that was sent is certainly not committed, given the error that came
/// instead of its result (decision 093).
///
/// An ERROR is the result of the statement: Postgres has rolled it back. The exceptions are the
/// classes 08, 58 and XX, and those that Postgres does not have, because poolers report failures of
/// their own with them. 40003 itself states that the result is unknown. 08P01 as an ERROR is
/// Postgres' code for parameters that do not fit a prepared statement.
///
/// A FATAL or PANIC is about the connection. A crash, or a pooler that loses its server, may cause
/// it after the commit. With the codes listed here, the connection ends before or instead of the
/// statement.
fn rules_out_commit(code: &str, is_fatal: bool) -> bool {
    let class = code.get(..2).unwrap_or_default();
    if is_fatal {
        let before = ["25P03", "25P04", "3D000", "53300", "57P01", "57P03", "57P04", "57P05"];
        return class == "28" || before.contains(&code);
    }
    code == POOLERS || code != "40003" && ROLLED_BACK.split(' ').any(|listed| listed == class)
}

/// Returns the meaning of a SQLSTATE, or `None` for an unknown one, which is then shown itself.
pub(super) fn by_code(code: &str) -> Option<(Kind, &'static str)> {
    let known = match code {
        "57P01" | "57P02" | "57P05" | "25P03" => (
            Kind::Unreachable,
            "Postgres closed the connection (a restart, or pg_terminate_backend)",
        ),
        "57P03" => (Kind::Unreachable, "Postgres is starting up or shutting down: wait for it"),
        "53300" => (
            Kind::Unreachable,
            "Postgres has no connection left for our role (53300): raise max_connections, the \
             role's or the database's CONNECTION LIMIT, or lower max_connections of the pools that \
             use it",
        ),
        "57014" => (
            Kind::TimedOut,
            "Postgres cancelled the statement and nothing was changed: it is overloaded or a lock \
             is held (statement_timeout), or an administrator cancelled it",
        ),
        "55P03" => (
            Kind::TimedOut,
            "a lock was held for too long (lock_timeout), and nothing was changed: find its holder \
             in pg_locks",
        ),
        "25006" => (Kind::Denied, READ_ONLY),
        "28000" | "28P01" => (
            Kind::Denied,
            "Postgres rejected our user or password: check DATABASE_URL, DATABASE_PASSWORD_FILE \
             and pg_hba.conf",
        ),
        "3D000" => (Kind::Schema, "the database of DATABASE_URL does not exist: create it"),
        "42P01" | "3F000" | "42703" | "42883" | "42704" => (
            Kind::Schema,
            "our tables are missing or out of date: run the migrations (SESSION_DB_MIGRATE=true, \
             or PostgresStore::migrate) on this schema, in Postgres 13 or newer",
        ),
        "40001" | "40P01" => (
            Kind::Other,
            "Postgres rolled back the statement at each try because of concurrent ones \
             (serialization or deadlock): try again",
        ),
        // This is definite, and not caused by the statement. No working connection can be had.
        MIXED_UP => (
            Kind::Unreachable,
            "Postgres rejects the parameters of a prepared statement. A pooler in transaction mode \
             (such as PgBouncer) is in between: set SESSION_DB_POOLED=true, or \
             PostgresStoreBuilder::pooled(true)",
        ),
        "22021" | "22P05" => (
            Kind::Input,
            "a text has a character that the database's encoding lacks: leave it out, or use a \
             database with the encoding UTF8",
        ),
        code if code.starts_with("22") => {
            (Kind::Input, "Postgres rejects a value as malformed or out of range: pass another one")
        }
        code if code.starts_with("23") => (
            Kind::Input,
            "a constraint on our tables rejects a value: pass another one, or change the \
             constraint, which the error's source names",
        ),
        code if code.starts_with("54") => {
            (Kind::Input, "a value exceeds a limit of Postgres: pass a smaller one")
        }
        "26000" | "42P05" => (
            Kind::Unreachable,
            "a prepared statement is gone, or its name is taken. Either a pooler in transaction \
             mode (such as PgBouncer) is in between: set SESSION_DB_POOLED=true, or \
             PostgresStoreBuilder::pooled(true). Or a hook of the pool runs DEALLOCATE or DISCARD: \
             remove it",
        ),
        "53100" => (
            Kind::Denied,
            "Postgres' disk is full (53100), and nothing was changed: free space there (its log, \
             old WAL, an unused replication slot)",
        ),
        "53200" => (
            Kind::Other,
            "Postgres is out of memory (53200), and nothing was changed: check its log, \
             max_connections and work_mem",
        ),
        _ => return None,
    };
    Some(known)
}

/// Returns the meaning of a reply to a statement.
fn of_reply(code: &str, reply: &dyn DatabaseError) -> Option<(Kind, &'static str)> {
    // As an ERROR, it is Postgres' code for parameters that do not fit the statement.
    let code = if code == POOLERS && !is_fatal(reply) { MIXED_UP } else { code };
    let class = code.get(..2).unwrap_or_default();
    // A trigger of an operator may have any text.
    let may_be_a_poolers = is_fatal(reply) || ["08", "58", "XX"].contains(&class);
    by_code(code).or_else(|| super::pooler::meaning(reply.message()).filter(|_| may_be_a_poolers))
}

/// Returns whether a pooler mixed up prepared statements. Only a setting changes that.
pub(super) fn is_mixed_up(error: &sqlx::Error) -> bool {
    has_code(error, &[MIXED_UP, "26000", "42P05"])
        || has_code(error, &[POOLERS]) && !ends_connection(error)
}

/// Returns whether a concurrent transaction caused a rollback (`serialization_failure`,
/// `deadlock_detected`).
pub(super) fn is_rolled_back(error: &sqlx::Error) -> bool {
    has_code(error, &["40001", "40P01"])
}

/// Returns whether the server closed the connection, and says so: before the statement, or with a
/// rollback of it.
pub(super) fn is_closed_by_server(error: &sqlx::Error) -> bool {
    has_code(error, &["57P01", "57P05", "25P03"])
}

/// Returns whether the server, the database or the role has no connection left
/// (`too_many_connections`).
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    has_code(error, &["53300"])
}

fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(|refused| refused.code());
    code.is_some_and(|code| codes.contains(&&*code))
}

/// Returns whether the server is read-only.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    has_code(error, &["25006"])
}

/// Returns whether the connection is unusable after this error.
pub(super) fn ends_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => is_fatal(&**database),
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::RowNotFound => false,
        _ => true,
    }
}

/// Returns whether the error ends the connection.
fn is_fatal(error: &dyn DatabaseError) -> bool {
    error
        .try_downcast_ref::<PgDatabaseError>()
        .is_none_or(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;

    fn at(set: fn(&Progress)) -> Progress {
        let progress = Progress::default();
        set(&progress);
        progress
    }

    #[test]
    fn lost_connection_is_uncertain_only_after_a_change_was_sent() {
        let lost = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let long = Duration::from_secs(1);
        for (progress, on_loss, on_silence) in [
            (at(Progress::connecting), Kind::Unreachable, Kind::Unreachable),
            (at(Progress::reading), Kind::Unreachable, Kind::TimedOut),
            (at(Progress::changing), Kind::Uncertain, Kind::Uncertain),
        ] {
            assert_eq!(of_statement(lost(), &progress).kind(), on_loss);
            assert_eq!(timed_out(&progress, long).kind(), on_silence);
        }
    }

    #[test]
    fn reply_to_a_change_is_definite_only_if_it_excludes_the_commit() {
        for code in [
            // Values from the caller, and constraints.
            "22003", "22021", "22P02", "22P05", "23505", "23514", "54000", "54001",
            // What Postgres cancelled or rolled back.
            "25006", "40001", "40P01", "53100", "53200", "55P03", "57014", "P0001",
            // Tables and rights, and statements mixed up by a pooler.
            "3F000", "42501", "42601", "42P01", "08P01", "22P03", "26000", "42P05",
        ] {
            assert!(rules_out_commit(code, false), "{code}");
        }
        for code in ["57P01", "57P03", "57P05", "25P03", "53300", "28P01", "3D000"] {
            assert!(rules_out_commit(code, true), "{code}");
        }
        for code in ["08006", "08007", "40003", "58000", "58030", "XX000", "99999", "UE001", ""] {
            assert!(!rules_out_commit(code, false) && !rules_out_commit(code, true), "{code}");
        }
        // PgBouncer sends 08P01 if its server is gone. A crash ends every connection with 57P02.
        for code in ["08P01", "57P02", "53200", "26000"] {
            assert!(!rules_out_commit(code, true), "{code}");
        }
    }

    #[test]
    fn transaction_is_at_stake_from_its_commit_on() {
        let lost = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let progress = at(Progress::begun);
        assert_eq!(of_statement(lost(), &progress).kind(), Kind::Unreachable);
        assert_eq!(timed_out(&progress, Duration::from_secs(1)).kind(), Kind::TimedOut);
        progress.committing();
        assert_eq!(of_statement(lost(), &progress).kind(), Kind::Uncertain);
        let reading = at(Progress::reading);
        reading.committing();
        assert_eq!(of_statement(lost(), &reading).kind(), Kind::Unreachable);
    }

    #[test]
    fn each_code_has_its_kind() {
        for (code, kind) in [
            ("57P01", Kind::Unreachable),
            ("57P02", Kind::Unreachable),
            ("57P03", Kind::Unreachable),
            ("53300", Kind::Unreachable),
            ("57014", Kind::TimedOut),
            ("55P03", Kind::TimedOut),
            ("25006", Kind::Denied),
            ("42P01", Kind::Schema),
            ("3F000", Kind::Schema),
            ("53100", Kind::Denied),
            ("53200", Kind::Other),
            ("26000", Kind::Unreachable),
            ("42P05", Kind::Unreachable),
            // Values from the caller.
            ("22P05", Kind::Input),
            ("22021", Kind::Input),
            ("22003", Kind::Input),
            ("22P02", Kind::Input),
            ("23514", Kind::Input),
            ("54001", Kind::Input),
            ("54000", Kind::Input),
            // Statements mixed up by a pooler.
            ("22P03", Kind::Unreachable),
        ] {
            assert_eq!(by_code(code).unwrap().0, kind, "{code}");
        }
        assert_eq!(by_code("99999"), None);
    }
}
