//! session-testkit pointed at tower-sessions 0.14: a `CachingSessionStore` over its Redis and Postgres stores.
//!
//! `cargo run` starts real servers, breaks them, and prints what was found, each bug with the few operations
//! that prove it. `cargo run -- session-layer` does the same with session-layer. `--seed N` replays.
//! Exit code 1: something was found; 0: nothing; 2: it could not be run, or a question was left open.
//!
//! `subject.rs` is what a project writes for its own session cache. The scenarios know nothing of the
//! subject.

mod late;
mod load;
mod refill;
mod rig;
mod subject;

use std::{env, process::ExitCode};

use session_testkit::{faults::Fault, subject::Subject, workload::Settings};

use crate::{
    late::Late,
    rig::{Failure, Findings, Rig},
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
                return Err(format!("`{other}`? Say {known}").into());
            }
        }
    }
    println!("{name} on two nodes; to run it again: cargo run -- {name} --seed {seed}");
    let rig = Rig::start(seed).await?;
    let mut all = Vec::new();
    if name == "session-layer" {
        scenarios(&rig, rig::session_layer, &mut all).await?;
    } else {
        scenarios(&rig, TowerSessions::documented, &mut all).await?;
        println!("\nWith a timeout for commands, and reconnection:");
        without_redis(&rig, TowerSessions::with_timeouts, &mut all).await?;
    }
    let bugs: usize = all.iter().map(|each| each.bugs.len()).sum();
    let open: usize = all.iter().map(|each| each.open.len()).sum();
    println!("\n{name}: {bugs} findings, {open} questions left open (seed {seed})");
    Ok(match (bugs, open) {
        (0, 0) => 0,
        (0, _) => 2,
        _ => 1,
    })
}

/// All scenarios, each on nodes of its own: those of the one before may have lost a server for good.
async fn scenarios<S: Subject>(
    rig: &Rig,
    connect: impl AsyncFn(&Rig) -> Result<S, Failure>,
    all: &mut Vec<Findings>,
) -> Result<(), Failure> {
    let found = refill::refill(rig, connect(rig).await?).await?;
    all.push(say("Redis is flushed: is a miss refilled?", found));

    without_redis(rig, &connect, all).await?;

    let found = load::slow_postgres(rig, connect(rig).await?).await?;
    let question = "Postgres' answers are 5 to 200 ms late: does a logout hold?";
    all.push(say(question, found));

    let found = late::late(rig, connect(rig).await?, Late::Fill).await?;
    let question = "A logout overtakes a reader's fill: does the logout hold?";
    all.push(say(question, found));

    let found = late::late(rig, connect(rig).await?, Late::Save).await?;
    let question = "A logout overtakes a save: does the logout hold?";
    all.push(say(question, found));
    Ok(())
}

/// Those in which Postgres is there and Redis is not.
async fn without_redis<S: Subject>(
    rig: &Rig,
    connect: impl AsyncFn(&Rig) -> Result<S, Failure>,
    all: &mut Vec<Findings>,
) -> Result<(), Failure> {
    let found = load::without_redis(rig, connect(rig).await?, Fault::RedisKill).await?;
    let question = "Redis is killed (SIGKILL): does Postgres answer?";
    all.push(say(question, found));

    let found = load::without_redis(rig, connect(rig).await?, Fault::RedisPause).await?;
    let question = "Redis is stopped (SIGSTOP): does Postgres answer?";
    all.push(say(question, found));
    Ok(())
}

/// Prints what came of a scenario.
fn say(question: &str, findings: Findings) -> Findings {
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
