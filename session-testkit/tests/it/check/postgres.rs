//! What it says of Postgres.

use std::sync::Arc;

use session_testkit::backends::{Backend, Backends, PostgresServer};

use super::{check, check_of, nobody, run};
use crate::harness::Outcome;
use crate::support::execute;

/// The tables of session-layer, as far as the check looks at them.
pub(super) async fn make_tables(postgres: &PostgresServer, schema: &str) -> Outcome {
    let statements = format!(
        "CREATE SCHEMA {schema};
         CREATE TABLE {schema}.sessions (id uuid);
         CREATE TABLE {schema}.session_users (user_id text);
         CREATE TABLE {schema}.session_journal (id bigint)"
    );
    execute(postgres, statements).await
}

pub(super) async fn down() -> Outcome {
    let address = nobody()?;
    let (code, text) = run(check().env(
        "DATABASE_URL",
        format!("postgres://app:s3cret@{address}/app"),
    ))
    .await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ Postgres connection failed\n   why: "),
        "{text}"
    );
    assert!(
        text.contains("is Postgres running?") && text.contains(&address),
        "{text}"
    );
    assert!(
        text.contains("refuses to start without REDIS_URL"),
        "{text}"
    );
    assert!(!text.contains("s3cret"), "{text}");
    Ok(())
}

pub(super) async fn schema(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let (code, text) = run(&mut check_of(&sandbox)).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains(&format!("❌ Schema {} is not there", sandbox.schema())),
        "{text}"
    );
    assert!(text.contains("SESSION_DB_MIGRATE"), "{text}");
    let statements = format!(
        "CREATE SCHEMA {0}; CREATE TABLE {0}.sessions (id uuid)",
        sandbox.schema()
    );
    execute(backends.postgres(), statements).await?;
    let (code, text) = run(&mut check_of(&sandbox)).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("not found: session_users, session_journal"),
        "{text}"
    );
    Ok(())
}

pub(super) async fn journal(backend: Backend) -> Outcome {
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let schema = sandbox.schema();
    make_tables(backends.postgres(), schema).await?;
    let role = format!(
        "CREATE ROLE app LOGIN PASSWORD 'secret';
         GRANT USAGE ON SCHEMA {schema} TO app;
         GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO app"
    );
    execute(backends.postgres(), role).await?;
    let url = format!(
        "postgres://app:secret@{}/postgres",
        backends.postgres().address()
    );
    let looked = async || run(check_of(&sandbox).env("DATABASE_URL", &url)).await;
    let (code, text) = looked().await?;
    assert_eq!(code, 0);
    assert!(
        text.contains("✅ The journal of changes can be read"),
        "{text}"
    );

    let deny = |function: &str| format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC");
    execute(backends.postgres(), deny("pg_walfile_name(pg_lsn)")).await?;
    let (code, text) = looked().await?;
    assert_eq!(code, 0, "it costs a little, and is no fault");
    assert!(
        text.contains("does not tell its timeline") && text.contains("GRANT EXECUTE"),
        "{text}"
    );
    execute(backends.postgres(), deny("pg_control_system()")).await?;
    let (code, text) = looked().await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ The journal of changes cannot be read")
            && text.contains("pg_control_system"),
        "{text}"
    );
    Ok(())
}

pub(super) async fn rights(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let schema = sandbox.schema();
    make_tables(backends.postgres(), schema).await?;
    // A role is for the whole server: named after the sandbox, and dropped below.
    let statements = format!(
        "CREATE ROLE {schema} LOGIN;
         GRANT USAGE ON SCHEMA {schema} TO {schema};
         GRANT SELECT, INSERT, UPDATE ON {schema}.session_users TO {schema};
         GRANT SELECT ON {schema}.sessions, {schema}.session_journal TO {schema};
         ALTER TABLE {schema}.sessions ENABLE ROW LEVEL SECURITY"
    );
    execute(backends.postgres(), statements).await?;
    let url = format!(
        "postgres://{schema}@{}/postgres",
        backends.postgres().address()
    );
    let checked = run(check_of(&sandbox).env("DATABASE_URL", url)).await;
    execute(
        backends.postgres(),
        format!("DROP OWNED BY {schema}; DROP ROLE {schema}"),
    )
    .await?;
    let (code, text) = checked?;
    assert_eq!(code, 1);
    assert!(
        text.contains("not granted: INSERT on sessions, UPDATE on sessions"),
        "{text}"
    );
    assert!(
        text.contains("❌ Row-level security hides rows") && text.contains("503"),
        "{text}"
    );
    Ok(())
}
