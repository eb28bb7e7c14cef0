//! The steps for Postgres.

use std::time::Duration;

use session_layer::TokenDigest;
use session_layer::defaults::DEFAULT_VALIDATION_TIMEOUT;
use session_layer::server_url::ServerUrl;
use session_layer::store::{PostgresStore, PostgresStoreBuilder, SessionStore as _};
use session_layer::{ConfigError, Sessions, error::StoreError};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::{Instant, sleep};

use super::{DEADLINE, Database, Finding, Problem, Steps, Target, millis, settings};
use crate::chain;

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
const FUNCTIONS: [&str; 9] = [
    "this_life()",
    "begin_life()",
    "journal_page(pg_snapshot, xid8, bigint, bigint)",
    "purge_journal(interval)",
    "sweep_sessions(interval, integer)",
    "erase_sessions(text, integer)",
    "sweep_users(interval, text, integer)",
    "register_node(uuid, bytea, interval)",
    "forget_node(uuid)",
];

/// Returns the URL, if it is usable.
pub(super) fn url(target: &Target) -> Option<&ServerUrl> {
    match &target.database {
        Database::Postgres(Ok(url)) => Some(url),
        _ => None,
    }
}

pub(super) async fn check(target: &Target, steps: &mut Steps<'_>) {
    let finding = match &target.database {
        Database::Unset => embedded(
            target,
            "No DATABASE_URL: the application's SQLite file is used, nothing to check",
        ),
        Database::Sqlite => embedded(
            target,
            "DATABASE_URL is sqlite:, a file of the application's own, nothing to check",
        ),
        Database::Postgres(Ok(url)) => {
            let built = builder(target, url).and_then(|builder| {
                let settings = settings("Settings", &builder);
                // A connection that the application opens in advance may take longer than a read.
                let patient = builder.read_deadline(DEADLINE);
                Ok((settings, patient.build().map_err(|error| refused(&error))?))
            });
            match built {
                Ok((settings, store)) => {
                    look(steps, target, url, &store).await;
                    steps.record("settings", settings);
                    if let Some(finding) = environment(target) {
                        steps.record("environment", finding);
                    }
                    return;
                }
                Err(finding) => finding,
            }
        }
        Database::Postgres(Err(reason)) => unusable(&reason.to_string()),
    };
    steps.record("connect", finding);
}

fn unusable(reason: &str) -> Finding {
    Finding::failed(
        "Postgres connection failed",
        format!("DATABASE_URL is not usable: {reason}"),
        "it must look like postgres://user:password@host:5432/database",
    )
}

/// Returns the application's store with this target's settings.
fn builder(target: &Target, url: &ServerUrl) -> Result<PostgresStoreBuilder, Finding> {
    let builder = PostgresStore::builder(url.expose_all());
    let builder = if target.from_env { builder.from_env() } else { Ok(builder) };
    Ok(builder.map_err(|error| refused(&error))?.schema(&*target.schema))
}

/// Returns the settings of the handle, or the error with which the application does not start.
fn environment(target: &Target) -> Option<Finding> {
    let started = if target.complete { Sessions::check_env() } else { Ok(()) };
    match started.and_then(|()| target.handle()) {
        Ok(handle) => Some(settings("Settings of sessions", &handle?)),
        Err(error) => Some(Finding::failed(
            "The application does not start with these settings",
            error.to_string(),
            "correct the variable",
        )),
    }
}

