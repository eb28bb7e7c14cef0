//! The steps for Postgres.

use session_layer::error::ServerUrlError;
use session_layer::server_url::ServerUrl;
use session_layer::store::PostgresStore;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgRow},
};

use super::{Database, Finding, Progress, ServerReport, Steps, Target};
use crate::backends::{chain, why_refused};

const HEADING: &str = "[PostgresConnection] Testing Postgres connectivity...";

/// The first version with `pg_current_xact_id`, which the journal needs.
const OLDEST: i32 = 13;

/// The tables of session-layer with the rights that it needs on each.
const TABLES: [(&str, &[&str]); 4] = [
    ("sessions", &["SELECT", "INSERT", "UPDATE"]),
    ("session_users", &["SELECT", "INSERT", "UPDATE"]),
    ("session_journal", &["SELECT"]),
    ("session_nodes", &["SELECT"]),
];

/// The functions of session-layer that need a grant.
const FUNCTIONS: [&str; 8] = [
    "this_life()",
    "begin_life()",
    "journal_page(pg_snapshot, xid8, bigint, bigint)",
    "purge_journal(interval)",
    "sweep_sessions(interval, integer)",
    "sweep_users(interval, text, integer)",
    "register_node(uuid, bytea, interval)",
    "forget_node(uuid)",
];

