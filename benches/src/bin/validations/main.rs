//! Measures how many validations per second a service makes, beside the bare commands that a
//! validation consists of.
//!
//! ```sh
//! cargo build -p session-testkit
//! session-testkit run -- cargo run --release -p session-benches --bin validations
//! ```
//!
//! Each caller is a task that makes its next call when the last one has returned (a closed loop).
//! The rounds of all subjects are interleaved, and the table has the median of the rounds. The
//! ratios are those of one run: absolute figures depend on the machine.

mod load;
mod subjects;
mod table;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum as _};
use session_testkit::bench::Machine;

use self::{load::Load, subjects::Kind, table::Table};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures validations per second beside bare GETs of Redis and bare look-ups in Postgres.
///
/// Prints one table in Markdown on standard output.
#[derive(Debug, Parser)]
#[command(name = "validations")]
struct Arguments {
    /// Number of sessions. Their popularity follows Zipf's law.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    sessions: u32,

    /// Bytes of data in each session.
    #[arg(long, default_value_t = 200, value_name = "BYTES")]
    data: usize,

    /// Numbers of concurrent callers.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256], value_name = "N")]
    callers: Vec<usize>,

    /// Milliseconds of one measurement.
    #[arg(long, default_value_t = 1_000, value_name = "MS")]
    millis: u64,

    /// Number of rounds. The table has their median.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,

    /// Subjects to measure. Defaults to all.
    #[arg(value_enum, value_name = "SUBJECT")]
    subjects: Vec<Kind>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("validations: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Error> {
    let load = Load::new(arguments.sessions, arguments.data);
    let deployment = subjects::Deployment::start(&load).await?;
    let kinds = match arguments.subjects.as_slice() {
        [] => Kind::value_variants(),
        some => some,
    };
    let mut subjects = Vec::new();
    for kind in kinds {
        subjects.push(deployment.subject(*kind, &load).await?);
    }
    let mut table = Table::new(&arguments.callers);
    for _ in 0..arguments.rounds {
        for (at, callers) in arguments.callers.iter().enumerate() {
            for (kind, subject) in kinds.iter().zip(&subjects) {
                let span = Duration::from_millis(arguments.millis);
                table.add(*kind, at, load.measure(subject, *callers, span).await?);
            }
        }
    }
    println!("{}.\n\n{table}", Machine::of(&deployment.backends).await?);
    deployment.stop().await
}
