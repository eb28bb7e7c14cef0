//! The faults of Postgres.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::{task::JoinSet, time::interval};

use super::{
    FaultError, Target, error_counts,
    fault::Fault,
    guard::{FaultGuard, Undo},
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
    mut guard: FaultGuard,
) -> Result<FaultGuard, FaultError> {
    let server = &target.postgres;
    server.allowed("break")?;
    let mut admin = connect(fault, target).await?;
    guard.connections = clients(&mut admin).await.map_err(refused(fault))?;
    guard.counting = error_counts::count(fault, target);
    match fault {
        Fault::PostgresKill => {
            guard.undo = Undo::Restart;
            stopped(server.kill().await, &mut guard)?;
        }
        Fault::PostgresPause => guard.undo = Undo::Resume(server.pause().await?),
        Fault::PostgresImmediateStop => {
            guard.undo = Undo::Restart;
            stopped(server.stop_immediately().await, &mut guard)?;
        }
        Fault::PostgresTerminate => guard.effects = terminate_others(fault, &mut admin).await?,
        Fault::PostgresConnectionLimit => {
            let role = Role::of(fault, target, &mut admin).await?;
            let name = &role.quoted;
            let before = format!("ALTER ROLE {name} CONNECTION LIMIT {}", role.limit);
            guard.undo = Undo::Postgres(vec![before]);
            // Clients that remain connected would not be affected.
            let none = format!("ALTER ROLE {name} CONNECTION LIMIT 0");
            execute(fault, &mut admin, none).await?;
            guard.effects = terminate_others(fault, &mut admin).await?;
        }
        Fault::PostgresCancel => guard.undo = Undo::Stop(cancelling(admin)),
        Fault::PostgresReadOnly => {
            let name = "default_transaction_read_only";
            configure(fault, &mut admin, &mut guard, name, "on").await?;
        }
        Fault::PostgresTableLock => {
            let tables = Table::all(fault, target, &mut admin).await?;
            let tables: Vec<String> = tables.into_iter().map(|table| table.quoted).collect();
            let lock = format!("BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", tables.join(", "));
            lock_all(fault, &mut admin, lock).await?;
            guard.undo = Undo::Rollback(Box::new(admin));
        }
        Fault::PostgresRowLocks => {
            let tables = Table::all(fault, target, &mut admin).await?;
            execute(fault, &mut admin, "BEGIN".to_owned()).await?;
            let mut locked = 0;
            for table in tables {
                // SKIP LOCKED, because waiting for a row while holding others could deadlock.
                let lock = format!(
                    "WITH locked AS (SELECT ctid FROM {} WHERE hashtext(ctid::text) % 2 = 0 \
                       FOR NO KEY UPDATE SKIP LOCKED) \
                     SELECT count(*) FROM locked",
                    table.quoted
                );
                let rows: i64 = one(fault, &mut admin, lock).await?;
                locked += rows.unsigned_abs();
            }
            guard.effects = Some(locked);
            guard.undo = Undo::Rollback(Box::new(admin));
        }
        Fault::PostgresForcedRls => {
            Role::of(fault, target, &mut admin).await?;
            let tables = Table::all(fault, target, &mut admin).await?;
            // In one transaction. If a table can't be locked, the others stay unchanged.
            lock_all(fault, &mut admin, tables.iter().map(Table::hide).collect()).await?;
            guard.undo = Undo::Postgres(tables.iter().map(Table::show).collect());
        }
        Fault::PostgresRevokedGrant => revoke(fault, target, &mut admin, &mut guard).await?,
        Fault::PostgresOpenTransaction => {
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()";
            execute(fault, &mut admin, begin.to_owned()).await?;
            // The effects are the transactions that other clients begin and commit meanwhile.
            guard.counter = next_id(&mut admin).await.ok();
            guard.undo = Undo::Rollback(Box::new(admin));
        }
        Fault::PostgresDisconnect => {
            guard.undo = Undo::Reconnect(server.disconnect().await?);
        }
        redis => unreachable!("{redis} is not a fault of Postgres"),
    }
    Ok(guard)
}

/// Terminates all clients' connections. Returns their number.
async fn terminate_others(
    fault: Fault,
    admin: &mut PgConnection,
) -> Result<Option<u64>, FaultError> {
    let terminate = format!("SELECT count(pg_terminate_backend(pid)) {OTHERS}");
    let terminated: i64 = one(fault, admin, terminate).await?;
    Ok(u64::try_from(terminated).ok())
}

