//! The faults of Postgres.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::{task::JoinSet, time::interval};

use super::{
    FaultError, Target, error_counts,
    fault::Fault,
    guard::{FaultGuard, Undo},
    promotion,
};
use crate::{backends::BackendError, wait::Patience};

/// The application name of the testkit's own connections.
const NAME: &str = "session-testkit-fault";
const EFFECT: Duration = Duration::from_secs(10);
/// The pause between two cancellations.
const CANCEL_EVERY: Duration = Duration::from_millis(5);

const OTHERS: &str = "FROM pg_stat_activity \
    WHERE backend_type = 'client backend' AND application_name <> 'session-testkit-fault'";

pub(super) async fn inject(
    fault: Fault,
    target: &Target,
    guard: &mut FaultGuard,
) -> Result<(), FaultError> {
    let server = &target.postgres;
    server.allowed("break")?;
    let mut admin = connect(target).await?;
    guard.connections = clients(&mut admin).await?;
    guard.counting = error_counts::count(fault, target);
    match fault {
        Fault::PostgresKill => guard.stop(server.kill()).await?,
        Fault::PostgresPause => guard.undo = Undo::Resume(server.pause().await?),
        Fault::PostgresImmediateStop => guard.stop(server.stop_immediately()).await?,
        Fault::PostgresTerminate => guard.effects = terminate_others(&mut admin).await?,
        Fault::PostgresConnectionLimit => {
            let role = Role::of(target, &mut admin).await?;
            let limit = |to| format!("ALTER ROLE {} CONNECTION LIMIT {to}", role.quoted);
            guard.undo = Undo::Postgres(vec![limit(role.limit)]);
            execute(&mut admin, limit(0)).await?;
            // Clients that remain connected would not be affected.
            guard.effects = terminate_others(&mut admin).await?;
        }
        Fault::PostgresCancel => guard.undo = Undo::Stop(cancelling(admin)),
        Fault::PostgresReadOnly => {
            configure(&mut admin, guard, "default_transaction_read_only", "on").await?;
        }
        Fault::PostgresTableLock => {
            let tables = Table::all(target, &mut admin).await?;
            let tables: Vec<String> = tables.into_iter().map(|table| table.quoted).collect();
            let lock = format!("BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", tables.join(", "));
            lock_all(&mut admin, lock).await?;
            guard.undo = Undo::Rollback(Box::new(admin));
        }
        Fault::PostgresRowLocks => {
            let tables = Table::all(target, &mut admin).await?;
            execute(&mut admin, "BEGIN").await?;
            let mut locked = 0;
            for table in tables {
                // SKIP LOCKED, because waiting for a row while holding others could deadlock.
                let lock = format!(
                    "WITH locked AS (SELECT ctid FROM {} WHERE hashtext(ctid::text) % 2 = 0 \
                       FOR NO KEY UPDATE SKIP LOCKED) \
                     SELECT count(*) FROM locked",
                    table.quoted
                );
                locked += count(&mut admin, lock).await?;
            }
            guard.effects = Some(locked);
            guard.undo = Undo::Rollback(Box::new(admin));
        }
        Fault::PostgresForcedRls => {
            Role::of(target, &mut admin).await?;
            let tables = Table::all(target, &mut admin).await?;
            // In one transaction. If a table can't be locked, the others stay unchanged.
            lock_all(&mut admin, tables.iter().map(Table::hide).collect()).await?;
            guard.undo = Undo::Postgres(tables.iter().map(Table::show).collect());
        }
        Fault::PostgresRevokedGrant => revoke(target, &mut admin, guard).await?,
        Fault::PostgresOpenTransaction => {
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()";
            execute(&mut admin, begin).await?;
            // The effects are the transactions that other clients begin and commit meanwhile.
            guard.counter = next_id(&mut admin).await.ok();
            guard.undo = Undo::Rollback(Box::new(admin));
        }
        Fault::PostgresFailover => {
            drop(admin);
            promotion::fail_over(target, guard).await?;
        }
        Fault::PostgresDisconnect => guard.undo = Undo::Reconnect(server.disconnect().await?),
        redis => unreachable!("{redis} is not a fault of Postgres"),
    }
    Ok(())
}

