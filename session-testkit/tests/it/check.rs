//! `session-testkit check`: the lines of a good deployment, and each way to fail.

use std::{
    process::Output,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::AsyncCommands as _;
use session_testkit::backends::{Backend, Backends, PostgresServer, Sandbox};
use sqlx::AssertSqlSafe;
use tokio::process::Command;

use crate::harness::{Outcome, Registry};
use crate::support::SOON;

pub(crate) fn tests(reg: &mut Registry) {
    reg.shared("good_pair_prints_the_lines_and_exits_0", good);
    reg.shared("json_is_one_document_on_standard_output", json);
    reg.shared("leaves_no_key_and_makes_no_schema", changes_nothing);
    reg.plain(
        "redis_down_says_why_and_what_to_do_without_the_secret",
        redis_down,
    );
    reg.plain(
        "postgres_down_says_why_and_what_to_do_without_the_secret",
        postgres_down,
    );
    reg.plain(
        "nothing_named_exits_2_and_sqlite_has_nothing_to_check",
        nothing,
    );
    reg.plain(
        "nonsense_for_a_url_is_a_failure_that_does_not_repeat_it",
        nonsense,
    );
    reg.each_backend("paused_servers_do_not_hang_it", paused);
    reg.each_backend("replica_and_denied_commands", redis_roles);
    reg.each_backend("full_redis", full);
    reg.each_backend("redis_of_a_cluster_or_short_of_replicas", not_alone);
    reg.shared("schema_missing_or_incomplete", schema);
    reg.shared("lost_rights_and_row_level_security", rights);
    reg.each_backend("postgres_does_not_tell_where_it_stands", journal);
    reg.shared("what_the_application_refuses_is_a_failure", combinations);
}

fn check() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_session-testkit"));
    for name in [
        "REDIS_URL",
        "DATABASE_URL",
        "SESSION_CACHE_NAMESPACE",
        "SESSION_DB_SCHEMA",
        "SESSION_CACHE_POOL_SIZE",
    ] {
        command.env_remove(name);
    }
    command.arg("check");
    command
}

/// Exit code and standard output.
async fn run(command: &mut Command) -> std::io::Result<(i32, String)> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().await?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    eprintln!("{text}{}", String::from_utf8_lossy(&stderr));
    Ok((status.code().unwrap_or(-1), text))
}

/// The tables of session-layer, as far as the check looks at them.
async fn make_tables(postgres: &PostgresServer, schema: &str) -> Outcome {
    let statements = format!(
        "CREATE SCHEMA {schema};
         CREATE TABLE {schema}.sessions (id uuid);
         CREATE TABLE {schema}.session_users (user_id text);
         CREATE TABLE {schema}.session_journal (id bigint)"
    );
    execute(postgres, statements).await
}

async fn execute(postgres: &PostgresServer, statements: String) -> Outcome {
    let mut connection = postgres.connect().await?;
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut connection)
        .await?;
    Ok(())
}

/// The check of a sandbox on a pair, with the application's own variables.
fn check_of(sandbox: &Sandbox) -> Command {
    let mut command = check();
    command
        .env("REDIS_URL", sandbox.redis_url())
        .env("DATABASE_URL", sandbox.database_url())
        .env("SESSION_CACHE_NAMESPACE", sandbox.namespace())
        .env("SESSION_DB_SCHEMA", sandbox.schema());
    command
}

async fn good(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    make_tables(backends.postgres(), sandbox.schema()).await?;
    let (code, text) = run(&mut check_of(&sandbox)).await?;
    assert_eq!(code, 0, "{text}");
    let redis = "[RedisConnection] Testing Redis connectivity...\n\
        ✅ Redis connection successful\n\
        ✅ PING response: PONG\n\
        ✅ SET test successful\n\
        ✅ GET test successful\n\
        ✅ Connection pool healthy\n";
    assert!(text.starts_with(redis), "{text}");
    for line in [
        "✅ Role: master, no replicas",
        "[PostgresConnection] Testing Postgres connectivity...",
        "✅ Postgres connection successful",
        &format!(
            "✅ Schema {} is there (sessions, session_users, session_journal)",
            sandbox.schema()
        ),
        "✅ Row-level security hides no rows",
    ] {
        assert!(
            text.lines().any(|it| it == line),
            "no line `{line}` in\n{text}"
        );
    }
    Ok(())
}

