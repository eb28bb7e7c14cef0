//! Runs the matrix: `cargo run --release -p protocol-model -- [NAME…] [--quick] [--traces] [--seed N]`.
//!
//! NAME is the beginning of a run's name (`A1`, `mutant`). Exit code 1 where a run turns out otherwise than it
//! is expected to, 2 where the arguments make no sense.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use protocol_model::{Limits, Outcome, Run, all};

/// What was asked for.
#[derive(Default)]
struct Asked {
    names: Vec<String>,
    quick: bool,
    traces: bool,
    limits: Limits,
}

fn main() -> ExitCode {
    let asked = match parse(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(wrong) => {
            eprintln!("{wrong}\nusage: protocol-model [NAME…] [--quick] [--traces] [--seed N]");
            return ExitCode::from(2);
        }
    };
    let named = |run: &Run| asked.names.iter().any(|name| run.name().starts_with(name));
    let runs: Vec<Run> = all()
        .into_iter()
        .filter(|run| asked.names.is_empty() || named(run))
        .filter(|run| run.is_quick() || !asked.quick)
        .collect();
    if runs.is_empty() {
        eprintln!("no run has such a name");
        return ExitCode::from(2);
    }
    println!("| run | what | holds | broken (steps) | states | steps | depth | s | |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let surprised = explore_all(&runs, &asked);
    println!(
        "\n{} runs, {} not as expected {surprised:?}",
        runs.len(),
        surprised.len()
    );
    if surprised.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => asked.quick = true,
            "--traces" => asked.traces = true,
            "--seed" => {
                let number = words.next().unwrap_or_default();
                asked.limits.seed = number
                    .parse()
                    .map_err(|_| format!("--seed takes a number, not {number:?}"))?;
            }
            unknown if unknown.starts_with('-') => {
                return Err(format!("{unknown} is not known"));
            }
            _ => asked.names.push(word),
        }
    }
    Ok(asked)
}

/// One run on each core at a time: the largest needs about a gigabyte. The names of those that surprise.
fn explore_all(runs: &[Run], asked: &Asked) -> Vec<&'static str> {
    let next = AtomicUsize::new(0);
    let surprised = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run.explore(asked.limits);
                    let mut surprised = surprised.lock().unwrap_or_else(PoisonError::into_inner);
                    print(run, &outcome, asked.traces);
                    if !outcome.surprises().is_empty() {
                        surprised.push(run.name());
                    }
                }
            });
        }
    });
    surprised
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

fn print(run: &Run, outcome: &Outcome<'_>, traces: bool) {
    let surprises = outcome.surprises();
    let broken: Vec<String> = outcome
        .traces()
        .map(|(promises, trace)| format!("{promises} ({})", trace.len()))
        .collect();
    println!(
        "| {} | {} | {} | {} | {}{} | {} | {} | {:.1} | {} |",
        run.name(),
        run.about(),
        outcome.held(),
        if broken.is_empty() {
            "-".to_owned()
        } else {
            broken.join(", ")
        },
        outcome.states(),
        if outcome.is_complete() { "" } else { "+" },
        outcome.steps(),
        outcome.depth(),
        outcome.took().as_secs_f64(),
        match (surprises.is_empty(), outcome.heals()) {
            (true, true) => "as expected; every state heals".to_owned(),
            (true, false) => "as expected".to_owned(),
            (false, _) => surprises.join("; "),
        }
    );
    if traces || !surprises.is_empty() {
        for (promises, trace) in outcome.traces() {
            println!("    {promises} broken:");
            for (number, line) in (1..).zip(trace) {
                println!("      {number:2}. {line}");
            }
        }
    }
}
