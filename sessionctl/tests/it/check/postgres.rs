//! The lines about Postgres.

use session_testkit::backends::Backend;
use sqlx::AssertSqlSafe;
use tokio::net::TcpListener;

use super::{check, check_of, expect, unused_address};
use crate::certificates::{self, Ca};
use crate::harness::{Outcome, shared};
use crate::pgbouncer::PgBouncer;
use crate::support::{Servers, execute, store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_postgres_is_explained_without_its_password() -> Outcome {
    let address = unused_address()?;
    let url = format!("postgres://app:s3cret@{address}/app");
    let lines = [
        "❌ Postgres connection failed\n   why: no connection to Postgres at ",
        "the connection was refused",
        "that Postgres is running",
        &address,
        "does not start without REDIS_URL",
    ];
    let text = expect(check().env("DATABASE_URL", url), 1, &lines).await?;
    // The cause has its remedy, and general hints would hide it.
    assert!(!text.contains("pg_isready"), "{text}");
    // Each of several hosts has its reason.
    let other = unused_address()?;
    let url = format!("postgres://app:s3cret@{address},{other}/app");
    let lines = [
        "❌ Postgres connection failed",
        &address,
        &other,
        "✅ Settings in effect: url: postgres://",
    ];
    expect(check().env("DATABASE_URL", &url), 1, &lines).await?;
    // No flag of `check` has this variable.
    let lines = ["❌ The application does not start with these settings", "SESSION_CACHE_POLICY"];
    expect(check().env("DATABASE_URL", url).env("SESSION_CACHE_POLICY", "foo"), 1, &lines).await?;
    Ok(())
}

// They wait for the rest of what Postgres' client sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_server_in_place_of_postgres_is_named() -> Outcome {
    let backends = shared().await?;
    let http = TcpListener::bind("127.0.0.1:0").await?;
    let http_at = http.local_addr()?;
    tokio::spawn(async move { axum::serve(http, axum::Router::new()).await });
    let ca = Ca::new()?;
    let own = ca.issue("127.0.0.1", time::Duration::DAY)?;
    let (_redis, tls_port) = certificates::redis(&ca, &own, "no").await?;
    for (address, named) in [
        (backends.redis().address().to_owned(), "what replies there is Redis"),
        (http_at.to_string(), "what replies there is an HTTP server"),
        (format!("127.0.0.1:{tls_port}"), "what replies there is a server with TLS"),
    ] {
        let url = format!("postgres://app:s3cret@{address}/app");
        let lines = ["❌ Postgres connection failed", named, "check the host and port"];
        expect(check().env("DATABASE_URL", url), 1, &lines).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_or_incomplete_schema_fails() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let schema = sandbox.schema();
    let missing = format!("❌ Schema {schema} does not exist");
    expect(&mut check_of(&sandbox), 1, &[&missing, "SESSION_DB_MIGRATE"]).await?;
    let statements = format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.sessions (id uuid)");
    execute(backends.postgres(), statements).await?;
    let missing = "not found: session_users, session_journal, session_nodes";
    expect(&mut check_of(&sandbox), 1, &[missing]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_connections_are_a_warning() -> Outcome {
    let sandbox = shared().await?.sandbox();
    store(&sandbox).await?;
    let lines = ["⚠️  Postgres settings are risky", "SESSION_DB_POOL_SIZE"];
    expect(check_of(&sandbox).env("SESSION_DB_POOL_SIZE", "2"), 0, &lines).await?;
    let text = expect(check_of(&sandbox).env("SESSION_DB_POOL_SIZE", "3"), 0, &[]).await?;
    assert!(!text.contains("risky"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_function_of_the_journal_fails() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    store(&sandbox).await?;
    let lines = ["✅ The journal of changes can be read", "✅ The application's statements work"];
    expect(&mut check_of(&sandbox), 0, &lines).await?;
    let older = format!("ALTER FUNCTION {}.this_life() RENAME TO that_life", sandbox.schema());
    execute(backends.postgres(), older).await?;
    let lines = ["❌ The journal of changes cannot be read", "SESSION_DB_MIGRATE"];
    expect(&mut check_of(&sandbox), 1, &lines).await?;
    Ok(())
}

// Only an INSERT finds them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_that_takes_no_login_fails_and_check_leaves_no_row() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    store(&sandbox).await?;
    expect(&mut check_of(&sandbox), 0, &["✅ A session was created, read and revoked"]).await?;
    let schema = sandbox.schema();
    let mut connection = backends.postgres().connect().await?;
    for table in ["sessions", "session_users", "session_journal"] {
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {schema}.{table}"));
        let rows: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await?;
        assert_eq!(rows, 0, "{table}");
    }
    let full = format!("ALTER TABLE {schema}.sessions ADD CHECK (label IS NOT NULL) NOT VALID");
    execute(backends.postgres(), full).await?;
    let lines = ["✅ The application's statements work", "❌ A login and a logout fail", "check"];
    expect(&mut check_of(&sandbox), 1, &lines).await?;
    Ok(())
}

// The application can read such a database, and logins and logouts fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_database_fails() -> Outcome {
    let sandbox = shared().await?.sandbox();
    store(&sandbox).await?;
    let url = format!("{}?options[default_transaction_read_only]=on", sandbox.database_url());
    let lines = [
        "✅ The journal of changes can be read",
        "❌ The application's statements fail\n   why: Postgres is read-only",
    ];
    expect(check_of(&sandbox).env("DATABASE_URL", url), 1, &lines).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_password_file_fails() -> Outcome {
    let sandbox = shared().await?.sandbox();
    let mut check = check_of(&sandbox);
    let check = check.env("DATABASE_PASSWORD_FILE", "/nowhere/s3cret");
    expect(check, 1, &["❌ Postgres connection failed", "DATABASE_PASSWORD_FILE"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_and_row_level_security_fail() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let schema = sandbox.schema();
    store(&sandbox).await?;
    // A role belongs to the whole server. Its name is that of the sandbox, and it is dropped below.
    let rights = format!(
        "GRANT USAGE ON SCHEMA {schema} TO {schema};
         GRANT SELECT, INSERT, UPDATE ON {schema}.session_users TO {schema};
         GRANT SELECT ON {schema}.sessions, {schema}.session_journal TO {schema};
         ALTER TABLE {schema}.sessions ENABLE ROW LEVEL SECURITY"
    );
    let url = format!("postgres://{schema}@{}/postgres", backends.postgres().address());
    execute(backends.postgres(), format!("CREATE ROLE {schema} LOGIN")).await?;
    let unusable = crate::command::run(check_of(&sandbox).env("DATABASE_URL", &url)).await;
    execute(backends.postgres(), rights).await?;
    let checked = crate::command::run(check_of(&sandbox).env("DATABASE_URL", url)).await;
    execute(backends.postgres(), format!("DROP OWNED BY {schema}; DROP ROLE {schema}")).await?;
    for (ran, lines) in [
        (unusable?, &["not granted: USAGE", "GRANT USAGE ON SCHEMA"][..]),
        (
            checked?,
            &[
                "not granted: INSERT on sessions, UPDATE on sessions",
                "EXECUTE on register_node(uuid, bytea, interval)",
                "GRANT EXECUTE ON FUNCTION",
                "❌ Row-level security hides rows",
                "503",
            ],
        ),
    ] {
        assert_eq!(ran.code, 1);
        for line in lines {
            assert!(ran.stdout.contains(line), "no `{line}` in\n{}", ran.stdout);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_of_postgres_is_checked_as_the_application_does() -> Outcome {
    let ca = Ca::new()?;
    let own = ca.issue("127.0.0.1", time::Duration::DAY)?;
    let rules = "host all postgres 127.0.0.1/32 trust";
    let postgres = certificates::postgres(&ca, &own, rules, None).await?;
    let url = format!("{}?sslmode=verify-full", postgres.url());
    let lines = ["❌ Postgres connection failed", "set DATABASE_TLS_CA_FILE"];
    expect(check().env("DATABASE_URL", &url), 1, &lines).await?;
    let mut trusting = check();
    trusting.env("DATABASE_URL", &url).env("DATABASE_TLS_CA_FILE", ca.file());
    // Nothing was migrated there.
    let lines = ["✅ Postgres connection successful", "❌ Schema session_layer does not exist"];
    expect(&mut trusting, 1, &lines).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pooler_in_front_of_postgres_needs_its_settings() -> Outcome {
    const OF_THE_ROLE: [(&str, &str); 3] =
        [("statement_timeout", "'1500ms'"), ("lock_timeout", "'1s'"), ("row_security", "off")];
    let servers = Servers::own_on(Backend::Native).await?;
    servers.store().await?;
    for mode in ["session", "transaction"] {
        for (name, _) in OF_THE_ROLE {
            execute(servers.postgres(), format!("ALTER ROLE postgres RESET {name}")).await?;
        }
        let pooler = PgBouncer::start(servers.postgres(), mode).await?;
        let mut without = check_of(&servers.sandbox);
        without.env("DATABASE_URL", pooler.url());
        let lines = ["❌ Postgres connection failed", "SESSION_DB_POOLED=true"];
        expect(&mut without, 1, &lines).await?;
        let mut with = check_of(&servers.sandbox);
        with.env("DATABASE_URL", pooler.url()).env("SESSION_DB_POOLED", "true");
        let lines = [
            "✅ Postgres connection successful",
            "⚠️  A pooled connection lacks settings of its role: statement_timeout, lock_timeout, \
             row_security",
            "ALTER ROLE \"postgres\" SET statement_timeout = '1500ms'",
            "✅ The journal of changes can be read",
            "✅ The application's statements work",
            "✅ A session was created, read and revoked (rolled back)",
        ];
        expect(&mut with, 0, &lines).await?;

        for (name, value) in OF_THE_ROLE {
            execute(servers.postgres(), format!("ALTER ROLE postgres SET {name} = {value}"))
                .await?;
        }
        // A setting of a role is for new connections to Postgres, which this pooler opens.
        let pooler = PgBouncer::start(servers.postgres(), mode).await?;
        with.env("DATABASE_URL", pooler.url());
        let text = expect(&mut with, 0, &[]).await?;
        assert!(!text.contains("lacks settings"), "{text}");
    }
    Ok(())
}
