//! `session-testkit faults` and fault runs: short runs on real servers, and each exit code.

use std::{path::Path, time::Duration};

use serde_json::Value;
use session_testkit::{
    backends::{Backend, Backends},
    fault_run::{FaultReached, FaultRun, Reached, State},
    history::History,
    invariants::{self, Invariant, Outcome as Verdict},
    schedule::Schedule,
    workload::Settings,
};
use tokio::process::Command;

use crate::{
    command::{run, testkit, testkit_on},
    harness::{Outcome, default_backend, on_each_backend, shared},
    mutants::{Broken, BrokenCache, Mistake},
    support::roomy,
};

/// Adds the arguments of a short run, with deadlines that a busy machine does not exceed.
fn faults(mut command: Command, rate: &str) -> Command {
    command.arg("faults");
    command.args(["--seed", "7", "--nodes", "2", "--rate", rate, "--cache-ttl", "2s"]);
    command.args(["--redis-timeout", "2s", "--request-timeout", "5s"]);
    command.args(["--timing-slack", "20s"]);
    command
}

on_each_backend!(every_promise_holds_while_redis_is_killed);
async fn every_promise_holds_while_redis_is_killed(backend: Backend) -> Outcome {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name);
    let output = faults(testkit(), "80")
        .env("SESSION_TESTKIT_BACKEND", backend.to_string())
        .args(["--duration", "12s", "--fault", "redis-kill@1+3", "--json"])
        .arg("--history")
        .arg(file("run.jsonl"))
        .arg("--report")
        .arg(file("report.txt"))
        .output()
        .await?;
    let text = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with("seed 7\n"), "{text}");
    let document: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(document["seed"], 7);
    assert_eq!(document["outcome"], "holds");
    let run = &document["runs"][0];
    assert_eq!(run["name"], "redis-kill");
    assert_eq!(run["doubts"], serde_json::json!([]));
    let build = run["machine"]["build"].as_str().unwrap_or_default();
    assert!(text.contains(&format!(", {build} build. Redis ")) && !build.is_empty(), "{text}");
    assert_eq!(run["promises"].as_array().map(Vec::len), Some(Invariant::ALL.len()));
    let fault = &run["figures"]["faults"][0];
    assert!(fault["touched"]["connections"].as_u64() > Some(0), "{fault}");
    assert!(fault["hits_again_us"].is_null() && fault["hitsAgainUs"].is_u64(), "{fault}");
    assert!(run["revokedTried"].as_u64() >= run["revokedWanted"].as_u64());
    assert_eq!(run["load"]["seconds"].as_array().map(Vec::len), Some(12));

    // The history leads to the same verdict.
    let history = read(&file("run.jsonl"))?;
    assert_eq!((history.header.seed, history.header.nodes), (7, 2));
    let verdicts = invariants::check(&history);
    assert_eq!(verdicts.of(Invariant::R1).outcome(), Verdict::Holds);
    assert_eq!(verdicts.doubts(), <[String; 0]>::default());
    let report = std::fs::read_to_string(file("report.txt"))?;
    assert!(report.starts_with("seed 7\n") && report.contains("verdict: holds"), "{report}");
    let again = testkit().args(["faults", "replay"]).arg(file("run.jsonl")).output().await?;
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    Ok(())
}

// The bound of another node's change is D then, and the TTL while Postgres cannot be reached. The
// TTL exceeds D, so that a near hit without the journal would break R1Δ.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_with_near_caches() -> Outcome {
    let own = Backends::builder().backend(default_backend().await?).start().await?;
    let near = roomy().near_cache(16 << 20).ttl(Duration::from_secs(8));
    let deployment = near.start(own).await?;
    let steps = vec!["postgres-link-partition@1+3".parse()?];
    let run = FaultRun::new(&deployment, settings(80, 12), Schedule { seed: 7, steps })?;
    let judged = run.run().await?;
    assert_ne!(judged.outcome(), Verdict::Broken, "{judged}");
    for examined in [Invariant::R1Delta, Invariant::R2, Invariant::R5] {
        assert_eq!(judged.verdicts.of(examined).outcome(), Verdict::Holds, "{judged}");
    }
    let near_hits = |node| deployment.subject().node(node).map(|it| it.metrics().near_hits);
    assert!(near_hits(0) > Some(100), "{:?}", near_hits(0));
    Ok(())
}