/// Terminates all clients' connections. Returns their number.
async fn terminate_others(admin: &mut PgConnection) -> sqlx::Result<Option<u64>> {
    count(admin, format!("SELECT count(pg_terminate_backend(pid)) {OTHERS}")).await.map(Some)
}

/// Cancels the clients' active statements repeatedly until dropped.
fn cancelling(mut admin: PgConnection) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut ticks = interval(CANCEL_EVERY);
        let cancel = format!("SELECT count(pg_cancel_backend(pid)) {OTHERS} AND state = 'active'");
        loop {
            ticks.tick().await;
            if let Err(error) = execute(&mut admin, cancel.as_str()).await {
                tracing::warn!(%error, "statements are no longer cancelled");
                return;
            }
        }
    });
    tasks
}

/// Sets a parameter for all sessions, also connected ones. A client's own setting takes precedence.
async fn configure(
    admin: &mut PgConnection,
    guard: &mut FaultGuard,
    name: &str,
    value: &str,
) -> Result<(), FaultError> {
    let before: String = sqlx::query_scalar(
        "SELECT coalesce(max('SET ' || name || ' = ' || quote_literal(setting)), 'RESET ' || $1) \
         FROM pg_file_settings \
         WHERE name = $1 AND sourcefile LIKE '%/postgresql.auto.conf'",
    )
    .bind(name)
    .fetch_one(&mut *admin)
    .await?;
    let reload = "SELECT pg_reload_conf()";
    guard.undo = Undo::Postgres(vec![format!("ALTER SYSTEM {before}"), reload.to_owned()]);
    let old = load_time(admin).await?;
    execute(admin, format!("ALTER SYSTEM SET {name} = '{value}'")).await?;
    execute(admin, reload).await?;
    let mut patience = Patience::new("the setting to be read", EFFECT);
    while !patience.look(async { load_time(admin).await.is_ok_and(|now| now != old) }).await? {}
    Ok(())
}

async fn load_time(admin: &mut PgConnection) -> sqlx::Result<String> {
    sqlx::query_scalar("SELECT pg_conf_load_time()::text").fetch_one(admin).await
}

async fn revoke(
    target: &Target,
    admin: &mut PgConnection,
    guard: &mut FaultGuard,
) -> Result<(), FaultError> {
    let role = Role::of(target, admin).await?;
    let schema = target.tables()?;
    let grants = "SELECT 'GRANT ' || string_agg(acl.privilege_type, ', ') || ' ON ' || \
            t.oid::regclass || ' TO ' || $2 || CASE WHEN acl.is_grantable THEN ' WITH GRANT \
        OPTION' ELSE '' END FROM pg_class t, aclexplode(coalesce(t.relacl, acldefault('r', \
        t.relowner))) acl WHERE t.relnamespace = $1::regnamespace AND t.relkind IN ('r', 'p') \
            AND acl.grantee = $2::regrole \
        GROUP BY t.oid, acl.is_grantable";
    let grants = sqlx::query_scalar(grants).bind(schema).bind(&role.quoted);
    let grants: Vec<String> = grants.fetch_all(&mut *admin).await?;
    if grants.is_empty() {
        let why = format!("{} has no rights of its own on these tables", role.quoted);
        return Err(FaultError::Impossible(why));
    }
    let revoke = "SELECT format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %s', $1, $2)";
    let revoke = sqlx::query_scalar(revoke).bind(schema).bind(&role.quoted);
    let revoke: String = revoke.fetch_one(&mut *admin).await?;
    guard.undo = Undo::Postgres(grants);
    Ok(execute(admin, revoke).await?)
}

struct Role {
    quoted: String,
    limit: i32,
}

impl Role {
    /// Returns the target's role. A superuser is an error, because the faults do not affect it.
    async fn of(target: &Target, admin: &mut PgConnection) -> Result<Self, FaultError> {
        let role = "SELECT quote_ident(rolname), rolconnlimit, rolsuper OR rolbypassrls \
            FROM pg_roles WHERE rolname = coalesce($1, current_user)";
        let role: Option<(String, i32, bool)> =
            sqlx::query_as(role).bind(&target.role).fetch_optional(admin).await?;
        let why = match role {
            Some((quoted, limit, false)) => return Ok(Self { quoted, limit }),
            Some((quoted, _, true)) => format!("nothing is denied to {quoted}, a superuser"),
            None => "there is no such role".to_owned(),
        };
        Err(FaultError::Impossible(format!("{why}. Name the service's role with `Target::role`")))
    }
}

