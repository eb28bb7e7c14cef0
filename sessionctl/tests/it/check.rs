//! `sessionctl check`: the lines of a correct deployment, and each failure.

mod postgres;
mod redis;

use std::time::Duration;

use ::redis::AsyncCommands as _;
use session_testkit::backends::{Backend, Backends, Sandbox};
use session_testkit::proxy::{Proxy, Toxic};
use tokio::process::Command;

use crate::{
    command::{run, sessionctl},
    harness::{Failure, Outcome, on_each_backend, shared},
    support::store,
};

fn check() -> Command {
    let mut command = sessionctl();
    command.arg("check");
    command
}

/// Returns the check of one Redis.
fn check_redis(url: &str) -> Command {
    let mut command = check();
    command.args(["--redis-url", url]);
    command
}

/// Returns the check of a sandbox, which the application's variables name.
fn check_of(sandbox: &Sandbox) -> Command {
    let mut command = check();
    command
        .env("REDIS_URL", sandbox.redis_url())
        .env("DATABASE_URL", sandbox.database_url())
        .env("SESSION_CACHE_NAMESPACE", sandbox.namespace())
        .env("SESSION_DB_SCHEMA", sandbox.schema());
    command
}

/// Runs the check. It must end with this code, print these parts, and print no password.
async fn expect(command: &mut Command, code: i32, parts: &[&str]) -> Result<String, Failure> {
    let text = run(command).await?;
    assert_eq!(text.code, code, "{}", text.stdout);
    for part in parts {
        assert!(text.stdout.contains(part), "no `{part}` in\n{}", text.stdout);
    }
    assert!(!text.stdout.contains("s3cret"), "{}", text.stdout);
    Ok(text.stdout)
}

/// Returns an address on which no server listens.
fn unused_address() -> std::io::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn correct_servers_print_the_lines_and_exit_0() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    store(&sandbox).await?;
    let text = expect(&mut check_of(&sandbox), 0, &[]).await?;
    let redis = "[RedisConnection] Testing Redis connectivity...\n\
        ✅ Redis connection successful\n\
        ✅ PING response: PONG\n\
        ✅ SET test successful\n\
        ✅ GET test successful\n\
        ✅ Connection pool healthy\n";
    assert!(text.starts_with(redis), "{text}");
    for line in [
        "✅ Role: master, no replicas",
        "✅ CLIENT allowed",
        "[PostgresConnection] Testing Postgres connectivity...",
        "✅ Postgres connection successful",
        &format!(
            "✅ Schema {} exists (sessions, session_users, session_journal, session_nodes)",
            sandbox.schema()
        ),
        "✅ Row-level security hides no rows",
    ] {
        assert!(text.lines().any(|it| it == line), "no line `{line}` in\n{text}");
    }
    let settings: Vec<_> =
        text.lines().filter(|line| line.starts_with("✅ Settings in effect: ")).collect();
    assert_eq!(settings.len(), 2, "{text}");
    let namespace = format!("namespace: \"{}\"", sandbox.namespace());
    assert!(settings[0].contains(&namespace) && settings[0].contains("deadline: 50ms"), "{text}");
    let schema = format!("schema: \"{}\"", sandbox.schema());
    assert!(settings[1].contains(&schema) && settings[1].contains("max_connections"), "{text}");
    let handle = "✅ Settings of sessions in effect: ttl: 300s, mode: On, policy: Available, ";
    assert!(text.contains(handle), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_one_document_and_check_changes_nothing() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    // The schema is missing.
    let text = expect(check_of(&sandbox).arg("--json"), 1, &[]).await?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    assert_eq!(json["ok"], false);
    assert_eq!(json["servers"][0]["server"], "redis");
    assert_eq!(json["servers"][0]["status"], "ok");
    assert_eq!(json["servers"][0]["steps"][1]["message"], "PING response: PONG");
    assert_eq!(json["servers"][1]["status"], "failed");

    let mut redis = backends.redis().connect().await?;
    let mut keys = redis.scan_match::<_, String>(format!("{}*", sandbox.namespace())).await?;
    assert!(keys.next_item().await.is_none());
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = $1";
    let schemas = sqlx::query_scalar(schemas).bind(sandbox.schema());
    let schemas: i64 = schemas.fetch_one(&mut backends.postgres().connect().await?).await?;
    assert_eq!(schemas, 0);
    Ok(())
}

/// The application does not start with Redis alone. That is a failure of the application's
/// settings, but not of a check that names one server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_the_application_refuses_are_a_failure() -> Outcome {
    let backends = shared().await?;
    let redis = backends.redis().url();
    expect(check().env("REDIS_URL", redis), 1, &["does not start"]).await?;
    expect(&mut check_redis(redis), 0, &[]).await?;
    Ok(())
}

