//! What it says of Postgres.

use super::{check, check_of, nobody, run};
use crate::harness::{Outcome, shared};
use crate::support::{execute, store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_down_says_why_and_what_to_do_without_the_secret() -> Outcome {
    let address = nobody()?;
    let (code, text) =
        run(check().env("DATABASE_URL", format!("postgres://app:s3cret@{address}/app"))).await?;
    assert_eq!(code, 1);
    assert!(text.contains("❌ Postgres connection failed\n   why: "), "{text}");
    assert!(text.contains("that Postgres is running") && text.contains(&address), "{text}");
    assert!(text.contains("does not start without REDIS_URL"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_missing_or_incomplete() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let (code, text) = run(&mut check_of(&sandbox)).await?;
    assert_eq!(code, 1);
    assert!(text.contains(&format!("❌ Schema {} does not exist", sandbox.schema())), "{text}");
    assert!(text.contains("SESSION_DB_MIGRATE"), "{text}");
    let statements =
        format!("CREATE SCHEMA {0}; CREATE TABLE {0}.sessions (id uuid)", sandbox.schema());
    execute(backends.postgres(), statements).await?;
    let (code, text) = run(&mut check_of(&sandbox)).await?;
    assert_eq!(code, 1);
    assert!(text.contains("not found: session_users, session_journal, session_nodes"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_of_postgres_can_be_read() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    store(&sandbox).await?;
    let (code, text) = run(&mut check_of(&sandbox)).await?;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("✅ The journal of changes can be read"), "{text}");
    let older = format!("ALTER FUNCTION {}.this_life() RENAME TO that_life", sandbox.schema());
    execute(backends.postgres(), older).await?;
    let (code, text) = run(&mut check_of(&sandbox)).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ The journal of changes cannot be read")
            && text.contains("SESSION_DB_MIGRATE"),
        "{text}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_rights_and_row_level_security() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let schema = sandbox.schema();
    store(&sandbox).await?;
    // A role is for the whole server: named after the sandbox, and dropped below.
    let statements = format!(
        "CREATE ROLE {schema} LOGIN;
         GRANT USAGE ON SCHEMA {schema} TO {schema};
         GRANT SELECT, INSERT, UPDATE ON {schema}.session_users TO {schema};
         GRANT SELECT ON {schema}.sessions, {schema}.session_journal TO {schema};
         ALTER TABLE {schema}.sessions ENABLE ROW LEVEL SECURITY"
    );
    let url = format!("postgres://{schema}@{}/postgres", backends.postgres().address());
    // At first it may not even use the schema.
    let (role, rights) = statements.split_once(';').ok_or("two statements")?;
    execute(backends.postgres(), role.to_owned()).await?;
    let unusable = run(check_of(&sandbox).env("DATABASE_URL", &url)).await;
    execute(backends.postgres(), rights.to_owned()).await?;
    let checked = run(check_of(&sandbox).env("DATABASE_URL", url)).await;
    execute(backends.postgres(), format!("DROP OWNED BY {schema}; DROP ROLE {schema}")).await?;
    let (code, text) = unusable?;
    assert_eq!(code, 1);
    assert!(
        text.contains("not granted: USAGE") && text.contains("GRANT USAGE ON SCHEMA"),
        "{text}"
    );
    let (code, text) = checked?;
    assert_eq!(code, 1);
    assert!(
        text.contains("not granted: INSERT on sessions, UPDATE on sessions")
            && text.contains("EXECUTE on register_node(uuid, bytea, interval)")
            && text.contains("GRANT EXECUTE ON FUNCTION"),
        "{text}"
    );
    assert!(text.contains("❌ Row-level security hides rows") && text.contains("503"), "{text}");
    Ok(())
}