/// Cancels the clients' active statements repeatedly until dropped.
fn cancelling(mut admin: PgConnection) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut ticks = interval(CANCEL_EVERY);
        let cancel = format!("SELECT count(pg_cancel_backend(pid)) {OTHERS} AND state = 'active'");
        loop {
            ticks.tick().await;
            let cancelled = sqlx::raw_sql(AssertSqlSafe(cancel.clone())).execute(&mut admin).await;
            if let Err(error) = cancelled {
                tracing::warn!(%error, "statements are no longer cancelled");
                return;
            }
        }
    });
    tasks
}

/// Passes on the result. Nothing has to be undone if the server is not ours.
fn stopped(result: Result<(), BackendError>, guard: &mut FaultGuard) -> Result<(), FaultError> {
    if matches!(result, Err(BackendError::NotOurs { .. })) {
        guard.undo = Undo::Nothing;
    }
    Ok(result?)
}

/// Sets a parameter for all sessions, also connected ones. A client's own setting takes precedence.
async fn configure(
    fault: Fault,
    admin: &mut PgConnection,
    guard: &mut FaultGuard,
    name: &str,
    value: &str,
) -> Result<(), FaultError> {
    let before = "SELECT coalesce(max('SET ' || name || ' = ' || quote_literal(setting)), \
        'RESET NAME') FROM pg_file_settings \
        WHERE name = 'NAME' AND sourcefile LIKE '%/postgresql.auto.conf'";
    let before: String = one(fault, admin, before.replace("NAME", name)).await?;
    let reload = "SELECT pg_reload_conf()";
    guard.undo = Undo::Postgres(vec![format!("ALTER SYSTEM {before}"), reload.to_owned()]);
    let loaded = "SELECT pg_conf_load_time()::text";
    let old: String = one(fault, admin, loaded.to_owned()).await?;
    let set = format!("ALTER SYSTEM SET {name} = '{value}'");
    execute(fault, admin, set).await?;
    execute(fault, admin, reload.to_owned()).await?;
    let mut patience = Patience::new("the setting to be read", EFFECT);
    loop {
        let reloaded = async {
            let now: Result<String, _> = one(fault, admin, loaded.to_owned()).await;
            now.is_ok_and(|now| now != old)
        };
        match patience.look(reloaded).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(source) => return Err(FaultError::NoEffect { fault, source }),
        }
    }
}

async fn revoke(
    fault: Fault,
    target: &Target,
    admin: &mut PgConnection,
    guard: &mut FaultGuard,
) -> Result<(), FaultError> {
    let role = Role::of(fault, target, admin).await?;
    let schema = target.schema_for(fault)?;
    let grants = "SELECT 'GRANT ' || string_agg(acl.privilege_type, ', ') || ' ON ' || \
            t.oid::regclass || ' TO ' || $2 || CASE WHEN acl.is_grantable THEN ' WITH GRANT \
        OPTION' ELSE '' END FROM pg_class t, aclexplode(coalesce(t.relacl, acldefault('r', \
        t.relowner))) acl WHERE t.relnamespace = $1::regnamespace AND t.relkind IN ('r', 'p') \
            AND acl.grantee = $2::regrole \
        GROUP BY t.oid, acl.is_grantable";
    let grants: Vec<String> = sqlx::query_scalar(grants)
        .bind(schema)
        .bind(&role.quoted)
        .fetch_all(&mut *admin)
        .await
        .map_err(refused(fault))?;
    if grants.is_empty() {
        return Err(FaultError::Impossible {
            fault,
            why: format!("{} has no rights of its own on these tables", role.quoted),
        });
    }
    let revoke = "SELECT format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %s', $1, $2)";
    let revoke: String = sqlx::query_scalar(revoke)
        .bind(schema)
        .bind(&role.quoted)
        .fetch_one(&mut *admin)
        .await
        .map_err(refused(fault))?;
    guard.undo = Undo::Postgres(grants);
    execute(fault, admin, revoke).await
}

/// The affected role.
struct Role {
    quoted: String,
    limit: i32,
}