struct Table {
    quoted: String,
    /// The former state of row-level security: enabled, forced.
    security: (bool, bool),
}

impl Table {
    async fn all(target: &Target, admin: &mut PgConnection) -> Result<Vec<Self>, FaultError> {
        let schema = target.tables()?;
        let tables = "SELECT format('%I.%I', n.nspname, t.relname), \
                t.relrowsecurity, t.relforcerowsecurity \
            FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace \
            WHERE n.nspname = $1 AND t.relkind IN ('r', 'p') ORDER BY t.relname";
        let tables: Vec<(String, bool, bool)> =
            sqlx::query_as(tables).bind(schema).fetch_all(admin).await?;
        if tables.is_empty() {
            return Err(FaultError::Impossible(format!("the schema `{schema}` has no tables")));
        }
        let table = |(quoted, enabled, forced)| Self { quoted, security: (enabled, forced) };
        Ok(tables.into_iter().map(table).collect())
    }

    /// Returns statements that hide all rows, also if other policies show some.
    fn hide(&self) -> String {
        let table = &self.quoted;
        format!(
            "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; \
             CREATE POLICY session_testkit_fault ON {table} AS RESTRICTIVE USING (false);"
        )
    }

    fn show(&self) -> String {
        let table = &self.quoted;
        let (enabled, forced) = self.security;
        let enable = if enabled { "ENABLE" } else { "DISABLE" };
        let force = if forced { "FORCE" } else { "NO FORCE" };
        format!(
            "DROP POLICY IF EXISTS session_testkit_fault ON {table}; \
             ALTER TABLE {table} {enable} ROW LEVEL SECURITY, {force} ROW LEVEL SECURITY"
        )
    }
}

/// Opens a connection that the faults do not affect.
pub(super) async fn connect(target: &Target) -> Result<PgConnection, FaultError> {
    let options = target.postgres.connect_options()?.application_name(NAME).options([
        ("statement_timeout", "0"),
        ("default_transaction_read_only", "off"),
        ("idle_in_transaction_session_timeout", "0"),
        ("lock_timeout", "10s"),
    ]);
    let waited = Duration::from_secs(2);
    match tokio::time::timeout(waited, PgConnection::connect_with(&options)).await {
        Ok(connection) => Ok(connection?),
        Err(_) => Err(FaultError::Backend(BackendError::Deadline {
            action: "accept a connection",
            server: "Postgres",
            waited,
        })),
    }
}

/// Counts the connected clients without the testkit's own.
pub(super) async fn clients(admin: &mut PgConnection) -> sqlx::Result<u64> {
    count(admin, format!("SELECT count(*) {OTHERS}")).await
}

/// Returns the next transaction id.
pub(super) async fn next_id(admin: &mut PgConnection) -> sqlx::Result<u64> {
    let next: String = sqlx::query_scalar("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        .fetch_one(admin)
        .await?;
    next.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Executes these statements. A failed statement does not stop the others.
pub(super) async fn undo(target: &Target, statements: &[String]) -> Result<(), FaultError> {
    let mut admin = connect(target).await?;
    let mut failure = None;
    for statement in statements {
        if let Err(error) = execute(&mut admin, statement.as_str()).await {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

async fn execute(admin: &mut PgConnection, statements: impl Into<String>) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statements.into())).execute(admin).await.map(drop)
}

/// Executes statements that lock several tables. A statement that holds one of them and waits for
/// another causes a deadlock, and Postgres rolls one of the two back. If it is ours, it is
/// repeated.
async fn lock_all(admin: &mut PgConnection, statements: String) -> sqlx::Result<()> {
    const TRIES: usize = 20;
    for _ in 1..TRIES {
        match execute(admin, statements.as_str()).await {
            Err(error) if is_deadlock(&error) => execute(admin, "ROLLBACK").await?,
            locked => return locked,
        }
    }
    execute(admin, statements).await
}

fn is_deadlock(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("40P01")
}

async fn count(admin: &mut PgConnection, query: String) -> sqlx::Result<u64> {
    let count: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(admin).await?;
    Ok(count.unsigned_abs())
}
