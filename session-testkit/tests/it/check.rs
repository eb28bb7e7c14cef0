//! `session-testkit check`: the lines of a good deployment, and each way to fail.

mod postgres;
mod redis;

use std::{
    process::Output,
    time::{Duration, Instant},
};

use ::redis::AsyncCommands as _;
use session_testkit::backends::{Backend, Backends, Sandbox};
use tokio::process::Command;

use crate::harness::{Outcome, on_each_backend, shared};
use crate::support::store;

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
    let Output { status, stdout, stderr } = command.output().await?;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_pair_prints_the_lines_and_exits_0() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    store(&sandbox).await?;
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
            "✅ Schema {} exists (sessions, session_users, session_journal, session_nodes)",
            sandbox.schema()
        ),
        "✅ Row-level security hides no rows",
    ] {
        assert!(text.lines().any(|it| it == line), "no line `{line}` in\n{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_one_document_on_standard_output() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let (code, text) = run(check_of(&sandbox).arg("--json")).await?;
    // The schema is missing.
    assert_eq!(code, 1);
    let json: serde_json::Value = serde_json::from_str(&text)?;
    assert_eq!(json["ok"], false);
    assert_eq!(json["servers"][0]["server"], "redis");
    assert_eq!(json["servers"][0]["status"], "ok");
    assert_eq!(json["servers"][0]["steps"][1]["message"], "PING response: PONG");
    assert_eq!(json["servers"][1]["status"], "failed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_no_key_and_makes_no_schema() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    run(&mut check_of(&sandbox)).await?;
    let mut redis = backends.redis().connect().await?;
    let mut keys = redis.scan_match::<_, String>(format!("{}*", sandbox.namespace())).await?;
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
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// What the application refuses to start with is a failure where it is all that the application
/// gets, and a warning where somebody looks at one server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_application_refuses_is_a_failure() -> Outcome {
    let backends = shared().await?;
    let redis = backends.redis().url();
    let (code, text) = run(check().env("REDIS_URL", redis)).await?;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not start"), "{text}");
    let (code, text) = run(check().args(["--redis-url", redis])).await?;
    assert_eq!(code, 0, "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_named_exits_2_and_sqlite_has_nothing_to_check() -> Outcome {
    let (code, _) = run(&mut check()).await?;
    assert_eq!(code, 2);
    let (code, text) = run(check().env("DATABASE_URL", "sqlite:app.db")).await?;
    assert_eq!(code, 0);
    assert!(
        text.contains("DATABASE_URL is sqlite:") && text.contains("nothing to check"),
        "{text}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_for_a_url_is_a_failure_that_does_not_repeat_it() -> Outcome {
    for url in ["s3cret", "http://u:s3cret@h/", "redis://:s3cret@h:notaport/"] {
        let (code, text) = run(check().args(["--redis-url", url, "--database-url", url])).await?;
        assert_eq!(code, 1, "{url}");
        assert!(!text.contains("s3cret"), "{url}: {text}");
    }
    Ok(())
}

on_each_backend!(paused_servers_do_not_hang_it);
async fn paused_servers_do_not_hang_it(backend: Backend) -> Outcome {
    let backends = Backends::builder().backend(backend).start().await?;
    let _redis = backends.redis().pause().await?;
    let _postgres = backends.postgres().pause().await?;
    let begin = Instant::now();
    let (code, text) = run(&mut check_of(&backends.sandbox())).await?;
    assert_eq!(code, 1);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert_eq!(text.matches("no response within 2 s").count(), 2, "{text}");
    Ok(())
}
