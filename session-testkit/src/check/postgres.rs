//! The steps for Postgres.

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgRow};

use super::{Finding, Progress, ServerReport, Steps, Target};
use crate::{backends::chain, url::address};

const HEADING: &str = "[PostgresConnection] Testing Postgres connectivity...";

/// The first that has what the journal needs (`pg_current_xact_id`).
const OLDEST: i32 = 13;

/// The tables of session-layer, and what it does with each.
const TABLES: [(&str, &[&str]); 3] = [
    ("sessions", &["SELECT", "INSERT", "UPDATE"]),
    ("session_users", &["SELECT", "INSERT", "UPDATE"]),
    ("session_journal", &["SELECT"]),
];

pub(super) async fn check(target: &Target, tell: &mut dyn FnMut(Progress<'_>)) -> ServerReport {
    let url = target.database_url.as_deref();
    let mut steps = Steps::begin(HEADING, url, tell);
    match url {
        Some(url) if target.on_postgres() => look(&mut steps, target, url).await,
        None => {
            let message =
                "No DATABASE_URL: the application's SQLite file is used, nothing to check";
            steps.note("connect", embedded(target, message)).await;
        }
        Some(url) if url.starts_with("sqlite:") => {
            let message = format!("{url} is a file of the application's own, nothing to check");
            steps.note("connect", embedded(target, &message)).await;
        }
        Some(_) => {
            let finding = Finding::failed(
                "Postgres connection failed",
                "DATABASE_URL is neither postgres://… nor sqlite:…",
                "it must look like postgres://user:password@host:5432/database",
            );
            steps.note("connect", finding).await;
        }
    }
    steps.end("postgres")
}

/// A `sqlite:` database goes with the in-process cache only.
fn embedded(target: &Target, message: &str) -> Finding {
    if target.redis_url.is_none() {
        return Finding::skipped(message);
    }
    target.refused(
        message,
        "REDIS_URL goes with a postgres:// DATABASE_URL only: the application refuses to start with these two",
        "set DATABASE_URL to the Postgres that belongs to this Redis, or leave REDIS_URL out",
    )
}

async fn look(steps: &mut Steps<'_>, target: &Target, url: &str) {
    let late = |why: String| Finding::failed("Postgres connection failed", why, help(url));
    let connection = steps
        .take("connect", late, async {
            match PgConnection::connect(url).await {
                Ok(connection) => Ok((connection, Finding::ok("Postgres connection successful"))),
                Err(error) => Err(refused_connection(&error, url)),
            }
        })
        .await;
    let Some(mut connection) = connection else {
        return;
    };

    let failed = |why: String| Finding::failed("SELECT test failed", why, help(url));
    let selected = steps
        .take("select", failed, async {
            let answer: sqlx::Result<i32> = sqlx::query_scalar("SELECT 1")
                .fetch_one(&mut connection)
                .await;
            match answer {
                Ok(answer) => Ok(((), Finding::ok(format!("SELECT response: {answer}")))),
                Err(error) => Err(failed(chain(&error))),
            }
        })
        .await;
    if selected.is_none() {
        return;
    }
    server(steps, &mut connection).await;
    tables(steps, target, &mut connection).await;
}

/// Its version, its role, and whether a COMMIT is one.
async fn server(steps: &mut Steps<'_>, connection: &mut PgConnection) {
    let failed = |why: String| Finding::failed("Reading the server's state failed", why, SLOW);
    let state = "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, \
                 pg_is_in_recovery(), current_setting('synchronous_commit')";
    let found = steps
        .take("version", failed, async {
            let row: PgRow = sqlx::query(state)
                .fetch_one(&mut *connection)
                .await
                .map_err(|error| failed(chain(&error)))?;
            let read = || -> sqlx::Result<(String, i32, bool, String)> {
                Ok((
                    row.try_get(0)?,
                    row.try_get(1)?,
                    row.try_get(2)?,
                    row.try_get(3)?,
                ))
            };
            let (version, major, standby, commit) =
                read().map_err(|error| failed(chain(&error)))?;
            let finding = if major < OLDEST {
                Finding::failed(
                    &format!("Postgres version {version}"),
                    format!("{OLDEST} or later is needed"),
                    "upgrade Postgres",
                )
            } else {
                Finding::ok(format!("Postgres version {version}"))
            };
            Ok(((standby, commit), finding))
        })
        .await;
    let Some((standby, commit)) = found else {
        return;
    };
    let role = if standby {
        Finding::failed(
            "Role: standby",
            "this server is read-only, and may lag behind: it cannot say whether a session is still valid",
            "point DATABASE_URL at the primary",
        )
    } else {
        Finding::ok("Role: primary")
    };
    steps.note("role", role).await;
    if commit == "off" {
        let finding = Finding::warning(
            "synchronous_commit is off",
            "a crash of Postgres may bring revoked sessions back",
            "ALTER ROLE <user> SET synchronous_commit = on",
        );
        steps.note("commit", finding).await;
    }
}

/// The tables are there, may be used, and show all their rows.
async fn tables(steps: &mut Steps<'_>, target: &Target, connection: &mut PgConnection) {
    let schema = &target.schema;
    let message = format!("Schema {schema} not usable");
    let failed = |why: String| Finding::failed(&message, why, SLOW);
    let found = steps
        .take("schema", failed, async {
            let names: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
            // to_regclass needs no rights, but USAGE on the schema: without it the table is not found.
            let statement = "SELECT name, to_regclass(format('%I.%I', $1, name)) IS NOT NULL, \
                             EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) \
                             FROM unnest($2) AS name";
            let rows: Vec<(String, bool, bool)> = sqlx::query_as(statement)
                .bind(schema)
                .bind(&names)
                .fetch_all(&mut *connection)
                .await
                .map_err(|error| failed(chain(&error)))?;
            let missing: Vec<&str> = rows.iter().filter(|row| !row.1).map(|row| row.0.as_str()).collect();
            if rows.iter().any(|row| !row.2) {
                return Err(Finding::failed(
                    &format!("Schema {schema} is not there"),
                    "no migration has run on this database",
                    "start the application once with SESSION_DB_MIGRATE=true (the default), as a role that may \
                     CREATE on the database\nis SESSION_DB_SCHEMA right?",
                ));
            }
            if !missing.is_empty() {
                return Err(Finding::failed(
                    &format!("Schema {schema} is incomplete"),
                    format!("not found: {}", missing.join(", ")),
                    format!(
                        "start the application once with SESSION_DB_MIGRATE=true (the default)\n\
                         or GRANT USAGE ON SCHEMA {schema} to this role"
                    ),
                ));
            }
            Ok(((), Finding::ok(format!("Schema {schema} is there ({})", names.join(", ")))))
        })
        .await;
    if found.is_none() {
        return;
    }
    rights(steps, schema, connection).await;
    row_security(steps, schema, connection).await;
    journal(steps, connection).await;
}

async fn rights(steps: &mut Steps<'_>, schema: &str, connection: &mut PgConnection) {
    let failed = |why: String| Finding::failed("Rights on the tables missing", why, SLOW);
    let _granted = steps
        .take("rights", failed, async {
            let (names, rights): (Vec<&str>, Vec<&str>) = TABLES
                .iter()
                .flat_map(|(name, rights)| rights.iter().map(|right| (*name, *right)))
                .unzip();
            let statement = "SELECT name, privilege FROM unnest($2, $3) AS wanted(name, privilege) \
                             WHERE NOT has_table_privilege(format('%I.%I', $1, name)::regclass, privilege)";
            let lacking: Vec<(String, String)> = sqlx::query_as(statement)
                .bind(schema)
                .bind(&names)
                .bind(&rights)
                .fetch_all(connection)
                .await
                .map_err(|error| failed(chain(&error)))?;
            if lacking.is_empty() {
                return Ok(((), Finding::ok("Rights on the tables granted")));
            }
            let one = |(table, right): &(String, String)| format!("{right} on {table}");
            let list = lacking.iter().map(one).collect::<Vec<_>>().join(", ");
            Err(Finding::failed(
                "Rights on the tables missing",
                format!("not granted: {list}"),
                format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO <user>"),
            ))
        })
        .await;
}

async fn row_security(steps: &mut Steps<'_>, schema: &str, connection: &mut PgConnection) {
    let failed = |why: String| Finding::failed("Row-level security test failed", why, SLOW);
    let _all_seen = steps
        .take("row_security", failed, async {
            let names: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
            let statement = "SELECT name FROM unnest($2) AS name \
                             WHERE row_security_active(format('%I.%I', $1, name))";
            let hidden: Vec<String> = sqlx::query_scalar(statement)
                .bind(schema)
                .bind(&names)
                .fetch_all(connection)
                .await
                .map_err(|error| failed(chain(&error)))?;
            if hidden.is_empty() {
                return Ok(((), Finding::ok("Row-level security hides no rows")));
            }
            Err(Finding::failed(
                "Row-level security hides rows",
                format!("policies apply to this role on: {}", hidden.join(", ")),
                format!(
                    "every request would be answered 503, for a hidden session cannot be told from a revoked one\n\
                     ALTER TABLE {schema}.{} DISABLE ROW LEVEL SECURITY, or connect as a role with BYPASSRLS",
                    hidden[0]
                ),
            ))
        })
        .await;
}

/// What a read of the journal asks besides its rows: which server it is, and in which life.
async fn journal(steps: &mut Steps<'_>, connection: &mut PgConnection) {
    let failed = |why: String| Finding::failed("The journal of changes cannot be read", why, SLOW);
    let _read = steps
        .take("journal", failed, async {
            sqlx::query("SELECT system_identifier FROM pg_control_system()")
                .fetch_one(&mut *connection)
                .await
                .map_err(|error| {
                    Finding::failed(
                        "The journal of changes cannot be read",
                        chain(&error),
                        "no copy is believed, and Postgres answers every request\n\
                         GRANT EXECUTE ON FUNCTION pg_control_system() TO <user>",
                    )
                })?;
            let life = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END, \
                        (SELECT checkpoint_lsn FROM pg_control_checkpoint())";
            sqlx::query(life)
                .fetch_one(&mut *connection)
                .await
                .map_err(|error| {
                    Finding::warning(
                        "Postgres does not tell its timeline and its last checkpoint",
                        chain(&error),
                        "each new connection reads the journal of changes from its start, which costs Postgres a \
                         little more\n\
                         GRANT EXECUTE ON FUNCTION pg_current_wal_lsn(), pg_walfile_name(pg_lsn), \
                         pg_control_checkpoint() TO <user>, where it can be granted",
                    )
                })?;
            Ok(((), Finding::ok("The journal of changes can be read")))
        })
        .await;
}

const SLOW: &str = "Postgres accepts connections and does not answer: is it paused, recovering, or is a lock held (pg_stat_activity)?";

fn help(url: &str) -> String {
    let place = address(url).unwrap_or_else(|| "that address".to_owned());
    format!(
        "is Postgres running? (pg_isready -d \"$DATABASE_URL\")\n\
         is DATABASE_URL right? (it says {place})\n\
         is {place} reachable from here? (firewall, listen_addresses, container network, host name)"
    )
}

/// Postgres says by a SQLSTATE why it let nobody in.
fn refused_connection(error: &sqlx::Error, url: &str) -> Finding {
    let code = error
        .as_database_error()
        .and_then(|error| error.code().map(|code| code.into_owned()));
    let help = match code.as_deref() {
        Some("28P01" | "28000") => {
            "are user and password in DATABASE_URL right? does pg_hba.conf let them in from here?"
                .to_owned()
        }
        Some("3D000") => {
            "the database does not exist: CREATE DATABASE, or correct the name in DATABASE_URL"
                .to_owned()
        }
        Some("53300") => {
            "all connections are taken: raise max_connections, or make the pools smaller".to_owned()
        }
        Some("57P03") => {
            "the server is starting, stopping or recovering: try again in a moment".to_owned()
        }
        _ => help(url),
    };
    Finding::failed("Postgres connection failed", chain(error), help)
}
