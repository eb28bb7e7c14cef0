//! `sessionctl migrate`: what is missing, as SQL, and applied.

use serde_json::Value;
use session_testkit::backends::Sandbox;
use sqlx::AssertSqlSafe;
use tokio::process::Command;

use crate::command::{run, sessionctl};
use crate::harness::{Outcome, shared};

fn migrate(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let mut command = sessionctl();
    command
        .env("DATABASE_URL", sandbox.database_url())
        .env("SESSION_DB_SCHEMA", sandbox.schema())
        .arg("migrate")
        .args(arguments);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plan_is_the_sql_of_what_is_missing_and_changes_nothing() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let planned = run(&mut migrate(&sandbox, &["--plan"])).await?;
    assert_eq!(planned.code, 0, "{}", planned.stderr);
    let mut connection = backends.postgres().connect().await?;
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = $1";
    let schemas: i64 =
        sqlx::query_scalar(schemas).bind(sandbox.schema()).fetch_one(&mut connection).await?;
    assert_eq!(schemas, 0, "a plan changes nothing");

    // As an owner pastes it into a shell.
    sqlx::raw_sql(AssertSqlSafe(planned.stdout)).execute(&mut connection).await?;
    let again = run(&mut migrate(&sandbox, &["--plan"])).await?;
    assert_eq!((again.code, again.stdout.as_str()), (0, ""), "{}", again.stderr);
    assert!(again.stderr.contains("up to date"), "{}", again.stderr);
    let applied = run(&mut migrate(&sandbox, &["--json"])).await?;
    let applied: Value = serde_json::from_str(&applied.stdout)?;
    assert_eq!(applied["applied"], Value::Array(Vec::new()));
    crate::support::store(&sandbox).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrate_creates_the_tables_once() -> Outcome {
    let sandbox = shared().await?.sandbox();
    let first = run(&mut migrate(&sandbox, &[])).await?;
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(first.stdout.starts_with("applied 0001 sessions\n"), "{}", first.stdout);
    let second = run(&mut migrate(&sandbox, &[])).await?;
    assert_eq!(second.code, 0, "{}", second.stderr);
    assert!(!second.stdout.contains("applied"), "{}", second.stdout);
    let json = run(&mut migrate(&sandbox, &["--plan", "--json"])).await?;
    let json: Value = serde_json::from_str(&json.stdout)?;
    assert_eq!((&json["missing"], &json["sql"]), (&Value::Array(Vec::new()), &"".into()));
    Ok(())
}

// The password of the application's user is not the owner's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_file_of_the_application_is_not_for_another_user() -> Outcome {
    let sandbox = shared().await?.sandbox();
    let owner = sandbox.database_url();
    let mut command = sessionctl();
    command
        .env("DATABASE_URL", "postgres://app@db.internal/app")
        .env("DATABASE_PASSWORD_FILE", "/nonexistent/password")
        .env("SESSION_DB_SCHEMA", sandbox.schema())
        .args(["migrate", "--database-url", owner]);
    let migrated = run(&mut command).await?;
    assert_eq!(migrated.code, 0, "{}", migrated.stderr);
    let same = run(command.env("DATABASE_URL", owner)).await?;
    assert_eq!(same.code, 2);
    assert!(same.stderr.contains("DATABASE_PASSWORD_FILE"), "{}", same.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrate_that_cannot_run_exits_2_and_says_why() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let none = run(sessionctl().arg("migrate")).await?;
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("DATABASE_URL"), "{}", none.stderr);
    let bad = run(migrate(&sandbox, &[]).env("SESSION_DB_SCHEMA", "Bad")).await?;
    assert_eq!(bad.code, 2);
    assert!(bad.stderr.contains("1 to 63"), "{}", bad.stderr);
    Ok(())
}