/// A library steps the clock. A node that starts meanwhile has not read Postgres' clock yet.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_stepped_by_ten_minutes_change_nothing() -> Outcome {
    let backends = shared().await?;
    let folder = tempfile::tempdir()?;
    let schedule = folder.path().join("schedule.json");
    let steps = r#"{"steps":[{"event":"clock-step","at_ms":3000,"lasts_ms":4000},
        {"event":"node-restart","at_ms":4500,"lasts_ms":1000}]}"#;
    std::fs::write(&schedule, steps)?;
    let mut command = faults(testkit_on(&backends), "80");
    command.args(["--duration", "12s", "--json", "--schedule"]);
    let ran = run(command.arg(schedule)).await?;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let document: Value = serde_json::from_str(&ran.stdout)?;
    let faults = &document["runs"][0]["figures"]["faults"];
    let mut faults = faults.as_array().into_iter().flatten();
    let stepped = faults.find(|fault| fault["name"] == "clock-step");
    // The clock of both nodes was verified.
    let touched = stepped.map(|fault| &fault["touched"]["connections"]);
    assert_eq!(touched, Some(&Value::from(2)), "{}", ran.stderr);
    Ok(())
}

on_each_backend!(sealed_nodes_reject_flipped_entries);
async fn sealed_nodes_reject_flipped_entries(backend: Backend) -> Outcome {
    let own = Backends::builder().backend(backend).start().await?;
    let schedule = |steps: &[&str]| {
        let steps: Result<_, _> = steps.iter().map(|step| step.parse()).collect();
        steps.map(|steps| Schedule { seed: 7, steps })
    };
    let planted = schedule(&["plant-flipped@2+6", "plant-swapped@2+6"])?;
    let deployment = roomy().sealed(true).start(own).await?;
    let run = FaultRun::new(&deployment, settings(80, 10), planted.clone())?;
    let judged = run.run().await?;
    assert_ne!(judged.outcome(), Verdict::Broken, "{judged}");
    for fault in &judged.history.faults {
        let touched = fault.touched.expect("a count");
        assert!(!touched.nothing(), "{fault:?}");
    }
    let rejected = |node| {
        let node = deployment.subject().node(node).expect("a node");
        node.cache_status().rejected.forged
    };
    assert!(rejected(0) + rejected(1) > 0, "{judged}");
    for required in [Invariant::R3, Invariant::R4, Invariant::R5] {
        let verdict = judged.verdicts.of(required);
        assert_eq!(verdict.outcome(), Verdict::Holds, "{judged}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_judges_a_history() -> Outcome {
    let of = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("histories").join(name);
    for (path, code, says) in [
        (of("r1-late-fill-resurrects.jsonl"), 1, "R1   a revoke"),
        (of("r1-holds-begun-before-the-answer.jsonl"), 0, "verdict: holds"),
        (of("no-such.jsonl"), 2, "could not judge"),
        (of("../Cargo.toml"), 2, "line 1 of the history"),
    ] {
        let mut command = testkit();
        let ran = run(command.args(["faults", "replay"]).arg(&path)).await?;
        assert_eq!(ran.code, code, "{}", path.display());
        assert!(ran.stdout.contains(says) || ran.stderr.contains(says));
    }
    let folder = tempfile::tempdir()?;
    let page = folder.path().join("run.html");
    let mut command = testkit();
    command.args(["faults", "replay", "--json", "--html"]).arg(&page);
    let ran = run(command.arg(of("r1-late-fill-resurrects.jsonl"))).await?;
    assert!(std::fs::read_to_string(&page)?.contains("❌ <b>R1</b>"));
    let document: Value = serde_json::from_str(&ran.stdout)?;
    assert_eq!(document["outcome"], "broken");
    assert_eq!(document["promises"][0]["outcome"], "broken");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_pipe_is_no_error() -> Outcome {
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", "\"$0\" faults --list | true"]);
    let ran = run(shell.arg(env!("CARGO_BIN_EXE_session-testkit"))).await?;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_runs_end_with_a_table() -> Outcome {
    let backends = shared().await?;
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name);
    let mut command = faults(testkit_on(&backends), "80");
    // Events that damage no server, because named servers are shared.
    command.args(["--duration", "3s", "--fault", "plain-revoke", "random-tokens"]);
    for (flag, name) in
        [("--html", "runs.html"), ("--junit", "runs.xml"), ("--reached", "reached.json")]
    {
        command.arg(flag).arg(file(name));
    }
    std::fs::write(file("summary.md"), "an earlier step\n")?;
    command.env("GITHUB_STEP_SUMMARY", file("summary.md"));
    let ran = run(&mut command).await?;
    let rows: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("| ")).collect();
    assert_eq!(rows.len(), 3, "{}", ran.stdout);
    assert!(rows[1].starts_with("| plain-revoke | 7 | "), "{rows:?}");
    assert!(rows[2].starts_with("| random-tokens | 7 | "), "{rows:?}");

    let text = |name: &str| std::fs::read_to_string(file(name));
    let index = text("runs.html")?;
    for page in ["runs-1-plain-revoke.html", "runs-2-random-tokens.html"] {
        assert!(index.contains(&format!("<a href=\"{page}\">")), "{index}");
        assert!(text(page)?.contains(">node 1</text>"), "{page}");
    }
    let junit = text("runs.xml")?;
    let cases = 2 * (Invariant::ALL.len() + 1);
    assert!(junit.contains(&format!("tests=\"{cases}\"")), "{junit}");
    assert!(junit.contains("<testsuite name=\"plain-revoke, seed 7\""), "{junit}");
    let summary = text("summary.md")?;
    assert!(summary.starts_with("an earlier step\n### Fault runs, seed 7"), "{summary}");
    assert!(summary.contains("| random-tokens | 7 | "), "{summary}");
    let reached: Reached = serde_json::from_str(&text("reached.json")?)?;
    let revoked = &reached.0["plain-revoke"];
    assert_eq!((revoked.injected, revoked.with_near_caches), (1, 0));
    for state in [State::Validation, State::Hit, State::JournalRead] {
        assert!(revoked.count(state) > 0, "{state:?}: {revoked:?}");
    }
    Ok(())
}

