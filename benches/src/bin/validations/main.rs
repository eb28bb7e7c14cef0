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

    /// Duration of one measurement, such as 500ms or 2s.
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = duration)]
    duration: Duration,

    /// Number of rounds. The table has their median.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,

    /// Subjects to measure. Defaults to all.
    #[arg(value_enum, value_name = "SUBJECT")]
    subjects: Vec<Kind>,
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').unwrap_or_default(), 1_000),
    };
    let millis = number.parse().ok().filter(|number| (1..=60_000).contains(number));
    let expected = "a duration is 1 to 60000 with its unit, such as 500ms or 2s";
    millis.map(|number: u64| Duration::from_millis(number * unit)).ok_or(expected)
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
                let measured = load.measure(subject, *callers, arguments.duration).await?;
                table.add(*kind, at, measured);
            }
        }
    }
    println!("{}.\n\n{table}", Machine::of(&deployment.backends).await?);
    deployment.stop().await
}