fn refused(error: &ConfigError) -> Finding {
    let remedy = "correct the variable: the application does not start with it";
    Finding::failed("Postgres settings are not usable", error.to_string(), remedy)
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

async fn look(steps: &mut Steps<'_>, target: &Target, url: &ServerUrl, store: &PostgresStore) {
    let help = help(url);
    let connecting = async {
        // The reason names the cause and what to do about it.
        let failed = |error: StoreError| {
            Finding::failed("Postgres connection failed", chain(&error), REMEDY_IS_IN_REASON)
        };
        let mut connection = store.connect().await.map_err(failed)?;
        // Behind a pooler, statements stay on one server within a transaction.
        sqlx::query("BEGIN READ ONLY").persistent(false).execute(&mut connection).await?;
        Ok((connection, Finding::ok("Postgres connection successful")))
    };
    let failed = ("Postgres connection failed", help.as_str());
    let Some(mut connection) = steps.take("connect", failed, connecting).await else {
        return;
    };
    let connection = &mut connection;
    let select = async {
        let answer: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut *connection).await?;
        Ok(Finding::ok(format!("SELECT response: {answer}")))
    };
    if !steps.check("select", ("SELECT test failed", &help), select).await {
        return;
    }
    server(steps, connection).await;
    for remark in store.remarks() {
        steps.record(
            "remark",
            Finding::warning("Postgres settings are risky", remark, REMEDY_IS_IN_REASON),
        );
    }

    let schema = target.schema.as_str();
    let message = format!("Schema {schema} is not usable");
    if !steps.check("schema", (&message, SLOW), tables(schema, connection)).await {
        return;
    }
    let failed = ("Rights on the schema missing", SLOW);
    if !steps.check("usage", failed, usage(schema, connection)).await {
        return;
    }
    let failed = ("Rights on the tables missing", SLOW);
    steps.check("rights", failed, rights(schema, connection)).await;
    let failed = ("Row-level security test failed", SLOW);
    steps.check("row_security", failed, row_security(schema, connection)).await;
    let help = "no entry is served, and Postgres validates every request\n\
                start the application once with SESSION_DB_MIGRATE=true (the default)";
    let failed = ("The journal of changes cannot be read", help);
    if steps.check("journal", failed, journal(schema, connection)).await {
        let failed = ("The application's statements fail", SLOW);
        if steps.check("statements", failed, statements(store)).await {
            let failed = ("A login and a logout fail", SLOW);
            steps.check("session", failed, session(schema, connection)).await;
            let failed = ("Postgres is too slow to be used", SLOW);
            steps.check("speed", failed, speed(target, url)).await;
        }
    }
    store.close().await;
}

/// Executes what a validation and a logout execute, for a session that does not exist. The logout
/// writes, so it fails on a read-only server.
async fn statements(store: &PostgresStore) -> Result<Finding, Problem> {
    let failed = |error: StoreError| {
        let why = chain(&error);
        Finding::failed("The application's statements fail", why, REMEDY_IS_IN_REASON)
    };
    let digest = TokenDigest::of(&uuid::Uuid::new_v4().to_string());
    store.load(&[digest]).await.map_err(failed)?;
    store
        .revoke(&session_layer::store::Target::Token(digest), &"check".into())
        .await
        .map_err(failed)?;
    Ok(Finding::ok("The application's statements work (a validation and a logout of no session)"))
}

/// Reads as a validation does, with the application's deadlines. A connection may have to be opened
/// first, therefore the read is tried again.
async fn speed(target: &Target, url: &ServerUrl) -> Result<Finding, Problem> {
    const PATIENCE: Duration = Duration::from_millis(1_500);
    const PAUSE: Duration = Duration::from_millis(20);
    let handle = target.handle().map_err(|error| refused(&error))?;
    let budget = handle.map_or(DEFAULT_VALIDATION_TIMEOUT, |it| it.validation_timeout);
    let store = builder(target, url)?.build()?;
    let digest = TokenDigest::of(&uuid::Uuid::new_v4().to_string());
    let end = Instant::now() + PATIENCE;
    let finding = loop {
        let begun = Instant::now();
        let why = match store.load(&[digest]).await {
            Ok(_) if begun.elapsed() <= budget => {
                let took = millis(begun.elapsed(), 10.0);
                break Finding::ok(format!("A validation by Postgres takes {took} ms"));
            }
            Ok(_) => format!(
                "a read takes {} ms, and a validation may take {} ms",
                millis(begun.elapsed(), 10.0),
                budget.as_millis()
            ),
            Err(error) => chain(&error),
        };
        if Instant::now() >= end {
            let message = "Postgres is too slow to be used";
            break Finding::failed(message, format!("{why}. Misses get 503"), CLOSER);
        }
        sleep(PAUSE).await;
    };
    store.close().await;
    Ok(finding)
}

/// Creates a session, reads it and ends it, in a transaction that is rolled back. A full disk, or a
/// trigger or constraint of an operator, fails only here.
async fn session(schema: &str, connection: &mut PgConnection) -> Result<Finding, Problem> {
    let token = uuid::Uuid::new_v4().simple().to_string();
    let is_it = format!("token_digest = sha256('{token}'::bytea)");
    // One message: a pooler in transaction mode keeps it on one server. It first ends the
    // transaction that only reads. The catalog contained the schema's name.
    let all = format!(
        "ROLLBACK; BEGIN; \
         INSERT INTO \"{schema}\".session_users (user_id) VALUES ('check-{token}'); \
         INSERT INTO \"{schema}\".sessions (token_digest, user_id, expires_at) \
         VALUES (sha256('{token}'::bytea), 'check-{token}', now() + interval '1 minute'); \
         SELECT count(*) FROM \"{schema}\".sessions WHERE {is_it}; \
         UPDATE \"{schema}\".sessions SET revoked_at = now() WHERE {is_it}; \
         SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK"
    );
    sqlx::raw_sql(AssertSqlSafe(all)).execute(connection).await?;
    Ok(Finding::ok("A session was created, read and revoked (rolled back)"))
}