/// The application's deadlines decide whether a server is near enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn distant_server_is_too_slow_unless_the_settings_allow_it() -> Outcome {
    const DISTANCE: Duration = Duration::from_millis(40);
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    store(&sandbox).await?;
    let redis = Proxy::start(backends.redis().address()).await?;
    let postgres = Proxy::start(backends.postgres().address()).await?;
    let _far = [&redis, &postgres].map(|it| it.inject(Toxic::latency(DISTANCE, Duration::ZERO)));
    let redis_url = redis.url(sandbox.redis_url());
    let database_url = postgres.url(sandbox.database_url());
    let near_redis = || {
        let mut command = check_of(&sandbox);
        command.env("DATABASE_URL", &database_url);
        command
    };
    let near_postgres = || {
        let mut command = check_of(&sandbox);
        command.env("REDIS_URL", &redis_url);
        command
    };

    let lines = ["❌ Redis is too slow to be used", "over 20 ms is too slow"];
    expect(&mut near_postgres(), 1, &lines).await?;
    let mut command = near_postgres();
    command.env("SESSION_CACHE_SLOW_MS", "1000").env("SESSION_CACHE_DEADLINE_MS", "1000");
    expect(&mut command, 0, &["(slow: over 125 ms)", "deadline: 1s"]).await?;
    command.env("SESSION_VALIDATION_TIMEOUT_MS", "3000");
    expect(&mut command, 0, &["(slow: over 1000 ms)"]).await?;

    let mut command = near_redis();
    command.env("SESSION_DB_READ_DEADLINE_MS", "20");
    let lines = ["❌ Postgres is too slow to be used", "SESSION_DB_READ_DEADLINE_MS"];
    expect(&mut command, 1, &lines).await?;
    let mut command = near_redis();
    command.env("SESSION_DB_READ_DEADLINE_MS", "1000");
    command.env("SESSION_VALIDATION_TIMEOUT_MS", "1000");
    expect(&mut command, 0, &["✅ A validation by Postgres takes "]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_server_exits_2_and_sqlite_needs_no_check() -> Outcome {
    expect(&mut check(), 2, &[]).await?;
    let lines = ["DATABASE_URL is sqlite:", "nothing to check"];
    expect(check().env("DATABASE_URL", "sqlite:app.db"), 0, &lines).await?;
    Ok(())
}

/// An empty variable counts as not set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_variables_count_as_not_set() -> Outcome {
    const VARIABLES: [&str; 34] = [
        "DATABASE_URL",
        "DATABASE_PASSWORD_FILE",
        "REDIS_URL",
        "REDIS_PASSWORD_FILE",
        "REDIS_SENTINEL_USERNAME",
        "REDIS_SENTINEL_PASSWORD",
        "REDIS_SENTINEL_PASSWORD_FILE",
        "REDIS_TLS_CA_FILE",
        "REDIS_TLS_CERT_FILE",
        "REDIS_TLS_KEY_FILE",
        "REDIS_TLS_SERVER_NAME",
        "REDIS_TLS_INSECURE",
        "SESSION_CACHE_ENABLED",
        "SESSION_CACHE_TTL",
        "SESSION_CACHE_NAMESPACE",
        "SESSION_CACHE_POLICY",
        "SESSION_CACHE_KEY",
        "SESSION_CACHE_KEY_FILE",
        "SESSION_CACHE_POOL_SIZE",
        "SESSION_CACHE_REPLICATED",
        "SESSION_CACHE_DEADLINE_MS",
        "SESSION_CACHE_SLOW_MS",
        "SESSION_VALIDATION_TIMEOUT_MS",
        "SESSION_CHANGE_WAIT_MS",
        "SESSION_JOURNAL_INTERVAL_MS",
        "SESSION_RETENTION_DAYS",
        "SESSION_DB_CONCURRENT_READS",
        "SESSION_DB_READ_DEADLINE_MS",
        "SESSION_DB_CHANGE_DEADLINE_MS",
        "SESSION_NEAR_CACHE_MB",
        "SESSION_DB_SCHEMA",
        "SESSION_DB_MIGRATE",
        "SESSION_DB_POOLED",
        "SESSION_DB_POOL_SIZE",
    ];
    let sandbox = shared().await?.sandbox();
    store(&sandbox).await?;
    for empty in ["", " "] {
        let mut command = check();
        command.envs(VARIABLES.map(|name| (name, empty)));
        let ran = run(&mut command).await?;
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("nothing to check"), "{}", ran.stderr);
        let servers =
            ["--redis-url", sandbox.redis_url(), "--database-url", sandbox.database_url()];
        expect(command.args(servers).args(["--schema", sandbox.schema()]), 0, &["✅"]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_size_has_the_range_of_the_application() -> Outcome {
    for size in ["0", "1001", "65535", "many"] {
        let ran = run(check().env("SESSION_CACHE_POOL_SIZE", size)).await?;
        assert_eq!(ran.code, 2, "{size}");
        assert!(ran.stderr.contains("1 to 1000"), "{}", ran.stderr);
    }
    let backends = shared().await?;
    expect(check_redis(backends.redis().url()).env("SESSION_CACHE_POOL_SIZE", " 3 "), 0, &["✅"])
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_url_is_a_failure_and_is_not_printed() -> Outcome {
    for url in ["s3cret", "http://u:s3cret@h/", "redis://:s3cret@h:notaport/"] {
        expect(check_redis(url).args(["--database-url", url]), 1, &[]).await?;
    }
    Ok(())
}

on_each_backend!(check_of_paused_servers_ends);
async fn check_of_paused_servers_ends(backend: Backend) -> Outcome {
    let backends = Backends::builder().backend(backend).start().await?;
    let _redis = backends.redis().pause().await?;
    let _postgres = backends.postgres().pause().await?;
    let text = expect(&mut check_of(&backends.sandbox()), 1, &[]).await?;
    assert!(text.contains("the first command got no reply in time"), "{text}");
    assert_eq!(text.matches("no response within 2 s").count(), 1, "{text}");
    Ok(())
}
