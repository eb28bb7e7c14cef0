//! `session-testkit bench`: its document, its report and its exit codes. No test asserts the speed
//! of this machine.

use serde_json::Value;
use session_testkit::{backends::Backend, proxy::Proxy};

use crate::{
    command::{Ran, denied, hold_first_logins, run, testkit, testkit_on},
    harness::{Outcome, on_each_backend, shared},
};

const SHORT: [&str; 4] = ["--requests", "203", "--sessions", "30"];

/// Returns the verdict on a bar.
fn verdict<'a>(report: &'a Value, bar: &str) -> &'a Value {
    let verdicts = report["verdicts"].as_array().expect("verdicts");
    let found = verdicts.iter().find(|verdict| verdict["bar"] == bar);
    found.unwrap_or_else(|| panic!("no verdict on {bar} in {report}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_document_agrees_with_the_exit_code() -> Outcome {
    let backends = shared().await?;
    let mut command = testkit_on(&backends);
    let Ran { code, stdout, stderr } = run(command.arg("bench").args(SHORT).arg("--json")).await?;
    let report: Value = serde_json::from_str(&stdout)?;
    assert_eq!(report["ok"], code == 0, "{code}: {stdout}");
    assert!(matches!(code, 0 | 1), "{code}: {stderr}");
    let figures = &report["figures"];
    // Each request is counted once. On a busy machine some exceed their deadline.
    let count = |name: &str| figures[name]["count"].as_u64().unwrap_or_default();
    let answered = count("withoutCache") + count("withCache") + count("miss");
    assert_eq!(figures["sent"], 203 + 203 + 30);
    assert_eq!(
        answered + figures["failed"].as_u64().unwrap_or_default(),
        203 + 203 + 30,
        "{figures}"
    );
    assert!(count("hit") > 0 && count("miss") > 0, "{figures}");
    for latency in ["withoutCache", "withCache", "hit", "miss", "ping", "select"] {
        for value in ["mean_us", "p50_us", "p95_us", "p99_us"] {
            let micros = figures[latency][value].as_f64();
            assert!(micros.is_some_and(|it| it > 0.0), "{latency}.{value}");
        }
    }
    assert_eq!(report["settings"]["requests"], 203);
    assert_eq!(report["machine"]["build"], "debug");
    assert!(report["method"].as_str().is_some_and(|it| it.starts_with("closed loop")));
    for bar in ["hitP99", "missP99", "hitRate", "improvement", "answered"] {
        let verdict = verdict(&report, bar);
        assert!(verdict["met"].is_boolean() && verdict["limit"].is_number());
        let help = verdict["help"].as_array().map(Vec::len);
        assert_eq!(help == Some(0), verdict["met"] == true, "{verdict}");
    }
    // Standard error is no terminal here, therefore it has no control sequences.
    assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn report_has_both_sides_and_a_verdict_per_bar() -> Outcome {
    let backends = shared().await?;
    let mut command = testkit_on(&backends);
    let ran = run(command.args(["bench", "--duration", "1s", "--sessions", "30"])).await?;
    let lines = |begin: &str| {
        let lines = ran.stdout.lines();
        lines.filter(|line| line.starts_with(begin)).count()
    };
    for line in ["without cache ", "with cache ", "misses ", "improvement, %", "hit rate, %"] {
        assert_eq!(lines(line), 1, "{line}: {}", ran.stdout);
    }
    assert_eq!(lines("✅ ") + lines("❌ "), 5, "{}", ran.stdout);
    assert_eq!(ran.code, i32::from(lines("❌ ") > 0), "{}", ran.stdout);
    assert!(ran.stdout.contains("30 sessions in turn, 1 s per side"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_scripts_miss_the_hit_rate() -> Outcome {
    let backends = shared().await?;
    let (redis, url) = denied("evalsha").await?;
    let mut command = testkit_on(&backends);
    command.args(["bench", "--json", "--redis-url", &url]);
    let ran = run(command.args(SHORT)).await?;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout)?;
    assert_eq!(report["figures"]["hitRate"], 0.0);
    let missed = verdict(&report, "hitRate");
    assert_eq!(missed["met"], false);
    assert!(missed["help"][0].as_str().is_some_and(|it| it.contains("nothing was filled")));
    let hit = verdict(&report, "hitP99");
    assert_eq!((&hit["met"], &hit["measured"]), (&Value::Bool(false), &Value::Null));
    // The password in the URL is not printed.
    assert!(!ran.stdout.contains("s3cret") && !ran.stderr.contains("s3cret"));
    drop(redis);
    Ok(())
}

on_each_backend!(bench_starts_its_own_servers);
async fn bench_starts_its_own_servers(backend: Backend) -> Outcome {
    let mut command = testkit();
    command.env("SESSION_TESTKIT_BACKEND", backend.to_string());
    // The application's servers are not used.
    command.env("REDIS_URL", "redis://127.0.0.1:1");
    command.env("DATABASE_URL", "postgres://127.0.0.1:1/none");
    let ran = run(command.arg("bench").args(SHORT).arg("--json")).await?;
    let report: Value = serde_json::from_str(&ran.stdout)?;
    for server in ["redis", "postgres"] {
        let described = report["machine"][server].as_str().unwrap_or_default();
        assert!(described.ends_with(&format!(", {backend}")), "{described}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_servers_exit_2_without_their_password() -> Outcome {
    let url = "redis://:s3cret@127.0.0.1:1";
    for command in ["bench", "verify"] {
        let ran = run(testkit().args([command, "--json", "--redis-url", url])).await?;
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{command}");
        assert!(ran.stderr.contains("127.0.0.1:1"), "{}", ran.stderr);
        assert!(ran.stderr.contains("sessionctl check"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("s3cret"), "{}", ran.stderr);
    }
    Ok(())
}

/// The first logins wait for longer than an application would let them. They are not measured, and
/// must not end the measurement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_first_logins_do_not_end_the_measurement() -> Outcome {
    let backends = shared().await?;
    let proxy = Proxy::start(backends.postgres().address()).await?;
    let mut command = testkit_on(&backends);
    command.env("SESSION_TESTKIT_DATABASE_URL", proxy.url(backends.postgres().url()));
    command.arg("bench").args(SHORT).arg("--json");
    let (ran, ()) = tokio::join!(run(&mut command), hold_first_logins(&proxy));
    let Ran { code, stdout, stderr } = ran?;
    assert!(matches!(code, 0 | 1), "{code}: {stderr}");
    let report: Value = serde_json::from_str(&stdout)?;
    assert_eq!(report["figures"]["sent"], 203 + 203 + 30);
    Ok(())
}

/// Short trials on a busy machine find any limit or none. The document must be consistent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn found_limits_agree_with_their_trials() -> Outcome {
    let backends = shared().await?;
    let mut command = testkit_on(&backends);
    command.args(["bench", "--find-limit", "--duration", "50ms", "--sessions", "10", "--json"]);
    let Ran { code, stdout, stderr } = run(&mut command).await?;
    let report: Value = serde_json::from_str(&stdout)?;
    assert!(matches!(code, 0 | 1), "{code}: {stderr}");
    assert_eq!(report["ok"], code == 0, "{stdout}");
    assert!(report["method"].as_str().is_some_and(|it| it.starts_with("open loop")));
    for half in ["healthy", "withoutRedis"] {
        let found = &report[half];
        let trials = found["trials"].as_array().ok_or("trials")?;
        let count = |trial: &Value, name: &str| trial[name].as_u64().unwrap_or_default();
        let mut highest = Value::Null;
        for trial in trials {
            let answered = trial["latency"]["count"].as_u64().unwrap_or_default();
            let (due, failed) = (count(trial, "due"), count(trial, "failed"));
            assert!(due > 0 && due == answered + failed, "{trial}");
            assert_eq!(trial["passed"], (failed + count(trial, "late")) * 100 <= due, "{trial}");
            if trial["passed"] == true && trial["rate"].as_u64() > highest.as_u64() {
                highest = trial["rate"].clone();
            }
        }
        assert_eq!(found["limit"], highest, "{found}");
    }
    assert!(report["healthy"]["hitRate"].as_f64() > Some(0.0), "{stdout}");
    assert_eq!(report["withoutRedis"]["hitRate"], 0.0, "{stdout}");
    Ok(())
}

#[tokio::test]
async fn bar_without_a_search_is_a_bad_argument() -> Outcome {
    let ran = run(testkit().args(["bench", "--bar", "20ms"])).await?;
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("--find-limit"), "{}", ran.stderr);
    Ok(())
}