async fn json(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    let (code, text) = run(check_of(&sandbox).arg("--json")).await?;
    // The schema is missing.
    assert_eq!(code, 1);
    let json: serde_json::Value = serde_json::from_str(&text)?;
    assert_eq!(json["ok"], false);
    assert_eq!(json["servers"][0]["server"], "redis");
    assert_eq!(json["servers"][0]["status"], "ok");
    assert_eq!(
        json["servers"][0]["steps"][1]["message"],
        "PING response: PONG"
    );
    assert_eq!(json["servers"][1]["status"], "failed");
    Ok(())
}

async fn changes_nothing(backends: Arc<Backends>) -> Outcome {
    let sandbox = backends.sandbox();
    run(&mut check_of(&sandbox)).await?;
    let mut redis = backends.redis().connect().await?;
    let mut keys = redis
        .scan_match::<_, String>(format!("{}*", sandbox.namespace()))
        .await?;
    assert!(keys.next_item().await.is_none());
    let mut postgres = backends.postgres().connect().await?;
    let schemas: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_namespace WHERE nspname = $1")
        .bind(sandbox.schema())
        .fetch_one(&mut postgres)
        .await?;
    assert_eq!(schemas, 0);
    Ok(())
}

/// An address where nobody listens.
fn nobody() -> std::io::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .to_string())
}

async fn redis_down() -> Outcome {
    let address = nobody()?;
    let (code, text) =
        run(check().args(["--redis-url", &format!("redis://user:s3cret@{address}/0")])).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ Redis connection failed\n   why: "),
        "{text}"
    );
    assert!(
        text.contains("is Redis running?") && text.contains(&address),
        "{text}"
    );
    assert!(!text.contains("s3cret"), "{text}");
    Ok(())
}

async fn postgres_down() -> Outcome {
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

/// What the application refuses to start with is a failure where it is all that the application gets,
/// and a warning where somebody looks at one server.
async fn combinations(backends: Arc<Backends>) -> Outcome {
    let redis = backends.redis().url();
    let (code, text) = run(check().env("REDIS_URL", redis)).await?;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("refuses to start"), "{text}");
    let (code, text) = run(check().args(["--redis-url", redis])).await?;
    assert_eq!(code, 0, "{text}");
    Ok(())
}

async fn nothing() -> Outcome {
    let (code, _) = run(&mut check()).await?;
    assert_eq!(code, 2);
    let (code, text) = run(check().env("DATABASE_URL", "sqlite:app.db")).await?;
    assert_eq!(code, 0);
    assert!(
        text.contains("sqlite:app.db") && text.contains("nothing to check"),
        "{text}"
    );
    Ok(())
}

async fn nonsense() -> Outcome {
    for url in [
        "s3cret",
        "http://u:s3cret@h/",
        "redis://:s3cret@h:notaport/",
    ] {
        let (code, text) = run(check().args(["--redis-url", url, "--database-url", url])).await?;
        assert_eq!(code, 1, "{url}");
        assert!(!text.contains("s3cret"), "{url}: {text}");
    }
    Ok(())
}

