//! `session-testkit check`: the lines of a good deployment, and each way to fail.

mod postgres;
mod redis;

use std::{
    process::Output,
    sync::Arc,
    time::{Duration, Instant},
};

use ::redis::AsyncCommands as _;
use session_testkit::backends::{Backend, Backends, Sandbox};
use tokio::process::Command;

use crate::harness::{Outcome, Registry};

pub(crate) fn tests(reg: &mut Registry) {
    reg.shared("good_pair_prints_the_lines_and_exits_0", good);
    reg.shared("json_is_one_document_on_standard_output", json);
    reg.shared("leaves_no_key_and_makes_no_schema", changes_nothing);
    reg.plain(
        "redis_down_says_why_and_what_to_do_without_the_secret",
        redis::down,
    );
    reg.plain(
        "postgres_down_says_why_and_what_to_do_without_the_secret",
        postgres::down,
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
    reg.each_backend("replica_and_denied_commands", redis::roles);
    reg.each_backend("full_redis", redis::full);
    reg.each_backend("redis_of_a_cluster_or_short_of_replicas", redis::not_alone);
    reg.shared("schema_missing_or_incomplete", postgres::schema);
    reg.shared("lost_rights_and_row_level_security", postgres::rights);
    reg.each_backend("postgres_does_not_tell_where_it_stands", postgres::journal);
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
    postgres::make_tables(backends.postgres(), sandbox.schema()).await?;
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
        "✅ CLIENT allowed",
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