pub(super) async fn check(target: &Target, notify: &mut dyn FnMut(Progress<'_>)) -> ServerReport {
    let url = match &target.database {
        Database::Postgres(Ok(url)) => Some(url),
        _ => None,
    };
    let mut steps = Steps::begin(HEADING, url, notify);
    match &target.database {
        Database::Unset => {
            let message =
                "No DATABASE_URL: the application's SQLite file is used, nothing to check";
            steps.record("connect", embedded(target, message)).await;
        }
        Database::Sqlite => {
            let message =
                "DATABASE_URL is sqlite:, a file of the application's own, nothing to check";
            steps.record("connect", embedded(target, message)).await;
        }
        Database::Postgres(url) => match connect_options(url) {
            Ok((url, options)) => look(&mut steps, target, url, &options).await,
            Err(reason) => {
                let finding = Finding::failed(
                    "Postgres connection failed",
                    format!("DATABASE_URL is not usable: {reason}"),
                    "it must look like postgres://user:password@host:5432/database",
                );
                steps.record("connect", finding).await;
            }
        },
    }
    steps.end("postgres")
}

fn connect_options(
    url: &Result<ServerUrl, ServerUrlError>,
) -> Result<(&ServerUrl, PgConnectOptions), ServerUrlError> {
    let url = url.as_ref().map_err(ServerUrlError::clone)?;
    Ok((url, PostgresStore::connect_options(url)?))
}

/// Returns the finding for a database that goes with the in-process cache only.
fn embedded(target: &Target, message: &str) -> Finding {
    if target.redis.is_none() {
        return Finding::skipped(message);
    }
    target.unusable(
        message,
        "REDIS_URL goes with a postgres:// DATABASE_URL only. The application does not start \
         with these two",
        "set DATABASE_URL to the Postgres that belongs to this Redis, or leave REDIS_URL out",
    )
}

async fn look(steps: &mut Steps<'_>, target: &Target, url: &ServerUrl, options: &PgConnectOptions) {
    let late = |why: String| Finding::failed("Postgres connection failed", why, help(url));
    let connection = steps
        .take("connect", late, async {
            match PgConnection::connect_with(options).await {
                Ok(connection) => Ok((connection, Finding::ok("Postgres connection successful"))),
                Err(error) => Err(rejected_connection(&error, url)),
            }
        })
        .await;
    let Some(mut connection) = connection else {
        return;
    };

    let failed = |why: String| Finding::failed("SELECT test failed", why, help(url));
    let selected = steps
        .take("select", failed, async {
            let answer: sqlx::Result<i32> =
                sqlx::query_scalar("SELECT 1").fetch_one(&mut connection).await;
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

/// Checks the version, the role, and whether a COMMIT is durable.
async fn server(steps: &mut Steps<'_>, connection: &mut PgConnection) {
    let failed = |why: String| Finding::failed("Reading the server's state failed", why, SLOW);
    let state = "SELECT current_setting('server_version'), \
                 current_setting('server_version_num')::int / 10000, pg_is_in_recovery(), \
                 current_setting('synchronous_commit')";
    let found = steps
        .take("version", failed, async {
            let row: PgRow = sqlx::query(state)
                .fetch_one(&mut *connection)
                .await
                .map_err(|error| failed(chain(&error)))?;
            let read = || -> sqlx::Result<(String, i32, bool, String)> {
                Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))
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
            "this server is read-only and may lag behind, therefore it can't decide whether a \
             session is still valid",
            "point DATABASE_URL at the primary",
        )
    } else {
        Finding::ok("Role: primary")
    };
    steps.record("role", role).await;
    if commit == "off" {
        let finding = Finding::warning(
            "synchronous_commit is off",
            "a crash of Postgres may restore revoked sessions",
            "ALTER ROLE <user> SET synchronous_commit = on",
        );
        steps.record("commit", finding).await;
    }
}

/// Checks that the tables exist, are accessible, and show all their rows.
async fn tables(steps: &mut Steps<'_>, target: &Target, connection: &mut PgConnection) {
    let schema = &target.schema;
    let message = format!("Schema {schema} is not usable");
    let failed = |why: String| Finding::failed(&message, why, SLOW);
    let found = steps
        .take("schema", failed, async {
            let names: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
            // Unlike to_regclass, the catalog needs no USAGE on the schema.
            let statement = "SELECT name, EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON \
                               n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = name), \
                             EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) \
                             FROM unnest($2) AS name";
            let rows: Vec<(String, bool, bool)> = sqlx::query_as(statement)
                .bind(schema)
                .bind(&names)
                .fetch_all(&mut *connection)
                .await
                .map_err(|error| failed(chain(&error)))?;
            let missing: Vec<&str> =
                rows.iter().filter(|row| !row.1).map(|row| row.0.as_str()).collect();
            if rows.iter().any(|row| !row.2) {
                return Err(Finding::failed(
                    &format!("Schema {schema} does not exist"),
                    "no migration has run on this database",
                    "start the application once with SESSION_DB_MIGRATE=true (the default), as a \
                     role that may CREATE on the database\ncheck SESSION_DB_SCHEMA",
                ));
            }
            if !missing.is_empty() {
                return Err(Finding::failed(
                    &format!("Schema {schema} is incomplete"),
                    format!("not found: {}", missing.join(", ")),
                    "start the application once with SESSION_DB_MIGRATE=true (the default)",
                ));
            }
            Ok(((), Finding::ok(format!("Schema {schema} exists ({})", names.join(", ")))))
        })
        .await;
    if found.is_none() {
        return;
    }
    if usage(steps, schema, connection).await.is_none() {
        return;
    }
    rights(steps, schema, connection).await;
    row_security(steps, schema, connection).await;
    journal(steps, schema, connection).await;
}

/// Checks USAGE on the schema, which all other checks need.
async fn usage(steps: &mut Steps<'_>, schema: &str, connection: &mut PgConnection) -> Option<()> {
    let failed = |why: String| Finding::failed("Rights on the schema missing", why, SLOW);
    steps
        .take("usage", failed, async {
            let statement = "SELECT current_user::text, has_schema_privilege($1, 'USAGE')";
            let (role, granted): (String, bool) = sqlx::query_as(statement)
                .bind(schema)
                .fetch_one(connection)
                .await
                .map_err(|error| failed(chain(&error)))?;
            if granted {
                return Ok(((), Finding::ok("Rights on the schema granted")));
            }
            Err(Finding::failed(
                "Rights on the schema missing",
                "not granted: USAGE",
                format!(
                    "as the owner of the tables, run\n{}",
                    session_layer::store::grants(schema, &role)
                ),
            ))
        })
        .await
}

async fn rights(steps: &mut Steps<'_>, schema: &str, connection: &mut PgConnection) {
    let failed = |why: String| Finding::failed("Rights on the tables missing", why, SLOW);
    let _granted = steps
        .take("rights", failed, async {
            let (names, rights): (Vec<&str>, Vec<&str>) = TABLES
                .iter()
                .flat_map(|(name, rights)| rights.iter().map(|right| (*name, *right)))
                .unzip();
            let statement = "SELECT name, privilege FROM unnest($2, $3) AS needed(name, privilege) \
                             WHERE NOT has_table_privilege(format('%I.%I', $1, name)::regclass, \
                             privilege)";
            let missing: Vec<(String, String)> = sqlx::query_as(statement)
                .bind(schema)
                .bind(&names)
                .bind(&rights)
                .fetch_all(&mut *connection)
                .await
                .map_err(|error| failed(chain(&error)))?;
            let statement = "SELECT name FROM unnest($2) AS name WHERE NOT coalesce( \
                             has_function_privilege(to_regprocedure(format('%I.%s', $1, name)), \
                             'EXECUTE'), false)";
            let functions: Vec<String> = sqlx::query_scalar(statement)
                .bind(schema)
                .bind(FUNCTIONS)
                .fetch_all(&mut *connection)
                .await
                .map_err(|error| failed(chain(&error)))?;
            let tables = missing.iter().map(|(table, right)| format!("{right} on {table}"));
            let functions = functions.iter().map(|function| format!("EXECUTE on {function}"));
            let list = tables.chain(functions).collect::<Vec<_>>().join(", ");
            if list.is_empty() {
                return Ok(((), Finding::ok("Rights on the tables granted")));
            }
            let role: String = sqlx::query_scalar("SELECT current_user::text")
                .fetch_one(connection)
                .await
                .map_err(|error| failed(chain(&error)))?;
            Err(Finding::failed(
                "Rights on the tables missing",
                format!("not granted: {list}"),
                format!(
                    "as the owner of the tables, run\n{}",
                    session_layer::store::grants(schema, &role)
                ),
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
                    "every request would get 503, because a hidden session looks like \
                     a deleted one\nALTER TABLE {schema}.{} DISABLE ROW LEVEL SECURITY, or connect \
                     as a role with BYPASSRLS",
                    hidden[0]
                ),
            ))
        })
        .await;
}

/// Checks a read of the journal.
async fn journal(steps: &mut Steps<'_>, schema: &str, connection: &mut PgConnection) {
    let failed = |why: String| Finding::failed("The journal of changes cannot be read", why, SLOW);
    let _read = steps
        .take("journal", failed, async {
            // The catalog contained the schema's name.
            let page = format!("SELECT count(*) FROM \"{schema}\".journal_page(NULL, '0', 0, 1)");
            sqlx::query(AssertSqlSafe(page)).fetch_one(&mut *connection).await.map_err(
                |error| {
                    Finding::failed(
                        "The journal of changes cannot be read",
                        chain(&error),
                        "no entry is served, and Postgres validates every request\n\
                         start the application once with SESSION_DB_MIGRATE=true (the default)",
                    )
                },
            )?;
            Ok(((), Finding::ok("The journal of changes can be read")))
        })
        .await;
}

const SLOW: &str = "Postgres accepts connections and does not respond. Check whether it is \
                    paused, recovering, or waiting for a lock (pg_stat_activity)";

fn help(url: &ServerUrl) -> String {
    let place = url.address().unwrap_or_else(|| "that address".to_owned());
    format!(
        "check that Postgres is running (pg_isready -d \"$DATABASE_URL\")\n\
         check DATABASE_URL, which names {place}\n\
         check that {place} is reachable from here (firewall, listen_addresses, container network, \
         host name)"
    )
}

/// Chooses the remedy by the SQLSTATE of a rejected connection.
fn rejected_connection(error: &sqlx::Error, url: &ServerUrl) -> Finding {
    let code =
        error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
    let help = match code.as_deref() {
        Some("28P01" | "28000") => {
            "check user and password in DATABASE_URL, and that pg_hba.conf permits them from here"
                .to_owned()
        }
        Some("3D000") => {
            "the database does not exist: CREATE DATABASE, or correct the name in DATABASE_URL"
                .to_owned()
        }
        Some("53300") => {
            "all connections are in use: raise max_connections, or make the pools smaller"
                .to_owned()
        }
        Some("57P03") => {
            "the server is starting, stopping or recovering: try again in a moment".to_owned()
        }
        _ => help(url),
    };
    Finding::failed("Postgres connection failed", why_refused(error), help)
}
