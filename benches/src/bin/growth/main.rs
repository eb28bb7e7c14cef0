//! Measures how costs grow with the number of sessions, callers, bytes and nodes.
//!
//! ```sh
//! cargo build -p session-testkit
//! session-testkit run -- cargo run --release -p session-benches --bin growth
//! ```
//!
//! The first three measurements use the harness of `validations`. The last one starts many nodes in
//! this process, while SQL changes sessions at a fixed rate.

mod axis;
mod journal;
mod plot;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use session_benches::Error;
use session_benches::validations::{Kind, Marks};
use session_testkit::backends::Backends;
use session_testkit::bench::Machine;

use self::axis::{Axis, Effort};

/// Sessions while the number of callers grows.
const SESSIONS: u32 = 10_000;
/// Sessions while their data grows.
const LARGE_SESSIONS: u32 = 2_000;
/// Bytes of data while something else grows.
const DATA: usize = 200;
/// Callers while something else grows.
const CALLERS: usize = 64;

/// Measures how costs grow with sessions, callers, bytes of data, and nodes.
///
/// Prints tables in Markdown on standard output. The default takes about 4 minutes on 2 cores.
#[derive(Debug, Parser)]
#[command(name = "growth")]
struct Arguments {
    /// Numbers of sessions.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000])]
    sessions: Vec<u32>,

    /// Numbers of concurrent callers.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 64, 256, 1_024])]
    callers: Vec<usize>,

    /// Bytes of data in each session.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 400, 1_600, 4_096, 16_384])]
    data: Vec<usize>,

    /// Numbers of nodes that read the journal.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 5, 10, 20, 50])]
    nodes: Vec<usize>,

    /// Changes per second in the journal.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    changes: u32,

    /// Milliseconds of one measurement. Nodes are measured ten times as long.
    #[arg(long, default_value_t = 500, value_name = "N")]
    millis: u32,

    /// Number of rounds. The tables have their median.
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,

    /// Markdown file in which the tables between two marks are replaced as well.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// SVG file of the plot.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("growth: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Error> {
    let backends = Backends::start().await?;
    let machine = Machine::of(&backends).await?;
    let span = Duration::from_millis(arguments.millis.into());
    let effort = Effort { span, rounds: arguments.rounds };

    let stores = [Kind::RedisGet, Kind::Hit, Kind::PostgresGet, Kind::PostgresAlone];
    let all = [Kind::RedisGet, Kind::Hit, Kind::NearHit, Kind::PostgresAlone];
    let mut sessions = Axis::new("sessions", &stores);
    for number in &arguments.sessions {
        sessions.measure(effort, *number, DATA, &[CALLERS], |_| f64::from(*number)).await?;
    }
    let mut callers = Axis::new("callers", &all);
    callers.measure(effort, SESSIONS, DATA, &arguments.callers, axis::number).await?;
    let mut data = Axis::new("bytes of data", &all);
    for bytes in &arguments.data {
        data.measure(effort, LARGE_SESSIONS, *bytes, &[CALLERS], |_| axis::number(*bytes)).await?;
    }
    let axes = [sessions, callers, data];
    let nodes = journal::measure(&arguments.nodes, arguments.changes, 10 * span).await?;

    let today = time::OffsetDateTime::now_utc().date();
    let [sessions, callers, data] = &axes;
    let text = format!(
        "{today}, {machine}.\n\n{CALLERS} callers, {DATA} bytes of data:\n\n{sessions}\n{SESSIONS} \
         sessions, {DATA} bytes of data:\n\n{callers}\n{LARGE_SESSIONS} sessions, {CALLERS} \
         callers:\n\n{data}\n{} changes/s, all nodes in one process:\n\n{nodes}",
        arguments.changes
    );
    println!("{text}");
    if let Some(path) = &arguments.svg {
        let panels: Vec<_> = axes.iter().map(Axis::panel).chain([nodes.panel()]).collect();
        plot::write(path, &panels)?;
    }
    let marks = Marks { name: "growth", command: "make bench-growth" };
    arguments.write.as_ref().map_or(Ok(()), |path| marks.write(path, &text))
}
