//! Compares the validations per second of two builds of `validations` on the same servers.
//!
//! `make bench-compare BASE=<revision>` builds both and runs this. The builds run in turn, and each
//! pair has the other order than the last one. Load that changes slowly then affects both. A ratio
//! is that of two runs of one pair, and the table has the median of the pairs.

mod rates;
mod ratios;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use session_benches::Error;

use self::{rates::Rates, ratios::Ratios};

/// A run of each build takes about 20 s with them.
const DEFAULTS: [&str; 2] = ["--sessions=10000", "--duration=500ms"];

/// Compares two builds of `validations`, and fails if the second one is much slower.
///
/// Exit code 0: no median is below the limit. 1: a median is below it. 2: could not compare.
#[derive(Debug, Parser)]
#[command(name = "compare")]
struct Arguments {
    /// Build of the base.
    base: PathBuf,

    /// Build of the change.
    head: PathBuf,

    /// Lowest permitted median of head ÷ base, for each row of session-layer and number of callers.
    ///
    /// A revision compared with itself decides what is noise: see docs/measured.md.
    #[arg(long, default_value_t = 0.85, value_name = "RATIO")]
    limit: f64,

    /// Number of pairs.
    #[arg(long, default_value_t = 7, value_name = "N")]
    pairs: usize,

    /// Arguments of both builds.
    #[arg(last = true, default_values = DEFAULTS)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether no median is below the limit.
fn run(arguments: &Arguments) -> Result<bool, Error> {
    let mut ratios = Ratios::default();
    for pair in 1..=arguments.pairs {
        eprintln!("pair {pair} of {}", arguments.pairs);
        let measure = |build| measure(build, &arguments.arguments);
        let (base, head) = if pair % 2 == 1 {
            let base = measure(&arguments.base)?;
            (base, measure(&arguments.head)?)
        } else {
            let head = measure(&arguments.head)?;
            (measure(&arguments.base)?, head)
        };
        ratios.add(&base, &head)?;
    }
    println!("{ratios}");
    let slower = ratios.below(arguments.limit);
    for slower in &slower {
        println!("Below {}: {slower}.", arguments.limit);
    }
    Ok(slower.is_empty())
}

fn measure(build: &Path, arguments: &[String]) -> Result<Rates, Error> {
    let failed = |why: String| format!("{} did not measure: {why}", build.display());
    let mut command = Command::new(build);
    command.args(["--rounds", "1"]).args(arguments).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(Rates::parse(&text).ok_or_else(|| failed(format!("its table has another form: {text}")))?)
}
