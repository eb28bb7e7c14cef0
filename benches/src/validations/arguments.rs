//! The arguments that the programs share, and the run that they describe.

use std::{path::PathBuf, time::Duration};

use session_testkit::bench::Machine;

use super::{Deployment, Load, Marks, Row, Table};
use crate::Error;

/// What is measured, and where the table goes.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// Number of sessions. Their popularity follows Zipf's law.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub sessions: u32,

    /// Bytes of data in each session.
    #[arg(long, default_value_t = 200, value_name = "BYTES")]
    pub data: usize,

    /// Numbers of concurrent callers.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256], value_name = "N")]
    pub callers: Vec<usize>,

    /// Duration of one measurement, such as 500ms or 2s.
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = duration)]
    pub duration: Duration,

    /// Number of rounds. The table has their median.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub rounds: usize,

    /// Markdown file in which the table between two marks is replaced as well.
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
}

impl Arguments {
    /// Measures all rows in interleaved rounds, and stops the deployment. Then prints the table on
    /// standard output, and writes it to the file between these marks.
    ///
    /// # Errors
    /// If a call fails, or the table cannot be written.
    pub async fn measure(
        &self,
        load: &Load,
        deployment: Deployment,
        rows: &[Row],
        ratio: &'static str,
        marks: Marks,
    ) -> Result<(), Error> {
        let machine = Machine::of(&deployment.backends).await?;
        let mut table = Table::new(&self.callers, ratio, rows);
        for _ in 0..self.rounds {
            for (at, callers) in self.callers.iter().enumerate() {
                for (number, row) in rows.iter().enumerate() {
                    let measured = row.measure(load, *callers, self.duration).await;
                    let measured = measured.map_err(|error| format!("{}: {error}", row.name))?;
                    table.add(number, at, measured);
                }
            }
        }
        deployment.stop().await?;
        let today = time::OffsetDateTime::now_utc().date();
        let measured = format!("{today}, {machine}.\n\n{table}");
        println!("{measured}");
        self.write.as_ref().map_or(Ok(()), |path| marks.write(path, &measured))
    }
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