// The cluster needs native servers of its own, and the run after it none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_whose_servers_do_not_start_is_a_row_and_the_others_run() -> Outcome {
    let backends = shared().await?;
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name);
    let mut command = faults(testkit_on(&backends), "80");
    command.env("SESSION_TESTKIT_REDIS_SERVER", file("no-server"));
    command.args(["--destructive", "--duration", "3s", "--json"]);
    command.args(["--fault", "redis-cluster-slot-move", "random-tokens"]);
    command.arg("--junit").arg(file("runs.xml")).arg("--reached").arg(file("reached.json"));
    let ran = run(&mut command).await?;
    assert_eq!(ran.code, 2, "{ran:?}");
    let document: Value = serde_json::from_str(&ran.stdout)?;
    assert_eq!(document["outcome"], "inconclusive");
    let [failed, other] = [&document["runs"][0], &document["runs"][1]];
    assert_eq!(failed["name"], "redis-cluster-slot-move");
    assert_eq!(failed["outcome"], "inconclusive");
    let why = failed["couldNotRun"].as_str().unwrap_or_default();
    assert!(why.contains("no-server"), "{failed}");
    assert_eq!((&other["name"], &other["couldNotRun"]), (&"random-tokens".into(), &Value::Null));
    let row = "| redis-cluster-slot-move | 7 | inconclusive (could not run: ";
    assert!(ran.stderr.lines().any(|line| line.starts_with(row)), "{}", ran.stderr);
    let junit = std::fs::read_to_string(file("runs.xml"))?;
    assert!(junit.contains("<error message=\"could not run\""), "{junit}");
    // A fault that was not injected has reached nothing.
    let reached: Reached = serde_json::from_slice(&std::fs::read(file("reached.json"))?)?;
    assert_eq!(reached.0.keys().collect::<Vec<_>>(), ["random-tokens"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pair_that_no_run_reached_exits_1() -> Outcome {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, injected: u64, missing: State| {
        let all = State::ALL.iter().filter(|state| **state != missing);
        let counts = all.map(|state| (*state, 1)).collect();
        let fault = FaultReached { injected, with_near_caches: injected, counts };
        let reached = Reached([("redis-kill".to_owned(), fault)].into());
        let path = folder.path().join(name);
        std::fs::write(&path, serde_json::to_string(&reached)?)?;
        Ok::<_, crate::harness::Failure>(path)
    };
    let nights = [write("1.json", 3, State::Fill)?, write("2.json", 3, State::Touch)?];
    let reached = async |files: &[&Path], more: &[&str]| {
        let mut command = testkit();
        let command = command.args(["faults", "reached", "--fault", "redis-kill"]);
        run(command.args(files).args(more)).await
    };
    let one = reached(&[&nights[0]], &[]).await?;
    assert_eq!(one.code, 1, "{one:?}");
    assert!(one.stdout.contains("never under way when redis-kill began: fill"), "{}", one.stdout);
    let few = reached(&[&nights[0]], &["--at-least", "4"]).await?;
    assert_eq!(few.code, 2, "three injections are too few for a verdict: {few:?}");
    assert!(few.stdout.contains("3 injections are too few: redis-kill"), "{}", few.stdout);
    let both = reached(&[&nights[0], &nights[1]], &["--at-least", "6", "--json"]).await?;
    assert_eq!(both.code, 0, "{both:?}");
    let document: Value = serde_json::from_str(&both.stdout)?;
    assert_eq!(document["reached"]["redis-kill"]["counts"]["login"], 2, "{document}");
    // A fault that no run injected is a gap, and without a list each fault is expected.
    let never = reached(&[&nights[0]], &["--at-least", "4", "--fault", "redis-pause"]).await?;
    assert_eq!(never.code, 1, "{never:?}");
    assert!(never.stdout.contains("never injected with an effect: redis-pause"), "{never:?}");
    assert!(never.stdout.contains("1 gaps. 0 of 2 faults"), "{never:?}");
    let mut all = testkit();
    let all = run(all.args(["faults", "reached", "--at-least", "4"]).arg(&nights[0])).await?;
    assert_eq!(all.code, 1, "{all:?}");
    assert!(all.stdout.contains("never injected with an effect: late-revoke"), "{all:?}");
    let unreadable = reached(&[Path::new("no-such.json")], &[]).await?;
    assert_eq!(unreadable.code, 2, "{unreadable:?}");
    Ok(())
}

fn read(path: &Path) -> Result<History, crate::harness::Failure> {
    let file = std::io::BufReader::new(std::fs::File::open(path)?);
    Ok(History::read(file)?)
}

on_each_backend!(each_kind_of_event_has_an_effect);
/// Injects one event of each kind. Each must report an effect, and no promise may be broken.
async fn each_kind_of_event_has_an_effect(backend: Backend) -> Outcome {
    let steps = [
        "lose-unlinks@0+14",
        "lose-unlink-replies@0+14",
        "lose-fences@0+14",
        "lose-fence-replies@0+14",
        "redis-link-latency@1+2/1",
        "plant-garbage@1+2",
        "plant-swapped@1+2",
        "plant-oversized@3+2",
        "plant-wrong-type@3+2",
        "plain-revoke@3+3",
        "late-revoke@4+2",
        "random-tokens@6+1",
        "node-restart@7+3/1",
        "postgres-terminate@11+1",
        "redis-flush-all@9+1",
        "redis-client-kill@10.5+1",
    ];
    let steps: Result<_, _> = steps.iter().map(|step| step.parse()).collect();
    let schedule = Schedule { seed: 7, steps: steps? };
    let own = Backends::builder().backend(backend).start().await?;
    let deployment = roomy().start(own).await?;
    let judged = FaultRun::new(&deployment, settings(60, 14), schedule)?.run().await?;
    assert_ne!(judged.outcome(), Verdict::Broken, "{judged}");
    assert_eq!(judged.report.problems, Vec::<String>::new());
    // Of few commands, perhaps none is lost.
    for fault in &judged.history.faults {
        let touched = fault.touched.expect("a count");
        assert!(fault.name.starts_with("lose-") || !touched.nothing(), "{fault:?}");
    }
    let lost = judged.history.faults.iter().filter(|fault| fault.name.starts_with("lose-"));
    let lost: u64 = lost.filter_map(|fault| fault.touched).map(|it| it.connections).sum();
    assert!(lost > 0, "{judged}");
    for required in [Invariant::R3, Invariant::R4, Invariant::R8, Invariant::R11] {
        let verdict = judged.verdicts.of(required);
        assert_eq!(verdict.outcome(), Verdict::Holds, "{judged}");
    }
    Ok(())
}

fn settings(rate: u32, secs: u64) -> Settings {
    let mut settings = Settings::new(7);
    settings.rate = rate;
    settings.sessions = 40;
    settings.duration = Duration::from_secs(secs);
    settings.parameters.budget_slack = Duration::from_secs(20);
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_without_unlinks_breaks_r1() -> Outcome {
    let backends = shared().await?;
    let deployment = roomy()
        .ttl(Duration::from_secs(4))
        .build_with(|parts| async move {
            // The cache acknowledges UNLINKs and does not send them.
            let cache = BrokenCache {
                cache: parts.cache()?,
                broken: Broken::new(Some(Mistake::NeverUnlinks)),
            };
            let builder = session_layer::Sessions::builder(cache, parts.store()?);
            Ok(builder.ttl(parts.ttl).validation_timeout(parts.budget).build()?)
        })
        .start(crate::deployment::given(&backends).await?)
        .await?;
    let judged = FaultRun::new(&deployment, settings(80, 6), Schedule::default())?;
    let judged = judged.run().await?;
    assert_eq!(judged.outcome(), Verdict::Broken, "{judged}");
    let verdict = judged.verdicts.of(Invariant::R1);
    assert_eq!(verdict.outcome(), Verdict::Broken, "{judged}");
    assert!(judged.to_string().contains("was Valid after a change that ended it had returned"));
    let json = judged.json();
    let of = json["promises"].as_array().expect("promises")[0].clone();
    assert_eq!(of["outcome"], "broken");
    assert!(of["violations"][0]["proof"].as_array().map(Vec::len) >= Some(2), "{of}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_without_effect_exits_2() -> Outcome {
    let backends = shared().await?;
    // Two requests per second, and a fault between them.
    let output = faults(testkit_on(&backends), "2")
        .args(["--duration", "3s", "--fault", "lose-fences@1.25+0.001"])
        .output()
        .await?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.starts_with("seed 7\n"), "{text}");
    assert!(text.contains("the fault lose-fences had no effect"), "{text}");
    assert!(text.contains("verdict: inconclusive"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_servers_are_damaged_only_with_permission() -> Outcome {
    let backends = shared().await?;
    for fault in ["redis-flush-all", "postgres-terminate", "redis-kill"] {
        let output = faults(testkit_on(&backends), "80").args(["--fault", fault]).output().await?;
        let text = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("--destructive") && text.contains(fault), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_has_all_faults() -> Outcome {
    let output = testkit().args(["faults", "--list"]).output().await?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(0));
    for name in ["redis-kill", "postgres-forced-rls", "lose-unlinks", "late-revoke"] {
        assert!(text.lines().any(|line| line == name), "{text}");
    }
    Ok(())
}
