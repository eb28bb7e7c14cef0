//! `session-testkit verify`: all is well on good servers, and what is broken fails the stage that
//! says so.

use std::{process::Stdio, time::Duration};

use redis::AsyncCommands as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use session_testkit::{
    backends::{Backend, Backends},
    proxy::Proxy,
    wait,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    command::{Ran, denied, hold_first_logins, run, testkit, testkit_on},
    harness::{Outcome, on_each_backend, shared},
};

/// The stages in their order, and the status of each.
fn statuses(report: &Value) -> Vec<(&str, &str)> {
    let stages = report["stages"].as_array().expect("stages").iter();
    stages
        .map(|stage| (stage["stage"].as_str(), stage["status"].as_str()))
        .map(|(stage, status)| (stage.unwrap_or_default(), status.unwrap_or_default()))
        .collect()
}

/// Every stage but the benchmark, in which a busy machine may leave requests unanswered, passed.
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
    // Standard error has the lines for people.
    for line in ["[3/6] caching integration: ", "of 6 stages passed, "] {
        assert!(ran.stderr.contains(line), "{}", ran.stderr);
    }
    Ok(report)
}

/// The names of a stage's steps.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_servers_pass_and_nothing_is_harmed_or_left() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let canary = format!("{}:canary", sandbox.namespace());
    let mut redis = backends.redis().connect().await?;
    let _: () = redis.set(&canary, "alive").await?;

    let ran = run(testkit_on(&backends).args(["verify", "--json"])).await?;
    let report = assert_good(&ran)?;
    assert_eq!((&report["redis"], &report["postgres"]), (&"given".into(), &"given".into()));
    assert_eq!(steps(&report, "fallback"), ["cut off", "hanging"]);

    let alive: Option<String> = redis.get(&canary).await?;
    assert_eq!(alive.as_deref(), Some("alive"), "nobody flushed");
    assert_nothing_left(&backends, &schema(&ran.stdout)).await
}

/// The schema that it made, which stands in the first step's line.
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

/// The first logins of the last stage wait for longer than an application would let them. The stage
/// judges no speed, and must not fail for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fallback_passes_with_slow_first_logins() -> Outcome {
    let backends = shared().await?;
    let proxy = Proxy::start(backends.postgres().address()).await?;
    let url = proxy.url(backends.postgres().url());
    let mut command = testkit_on(&backends);
    command.args(["verify", "--database-url", &url]).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut last = String::new();
    while let Some(line) = lines.next_line().await? {
        if line.contains("[5/6]") {
            hold_first_logins(&proxy).await;
        }
        if line.contains("[6/6]") {
            last = line;
        }
    }
    child.wait().await?;
    assert!(last.starts_with('\u{2705}'), "{last}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destructive_is_what_allows_a_flush() -> Outcome {
    let backends = shared().await?;
    // Nobody else's: it will be flushed.
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
async fn without_evalsha_the_caching_stage_fails() -> Outcome {
    let backends = shared().await?;
    let (redis, url) = denied("evalsha").await?;
    let mut command = testkit_on(&backends);
    let ran = run(command.args(["verify", "--json", "--redis-url", &url])).await?;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout)?;
    let expected = [
        // It says that scripts are denied; a deployment can live with it.
        ("connection", "warning"),
        ("benchmark", "failed"),
        ("caching", "failed"),
        // `degraded`, for it names the refusal.
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
async fn a_postgres_without_rights_fails_the_first_stage() -> Outcome {
    let backends = shared().await?;
    // A role that may connect, and may make nothing.
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

on_each_backend!(sigterm_removes_what_it_made);
async fn sigterm_removes_what_it_made(backend: Backend) -> Outcome {
    // Named to it, and nobody else's: so all that is there afterwards was left behind.
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