/// The settings that the application sends with a connection, unless it is pooled: the name, the
/// value of a role that lacks it, and what it should be.
const OF_A_CONNECTION: [(&str, &str, &str); 3] = [
    ("statement_timeout", "0", "'1500ms'"),
    ("lock_timeout", "0", "'1s'"),
    ("row_security", "on", "off"),
];

/// Checks the version, the role, its settings, and whether a COMMIT is durable.
async fn server(steps: &mut Steps<'_>, connection: &mut PgConnection) {
    let state = "SELECT current_setting('server_version'), \
                 current_setting('server_version_num')::int / 10000, pg_is_in_recovery(), \
                 current_setting('synchronous_commit'), current_user::text, \
                 ARRAY(SELECT name FROM unnest($1, $2) AS lacks(name, value) \
                       WHERE current_setting(name) = value)";
    let read = async {
        let (names, values): (Vec<&str>, Vec<&str>) =
            OF_A_CONNECTION.iter().map(|(name, value, _)| (*name, *value)).unzip();
        let row = sqlx::query_as(state).bind(names).bind(values).fetch_one(connection).await?;
        let (version, major, standby, commit, user, lacking): ServerState = row;
        let message = format!("Postgres version {version}");
        let finding = if major < OLDEST {
            Finding::failed(&message, format!("{OLDEST} or later is needed"), "upgrade Postgres")
        } else {
            Finding::ok(message)
        };
        Ok(((standby, commit, user, lacking), finding))
    };
    let failed = ("Reading the server's state failed", SLOW);
    let Some((standby, commit, user, lacking)) = steps.take("version", failed, read).await else {
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
    steps.record("role", role);
    if !lacking.is_empty() {
        steps.record("limits", lacking_settings(&user, &lacking));
    }
    if commit == "off" {
        let finding = Finding::warning(
            "synchronous_commit is off",
            "a crash of Postgres may restore revoked sessions",
            "ALTER ROLE <user> SET synchronous_commit = on",
        );
        steps.record("commit", finding);
    }
}

/// The version and its major number, whether it is a standby, `synchronous_commit`, our role, and
/// what its connection lacks of [`OF_A_CONNECTION`].
type ServerState = (String, i32, bool, String, String, Vec<String>);

fn lacking_settings(user: &str, lacking: &[String]) -> Finding {
    let lacks = |name: &str| lacking.iter().any(|it| it == name);
    let of_the_role = OF_A_CONNECTION.iter().filter(|(name, ..)| lacks(name));
    let user = user.replace('"', "\"\"");
    let lines = of_the_role.map(|(name, _, to)| format!("ALTER ROLE \"{user}\" SET {name} = {to}"));
    Finding::warning(
        &format!("A pooled connection lacks settings of its role: {}", lacking.join(", ")),
        "a node with SESSION_DB_POOLED does not send them. Postgres then continues a statement \
         that the application has given up, and policies may hide rows",
        lines.collect::<Vec<_>>().join("\n"),
    )
}

fn table_names() -> [&'static str; TABLES.len()] {
    TABLES.map(|(name, _)| name)
}

/// Checks that the tables exist.
async fn tables(schema: &str, connection: &mut PgConnection) -> Result<Finding, Problem> {
    // Unlike to_regclass, the catalog needs no USAGE on the schema.
    let statement = "SELECT name, EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON \
                       n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = name), \
                     EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) \
                     FROM unnest($2) AS name";
    let rows = sqlx::query_as(statement).bind(schema).bind(table_names());
    let rows: Vec<(String, bool, bool)> = rows.fetch_all(connection).await?;
    if rows.iter().any(|(_, _, schema_exists)| !schema_exists) {
        return Err(Finding::failed(
            &format!("Schema {schema} does not exist"),
            "no migration has run on this database",
            "start the application once with SESSION_DB_MIGRATE=true (the default), as a role that \
             may CREATE on the database\ncheck SESSION_DB_SCHEMA",
        )
        .into());
    }
    let missing = rows.iter().filter(|(_, exists, _)| !exists).map(|(name, _, _)| name.as_str());
    let missing: Vec<&str> = missing.collect();
    if !missing.is_empty() {
        return Err(Finding::failed(
            &format!("Schema {schema} is incomplete"),
            format!("not found: {}", missing.join(", ")),
            "start the application once with SESSION_DB_MIGRATE=true (the default)",
        )
        .into());
    }
    Ok(Finding::ok(format!("Schema {schema} exists ({})", table_names().join(", "))))
}

/// Returns the finding for missing rights, with the statements that grant them.
async fn not_granted(
    message: &str,
    list: &str,
    schema: &str,
    connection: &mut PgConnection,
) -> Result<Finding, Problem> {
    let role: String =
        sqlx::query_scalar("SELECT current_user::text").fetch_one(connection).await?;
    let grants = session_layer::store::grants(schema, &role);
    let help = format!("as the owner of the tables, run\n{grants}");
    Ok(Finding::failed(message, format!("not granted: {list}"), help))
}

/// Checks USAGE on the schema, which all other checks need.
async fn usage(schema: &str, connection: &mut PgConnection) -> Result<Finding, Problem> {
    let granted = sqlx::query_scalar("SELECT has_schema_privilege($1, 'USAGE')").bind(schema);
    let granted: bool = granted.fetch_one(&mut *connection).await?;
    if granted {
        return Ok(Finding::ok("Rights on the schema granted"));
    }
    Err(not_granted("Rights on the schema missing", "USAGE", schema, connection).await?.into())
}

async fn rights(schema: &str, connection: &mut PgConnection) -> Result<Finding, Problem> {
    let needed = TABLES.iter().flat_map(|(name, rights)| rights.iter().map(|it| (*name, *it)));
    let (names, rights): (Vec<&str>, Vec<&str>) = needed.unzip();
    let statement = "SELECT privilege || ' on ' || name \
                     FROM unnest($2, $3) AS needed(name, privilege) \
                     WHERE NOT has_table_privilege(format('%I.%I', $1, name)::regclass, privilege)";
    let missing = sqlx::query_scalar(statement).bind(schema).bind(&names).bind(&rights);
    let mut missing: Vec<String> = missing.fetch_all(&mut *connection).await?;
    let statement = "SELECT 'EXECUTE on ' || name FROM unnest($2) AS name WHERE NOT coalesce( \
                     has_function_privilege(to_regprocedure(format('%I.%s', $1, name)), \
                     'EXECUTE'), false)";
    let functions = sqlx::query_scalar(statement).bind(schema).bind(FUNCTIONS);
    missing.extend(functions.fetch_all(&mut *connection).await?);
    if missing.is_empty() {
        return Ok(Finding::ok("Rights on the tables granted"));
    }
    let list = missing.join(", ");
    Err(not_granted("Rights on the tables missing", &list, schema, connection).await?.into())
}

async fn row_security(schema: &str, connection: &mut PgConnection) -> Result<Finding, Problem> {
    let statement = "SELECT name FROM unnest($2) AS name \
                     WHERE row_security_active(format('%I.%I', $1, name))";
    let hidden = sqlx::query_scalar(statement).bind(schema).bind(table_names());
    let hidden: Vec<String> = hidden.fetch_all(connection).await?;
    let Some(first) = hidden.first() else {
        return Ok(Finding::ok("Row-level security hides no rows"));
    };
    let help = format!(
        "every request would get 503, because a hidden session looks like a deleted one\n\
         ALTER TABLE {schema}.{first} DISABLE ROW LEVEL SECURITY, or connect as a role with \
         BYPASSRLS"
    );
    let why = format!("policies apply to this role on: {}", hidden.join(", "));
    Err(Finding::failed("Row-level security hides rows", why, help).into())
}

/// Checks a read of the journal.
async fn journal(schema: &str, connection: &mut PgConnection) -> Result<Finding, Problem> {
    // The catalog contained the schema's name.
    let page = format!("SELECT count(*) FROM \"{schema}\".journal_page(NULL, '0', 0, 1)");
    sqlx::query(AssertSqlSafe(page)).fetch_one(connection).await?;
    Ok(Finding::ok("The journal of changes can be read"))
}

const CLOSER: &str = "use a Postgres in the application's region, or raise \
                      SESSION_DB_READ_DEADLINE_MS and SESSION_VALIDATION_TIMEOUT_MS";
const REMEDY_IS_IN_REASON: &str = "do what the reason states";
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
