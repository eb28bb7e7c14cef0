//! session-testkit applied to tower-sessions 0.14: a `CachingSessionStore` over its Redis and
//! Postgres stores.
//!
//! `cargo run` starts real servers, injects faults, and prints the findings, each bug with the few
//! operations that prove it. `cargo run -- session-layer` does the same with session-layer. `--seed
//! N` replays a run. Exit code 0: no findings. 1: findings. 2: the run failed, or a question is
//! open.
//!
//! `subject.rs` is the part that a project writes for its own session cache. The scenarios are
//! independent of the subject.

mod harness;
mod late;
mod load;
mod refill;
mod subject;

use std::{env, process::ExitCode};

use session_testkit::{faults::Fault, subject::Subject, workload::Settings};

use crate::{
    harness::{Failure, Findings, Harness},
    late::Late,
    subject::TowerSessions,
};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("could not run: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                eprintln!("  because: {error}");
                source = error.source();
            }
            ExitCode::from(2)
        }
    }
}

async fn run() -> Result<u8, Failure> {
    let (mut name, mut seed) = ("tower-sessions".to_owned(), Settings::fresh_seed());
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "tower-sessions" | "session-layer" => name = argument,
            "--seed" => seed = arguments.next().ok_or("--seed needs a number")?.parse()?,
            other => {
                let known = "`tower-sessions` or `session-layer`, and `--seed N`";
                return Err(format!("unknown argument `{other}`: use {known}").into());
            }
        }
    }
    println!("{name} on two nodes. To replay: cargo run -- {name} --seed {seed}");
    let harness = Harness::start(seed).await?;
    let mut all = Vec::new();
    if name == "session-layer" {
        scenarios(&harness, harness::session_layer, &mut all).await?;
    } else {
        scenarios(&harness, TowerSessions::documented, &mut all).await?;
        println!("\nWith a timeout for commands, and reconnection:");
        without_redis(&harness, TowerSessions::with_timeouts, &mut all).await?;
    }
    let bugs: usize = all.iter().map(|each| each.bugs.len()).sum();
    let open: usize = all.iter().map(|each| each.open.len()).sum();
    println!("\n{name}: {bugs} findings, {open} open questions (seed {seed})");
    Ok(match (bugs, open) {
        (0, 0) => 0,
        (0, _) => 2,
        _ => 1,
    })
}

/// Runs all scenarios, each on its own nodes, because those of an earlier one may have lost a
/// server permanently.
async fn scenarios<S: Subject>(
    harness: &Harness,
    connect: impl AsyncFn(&Harness) -> Result<S, Failure>,
    all: &mut Vec<Findings>,
) -> Result<(), Failure> {
    let found = refill::refill(harness, connect(harness).await?).await?;
    all.push(print("Redis is flushed: is a miss refilled?", found));

    without_redis(harness, &connect, all).await?;

    let found = late::late(harness, connect(harness).await?, Late::Fill).await?;
    all.push(print("A logout overtakes a reader's fill: does the logout hold?", found));

    let found = late::late(harness, connect(harness).await?, Late::Save).await?;
    all.push(print("A logout overtakes a save: does the logout hold?", found));
    Ok(())
}

/// Runs the scenarios in which Postgres is available and Redis is not.
async fn without_redis<S: Subject>(
    harness: &Harness,
    connect: impl AsyncFn(&Harness) -> Result<S, Failure>,
    all: &mut Vec<Findings>,
) -> Result<(), Failure> {
    for (fault, question) in [
        (Fault::RedisKill, "Redis is killed (SIGKILL): does Postgres take over?"),
        (Fault::RedisPause, "Redis is stopped (SIGSTOP): does Postgres take over?"),
    ] {
        let found = load::without_redis(harness, connect(harness).await?, fault).await?;
        all.push(print(question, found));
    }
    Ok(())
}

/// Prints the findings of a scenario.
fn print(question: &str, findings: Findings) -> Findings {
    println!("\n== {question}");
    for seen in &findings.seen {
        println!("   {seen}");
    }
    for open in &findings.open {
        println!("   INCONCLUSIVE: {open}");
    }
    for bug in &findings.bugs {
        println!("\n   FOUND: {}", bug.replace('\n', "\n   "));
    }
    findings
}
