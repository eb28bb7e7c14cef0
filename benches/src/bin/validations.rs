//! Measures how many validations per second a service makes, beside the bare commands that a
//! validation consists of.
//!
//! ```sh
//! cargo build -p session-testkit
//! session-testkit run -- cargo run --release -p session-benches --bin validations
//! ```

use std::process::ExitCode;

use clap::{Parser, ValueEnum as _};
use session_benches::Error;
use session_benches::validations::{Deployment, Kind, Load, Marks};

/// Measures validations per second beside bare GETs of Redis and bare look-ups in Postgres.
///
/// Prints one table in Markdown on standard output.
#[derive(Debug, Parser)]
#[command(name = "validations")]
struct Arguments {
    #[command(flatten)]
    shared: session_benches::validations::Arguments,

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

async fn run(Arguments { shared, subjects }: &Arguments) -> Result<(), Error> {
    let load = Load::new(shared.sessions, shared.data);
    let deployment = Deployment::start(&load).await?;
    let kinds = match subjects.as_slice() {
        [] => Kind::value_variants(),
        some => some,
    };
    let mut rows = Vec::new();
    for kind in kinds {
        rows.push(deployment.row(*kind, &load).await?);
    }
    let marks = Marks { name: "validations", command: "make bench" };
    shared.measure(&load, deployment, &rows, "÷ bare", marks).await
}
