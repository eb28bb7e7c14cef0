//! `session-testkit verify`: good servers pass all stages, and a broken one fails its stage.

use std::{process::Stdio, time::Duration};

use redis::AsyncCommands as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use session_testkit::{
    backends::{Backend, Backends},
    proxy::Proxy,
    wait,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Command,
};

use crate::{
    command::{Ran, denied, hold_first_logins, run, testkit, testkit_on},
    harness::{Failure, Outcome, on_each_backend, shared},
};

/// Returns the stages in order, each with its status.
fn statuses(report: &Value) -> Vec<(&str, &str)> {
    let stages = report["stages"].as_array().expect("stages").iter();
    stages
        .map(|stage| (stage["stage"].as_str(), stage["status"].as_str()))
        .map(|(stage, status)| (stage.unwrap_or_default(), status.unwrap_or_default()))
        .collect()
}

/// Asserts that all stages passed. Only the benchmark may fail, because a busy machine may leave
/// requests without a response.
fn assert_good(ran: &Ran) -> Result<Value, serde_json::Error> {
    let report: Value = serde_json::from_str(&ran.stdout)?;
    let statuses = statuses(&report);
    let names: Vec<&str> = statuses.iter().map(|(stage, _)| *stage).collect();
    let expected = ["connection", "benchmark", "caching", "health", "errors", "fallback"];
    assert_eq!(names, expected);
    for (stage, status) in statuses {
        assert!(status == "ok" || stage == "benchmark", "{stage}: {report:#}");
    }
    let benchmark = &report["stages"][1];
    assert_eq!(ran.code, i32::from(benchmark["status"] == "failed"));
    assert_eq!(report["ok"], ran.code == 0);
    assert!(benchmark["bench"]["figures"]["hit"]["count"].as_u64() > Some(0));
    // Standard error has the text for operators.
    for line in ["[3/6] caching integration: ", "of 6 stages passed, "] {
        assert!(ran.stderr.contains(line), "{}", ran.stderr);
    }
    Ok(report)
}

/// Returns the names of a stage's steps.
fn steps<'a>(report: &'a Value, stage: &str) -> Vec<&'a str> {
    let stages = report["stages"].as_array().expect("stages");
    let stage = stages.iter().find(|it| it["stage"] == stage);
    let steps = stage.and_then(|stage| stage["steps"].as_array());
    let names = steps.into_iter().flatten();
    names.filter_map(|step| step["step"].as_str()).collect()
}

on_each_backend!(own_servers_are_killed_and_pass_all_stages);
async fn own_servers_are_killed_and_pass_all_stages(backend: Backend) -> Outcome {
    let mut command = testkit();
    command.env("SESSION_TESTKIT_BACKEND", backend.to_string());
    let ran = run(command.args(["verify", "--json"])).await?;
    let report = assert_good(&ran)?;
    assert_eq!(report["redis"], backend.to_string());
    let ways = ["cut off", "hanging", "killed", "paused", "flushed"];
    assert_eq!(steps(&report, "fallback"), ways);
    Ok(())
}

/// Runs the command. The first logins of its last stage wait for longer than an application would
/// let them. The stage judges no speed, and must not fail for that.
async fn run_with_slow_last_logins(command: &mut Command, proxy: &Proxy) -> Result<Ran, Failure> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut document = String::new();
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let progress = async {
        let mut stderr = String::new();
        while let Some(line) = lines.next_line().await? {
            if line.contains("[5/6]") {
                hold_first_logins(proxy).await;
            }
            stderr.extend([line.as_str(), "\n"]);
        }
        Ok::<_, std::io::Error>(stderr)
    };
    let (read, stderr) = tokio::join!(stdout.read_to_string(&mut document), progress);
    read?;
    let code = child.wait().await?.code().unwrap_or(-1);
    Ok(Ran { code, stdout: document, stderr: stderr? })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_servers_pass_and_keep_their_data() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let canary = format!("{}:canary", sandbox.namespace());
    let mut redis = backends.redis().connect().await?;
    let _: () = redis.set(&canary, "alive").await?;

    let proxy = Proxy::start(backends.postgres().address()).await?;
    let url = proxy.url(backends.postgres().url());
    let mut command = testkit_on(&backends);
    command.args(["verify", "--json", "--database-url", &url]);
    let ran = run_with_slow_last_logins(&mut command, &proxy).await?;
    let report = assert_good(&ran)?;
    assert_eq!((&report["redis"], &report["postgres"]), (&"given".into(), &"given".into()));
    assert_eq!(steps(&report, "fallback"), ["cut off", "hanging"]);

    let alive: Option<String> = redis.get(&canary).await?;
    assert_eq!(alive.as_deref(), Some("alive"), "Redis was flushed");
    assert_nothing_left(&backends, &schema(&ran.stdout)).await
}