impl Role {
    /// Returns the target's role. A superuser is an error, because the faults do not affect it.
    async fn of(
        fault: Fault,
        target: &Target,
        admin: &mut PgConnection,
    ) -> Result<Self, FaultError> {
        let role = "SELECT quote_ident(rolname), rolconnlimit, rolsuper OR rolbypassrls \
            FROM pg_roles WHERE rolname = coalesce($1, current_user)";
        let role: Option<(String, i32, bool)> = sqlx::query_as(role)
            .bind(&target.role)
            .fetch_optional(admin)
            .await
            .map_err(refused(fault))?;
        let why = match role {
            Some((quoted, limit, false)) => return Ok(Self { quoted, limit }),
            Some((quoted, _, true)) => format!("nothing is denied to {quoted}, a superuser"),
            None => "there is no such role".to_owned(),
        };
        let why = format!("{why}. Name the service's role with `Target::role`");
        Err(FaultError::Impossible { fault, why })
    }
}

/// A table of the service.
struct Table {
    quoted: String,
    /// The former state of row-level security: enabled, forced.
    security: (bool, bool),
}

impl Table {
    async fn all(
        fault: Fault,
        target: &Target,
        admin: &mut PgConnection,
    ) -> Result<Vec<Self>, FaultError> {
        let schema = target.schema_for(fault)?;
        let tables = "SELECT format('%I.%I', n.nspname, t.relname), \
                t.relrowsecurity, t.relforcerowsecurity \
            FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace \
            WHERE n.nspname = $1 AND t.relkind IN ('r', 'p') ORDER BY t.relname";
        let tables: Vec<(String, bool, bool)> =
            sqlx::query_as(tables).bind(schema).fetch_all(admin).await.map_err(refused(fault))?;
        if tables.is_empty() {
            let why = format!("the schema `{schema}` has no tables");
            return Err(FaultError::Impossible { fault, why });
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
pub(super) async fn connect(fault: Fault, target: &Target) -> Result<PgConnection, FaultError> {
    let options = target.postgres.connect_options().map_err(refused(fault))?;
    let options = options.application_name(NAME).options([
        ("statement_timeout", "0"),
        ("default_transaction_read_only", "off"),
        ("idle_in_transaction_session_timeout", "0"),
        ("lock_timeout", "10s"),
    ]);
    let connection = PgConnection::connect_with(&options);
    match tokio::time::timeout(Duration::from_secs(2), connection).await {
        Ok(connection) => connection.map_err(refused(fault)),
        Err(_) => Err(FaultError::Backend(BackendError::Deadline {
            action: "accept a connection",
            server: "Postgres",
            waited: Duration::from_secs(2),
        })),
    }
}

/// Counts the connected clients without the testkit's own.
pub(super) async fn clients(admin: &mut PgConnection) -> sqlx::Result<u64> {
    let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) {OTHERS}")))
        .fetch_one(admin)
        .await?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Returns the next transaction id.
pub(super) async fn next_id(admin: &mut PgConnection) -> sqlx::Result<u64> {
    let next: String = sqlx::query_scalar("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        .fetch_one(admin)
        .await?;
    next.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

pub(super) async fn undo(
    fault: Fault,
    target: &Target,
    statements: &[String],
) -> Result<(), FaultError> {
    let mut admin = connect(fault, target).await?;
    let mut failure = None;
    for statement in statements {
        // A failed statement does not stop the others.
        if let Err(error) = execute(fault, &mut admin, statement.clone()).await {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn execute(
    fault: Fault,
    admin: &mut PgConnection,
    statements: String,
) -> Result<(), FaultError> {
    let done = sqlx::raw_sql(AssertSqlSafe(statements)).execute(admin).await;
    done.map(drop).map_err(refused(fault))
}

/// Executes statements that lock several tables. A statement that holds one of them and waits for
/// another causes a deadlock, and Postgres rolls one of the two back. If it is ours, it is
/// repeated.
async fn lock_all(
    fault: Fault,
    admin: &mut PgConnection,
    statements: String,
) -> Result<(), FaultError> {
    const TRIES: usize = 20;
    for _ in 1..TRIES {
        match execute(fault, admin, statements.clone()).await {
            Err(FaultError::Postgres { source, .. }) if is_deadlock(&source) => {
                execute(fault, admin, "ROLLBACK".to_owned()).await?;
            }
            locked => return locked,
        }
    }
    execute(fault, admin, statements).await
}

fn is_deadlock(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("40P01")
}

async fn one<T>(fault: Fault, admin: &mut PgConnection, query: String) -> Result<T, FaultError>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let value = sqlx::query_scalar(AssertSqlSafe(query));
    value.fetch_one(admin).await.map_err(refused(fault))
}

pub(super) fn refused(fault: Fault) -> impl FnOnce(sqlx::Error) -> FaultError {
    move |source| FaultError::Postgres { fault, source }
}