async fn paused(backend: Backend) -> Outcome {
    let backends = Backends::builder().backend(backend).start().await?;
    let _redis = backends.redis().pause().await?;
    let _postgres = backends.postgres().pause().await?;
    let begin = Instant::now();
    let (code, text) = run(&mut check_of(&backends.sandbox())).await?;
    assert_eq!(code, 1);
    assert!(
        begin.elapsed() < Duration::from_secs(8),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(text.matches("no answer within 2 s").count(), 2, "{text}");
    Ok(())
}

async fn redis_roles(backend: Backend) -> Outcome {
    let (master, replica) = tokio::try_join!(
        Backends::builder().backend(backend).start_redis(),
        Backends::builder().backend(backend).start_redis()
    )?;
    replica.replica_of(Some(&master)).await?;
    let (code, text) = run(check().args(["--redis-url", replica.url()])).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ SET test failed") && text.contains("this server is a replica"),
        "{text}"
    );
    assert!(text.contains("❌ Role: replica"), "{text}");
    replica.replica_of(None).await?;

    let mut connection = replica.connect().await?;
    let user = [
        "SETUSER",
        "app",
        "on",
        ">s3cret",
        "~session-layer:*",
        "+@all",
        "-info",
        "-evalsha",
    ];
    redis::cmd("ACL")
        .arg(&user)
        .exec_async(&mut connection)
        .await?;
    let url = format!("redis://app:s3cret@{}/0", replica.address());
    let (code, text) = run(check().args(["--redis-url", &url])).await?;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("INFO is denied") && text.contains("✅ Role: master"),
        "{text}"
    );
    assert!(
        text.contains("Scripts are denied: nothing will be cached"),
        "{text}"
    );
    for (denied, says) in [
        ("-evalsha", "Scripts are denied: nothing will be cached"),
        ("-unlink", "GET test successful, UNLINK denied"),
    ] {
        let poor = ["SETUSER", "poor", "reset", "on", ">s3cret", "~*", "+@all"];
        redis::cmd("ACL")
            .arg(&poor)
            .arg(denied)
            .exec_async(&mut connection)
            .await?;
        let url = format!("redis://poor:s3cret@{}/0", replica.address());
        let (code, text) = run(check().args(["--redis-url", &url])).await?;
        assert_eq!(code, 0, "{text}");
        assert!(text.contains(says), "{denied}: {text}");
    }
    // Its namespace is not that of the keys that this user may touch.
    let (code, text) = run(check().args(["--redis-url", &url, "--namespace", "other"])).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ SET test failed\n   why: ") && text.contains("ACL SETUSER"),
        "{text}"
    );
    let (code, text) = run(check().args(["--redis-url", &url.replace("s3cret", "wr0ng")])).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("user and password") && !text.contains("wr0ng"),
        "{text}"
    );
    Ok(())
}

async fn full(backend: Backend) -> Outcome {
    let redis = Backends::builder()
        .backend(backend)
        .redis_args(["--maxmemory", "1kb", "--maxclients", "6"])
        .start_redis()
        .await?;
    let (code, text) = run(check().args(["--redis-url", redis.url()])).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ SET test failed") && text.contains("raise maxmemory"),
        "{text}"
    );
    assert!(
        text.contains("❌ Connection pool not healthy") && text.contains("maxclients"),
        "{text}"
    );
    Ok(())
}

async fn not_alone(backend: Backend) -> Outcome {
    let redis = Backends::builder()
        .backend(backend)
        .redis_args(["--cluster-enabled", "yes"])
        .start_redis()
        .await?;
    let (code, text) = run(check().args(["--redis-url", redis.url()])).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ SET test failed") && text.contains("this is a node of a cluster"),
        "{text}"
    );
    // It may have the key that is tried.
    let mut admin = redis.connect().await?;
    redis::cmd("CLUSTER")
        .arg(&["ADDSLOTSRANGE", "0", "16383"])
        .exec_async(&mut admin)
        .await?;
    session_testkit::wait::until("a node that has all keys", SOON, async || {
        let (code, text) = run(check().args(["--redis-url", redis.url()]))
            .await
            .unwrap_or_default();
        code == 0 && text.contains("Role: node of a cluster") && text.contains("all keys")
    })
    .await?;

    let redis = Backends::builder()
        .backend(backend)
        .redis_args(["--min-replicas-to-write", "1"])
        .start_redis()
        .await?;
    let (code, text) = run(check().args(["--redis-url", redis.url()])).await?;
    assert_eq!(code, 1);
    assert!(
        text.contains("❌ SET test failed") && text.contains("min-replicas-to-write"),
        "{text}"
    );
    Ok(())
}

async fn schema(backends: Arc<Backends>) -> Outcome {
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

async fn journal(backend: Backend) -> Outcome {
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

async fn rights(backends: Arc<Backends>) -> Outcome {
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
