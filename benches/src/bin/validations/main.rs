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

use std::{path::PathBuf, process::ExitCode, time::Duration};

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

    /// Markdown file in which the table between the two markers is replaced as well.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

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
    let today = time::OffsetDateTime::now_utc().date();
    let measured = format!("{today}, {}.\n\n{table}", Machine::of(&deployment.backends).await?);
    println!("{measured}");
    deployment.stop().await?;
    if let Some(path) = &arguments.write {
        let file = |error| format!("cannot write the table to {}: {error}", path.display());
        let before = std::fs::read_to_string(path).map_err(file)?;
        let after = replace_marked(&before, &measured).ok_or_else(|| {
            format!("{} lacks a line `{BEGIN}`, and a later one `{END}`", path.display())
        })?;
        std::fs::write(path, after).map_err(file)?;
    }
    Ok(())
}

/// The marks around the table in a Markdown file.
const BEGIN: &str = "<!-- validations: written by `make bench` -->";
const END: &str = "<!-- end of validations -->";

/// Replaces the text between the marks. Returns `None` if they are missing.
fn replace_marked(text: &str, with: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", with.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_marks_is_replaced() {
        let page = format!("# A\n{BEGIN}\nold\n{END}\nB\n");
        let new = replace_marked(&page, "new\n\n").unwrap();
        assert_eq!(new, format!("# A\n{BEGIN}\n\nnew\n\n{END}\nB\n"));
        assert_eq!(replace_marked(&new, "new"), Some(new.clone()));
        for lacks in [format!("{BEGIN}\n"), format!("{END}\n"), format!("{END}{BEGIN}")] {
            assert_eq!(replace_marked(&lacks, "new"), None);
        }
    }
}
