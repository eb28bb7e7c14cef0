//! Explores the runs: `cargo run --release -p protocol-model -- [NAME…] [--quick] [--traces]
//! [--seed N]`.
//!
//! NAME is the beginning of a run's name, such as `K1` or `mutant`. The exit code is 1 if a result
//! differs from the expected one, and 2 if the arguments are invalid.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use protocol_model::{Limits, Outcome, Run, all};

/// The arguments.
#[derive(Default)]
struct Arguments {
    names: Vec<String>,
    quick: bool,
    traces: bool,
    limits: Limits,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("{wrong}\nusage: protocol-model [NAME…] [--quick] [--traces] [--seed N]");
            return ExitCode::from(2);
        }
    };
    let names = &arguments.names;
    let mut runs = all();
    runs.retain(|run| names.is_empty() || names.iter().any(|name| run.name().starts_with(name)));
    runs.retain(|run| run.is_quick() || !arguments.quick);
    if runs.is_empty() {
        eprintln!("no run has such a name");
        return ExitCode::from(2);
    }
    println!("| run | what | holds | broken (steps) | states | steps | depth | s | |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let surprised = explore_all(&runs, &arguments);
    println!("\n{} runs, {} not as expected {surprised:?}", runs.len(), surprised.len());
    if surprised.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => arguments.quick = true,
            "--traces" => arguments.traces = true,
            "--seed" => {
                let number = words.next().unwrap_or_default();
                arguments.limits.seed =
                    number.parse().map_err(|_| format!("--seed takes a number, not {number:?}"))?;
            }
            unknown if unknown.starts_with('-') => return Err(format!("unknown option {unknown}")),
            _ => arguments.names.push(word),
        }
    }
    Ok(arguments)
}

/// Explores one run on each core at a time, because the largest needs about a gigabyte. Returns the
/// names of those whose result differs.
fn explore_all(runs: &[Run], arguments: &Arguments) -> Vec<&'static str> {
    let next = AtomicUsize::new(0);
    let surprised = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run.explore(arguments.limits);
                    let mut surprised = surprised.lock().unwrap_or_else(PoisonError::into_inner);
                    let differs = !outcome.surprises().is_empty();
                    println!("{outcome}");
                    if arguments.traces || differs {
                        print_traces(&outcome);
                    }
                    surprised.extend(differs.then_some(run.name()));
                }
            });
        }
    });
    surprised.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn print_traces(outcome: &Outcome<'_>) {
    for (promises, trace) in outcome.traces() {
        println!("    {promises} broken:");
        for (number, line) in (1..).zip(trace) {
            println!("      {number:2}. {line}");
        }
    }
}