/// Returns the schema of the run, which the first step names.
fn schema(text: &str) -> String {
    let begin = text.find("schema testkit_").expect("a schema") + "schema ".len();
    let word = text[begin..].chars();
    word.take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

async fn assert_nothing_left(backends: &Backends, schema: &str) -> Outcome {
    let mut postgres = backends.postgres().connect().await?;
    let there: bool = sqlx::query_scalar("SELECT to_regnamespace($1) IS NOT NULL")
        .bind(schema)
        .fetch_one(&mut postgres)
        .await?;
    assert!(!there, "{schema} was left behind");
    let mut redis = backends.redis().connect().await?;
    let keys: Vec<String> = redis.keys(format!("{}:*", schema.replace('_', "-"))).await?;
    assert!(keys.is_empty(), "{keys:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_requires_destructive() -> Outcome {
    let backends = shared().await?;
    // This Redis is of this test alone, because it will be flushed.
    let (redis, url) = denied("debug").await?;
    let mut command = testkit_on(&backends);
    command.args(["verify", "--json", "--destructive", "--redis-url", &url]);
    let ran = run(&mut command).await?;
    let report = assert_good(&ran)?;
    assert_eq!(steps(&report, "fallback"), ["cut off", "hanging", "flushed"]);
    assert!(!ran.stdout.contains("s3cret") && !ran.stderr.contains("s3cret"));
    drop(redis);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_evalsha_fails_the_caching_stage() -> Outcome {
    let backends = shared().await?;
    let (redis, url) = denied("evalsha").await?;
    let mut command = testkit_on(&backends);
    let ran = run(command.args(["verify", "--json", "--redis-url", &url])).await?;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout)?;
    let expected = [
        // Scripts are denied, which a deployment may accept.
        ("connection", "warning"),
        ("benchmark", "failed"),
        ("caching", "failed"),
        // `degraded` with the reason.
        ("health", "warning"),
        ("errors", "ok"),
        ("fallback", "skipped"),
    ];
    assert_eq!(statuses(&report), expected, "{report:#}");
    let caching = report["stages"][2]["steps"].as_array().expect("steps");
    let failed = caching.last().expect("a step");
    assert_eq!((&failed["step"], &failed["status"]), (&"hit".into(), &"failed".into()));
    assert!(failed["why"].is_string() && failed["help"].is_string());
    drop(redis);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_without_rights_fails_the_first_stage() -> Outcome {
    let backends = shared().await?;
    // This role may connect, and may not create anything.
    let role = format!("{}_reader", backends.sandbox().schema());
    let mut postgres = backends.postgres().connect().await?;
    let execute = async |postgres: &mut sqlx::PgConnection, statement: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(postgres).await
    };
    execute(&mut postgres, format!("CREATE ROLE {role} LOGIN")).await?;
    let url = backends.postgres().url().replace("//postgres@", &format!("//{role}@"));
    let mut command = testkit_on(&backends);
    let ran = run(command.args(["verify", "--json", "--database-url", &url])).await;
    execute(&mut postgres, format!("DROP ROLE {role}")).await?;
    let ran = ran?;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout)?;
    let statuses = statuses(&report);
    assert_eq!(statuses[0], ("connection", "failed"), "{report:#}");
    let rest = statuses[1..].iter();
    assert!(rest.clone().all(|(_, status)| *status == "skipped"), "{report:#}");
    assert!(ran.stderr.contains("The tables could not be created"), "{}", ran.stderr);
    Ok(())
}

on_each_backend!(sigterm_removes_the_schema_and_the_keys);
async fn sigterm_removes_the_schema_and_the_keys(backend: Backend) -> Outcome {
    // These servers are of this test alone, so all that remains was left behind.
    let backends = Backends::builder().backend(backend).start().await?;
    let mut child = testkit_on(&backends).args(["verify"]).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let first = lines.next_line().await?.unwrap_or_default();
    assert!(first.contains("[1/6] connection"), "{first}");
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).expect("a pid");
    kill_process(pid, Signal::TERM)?;
    let mut status = None;
    wait::until("the command to end", Duration::from_secs(20), async || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    })
    .await?;
    assert_eq!(status.and_then(|status| status.code()), Some(143));
    let mut postgres = backends.postgres().connect().await?;
    let left: Vec<String> =
        sqlx::query_scalar("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'testkit%'")
            .fetch_all(&mut postgres)
            .await?;
    assert!(left.is_empty(), "{left:?}");
    let mut redis = backends.redis().connect().await?;
    let keys: Vec<String> = redis.keys("*").await?;
    assert!(keys.is_empty(), "{keys:?}");
    Ok(())
}
