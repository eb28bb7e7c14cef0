//! The table in Markdown.

use std::fmt;

use super::{Measured, Row};

/// The rounds of each row, by number of callers.
#[derive(Debug)]
pub struct Table {
    callers: Vec<usize>,
    ratio: &'static str,
    rows: Vec<Measurements>,
}

#[derive(Debug)]
struct Measurements {
    name: &'static str,
    ratio: Option<[&'static str; 2]>,
    rounds: Vec<Vec<Measured>>,
}

impl Table {
    /// Creates a table without measurements. `ratio` is the header of the column of ratios.
    #[must_use]
    pub fn new(callers: &[usize], ratio: &'static str, rows: &[Row]) -> Self {
        let rows = rows.iter().map(|row| Measurements {
            name: row.name,
            ratio: row.ratio,
            rounds: vec![Vec::new(); callers.len()],
        });
        Self { callers: callers.to_vec(), ratio, rows: rows.collect() }
    }

    /// Adds a measurement of row number `row` with number `at` of the numbers of callers.
    pub fn add(&mut self, row: usize, at: usize, measured: Measured) {
        self.rows[row].rounds[at].push(measured);
    }

    /// Returns the medians of a row's rates, by number of callers.
    fn rates(&self, name: &str) -> Option<Vec<f64>> {
        let row = self.rows.iter().find(|row| row.name == name)?;
        Some(row.medians(|measured| measured.rate))
    }
}

impl Measurements {
    fn medians(&self, of: impl Fn(&Measured) -> f64) -> Vec<f64> {
        self.rounds.iter().map(|rounds| median(rounds.iter().map(&of))).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let callers = joined(self.callers.iter().map(ToString::to_string));
        writeln!(f, "| thousand/s at {callers} callers | rates | {} | CPU µs |", self.ratio)?;
        writeln!(f, "|---|---|---|---|")?;
        for row in &self.rows {
            let rates = row.medians(|measured| measured.rate);
            let rates = joined(rates.iter().map(|rate| significant(rate / 1e3)));
            let pair = row.ratio.and_then(|[of, to]| Some((self.rates(of)?, self.rates(to)?)));
            let ratios = pair.map_or_else(
                || "–".to_owned(),
                |(of, to)| joined(of.iter().zip(to).map(|(of, to)| format!("{:.2}", of / to))),
            );
            let cpu = row.medians(|measured| measured.cpu_us);
            let cpu = joined(cpu.iter().map(|cpu| format!("{cpu:.1}")));
            writeln!(f, "| {} | {rates} | {ratios} | {cpu} |", row.name)?;
        }
        Ok(())
    }
}

/// Joins the numbers of one cell.
#[must_use]
pub fn joined(numbers: impl Iterator<Item = String>) -> String {
    numbers.collect::<Vec<_>>().join(" / ")
}

/// Returns a number with three significant digits, or more if it is 1,000 or over.
#[must_use]
pub fn significant(number: f64) -> String {
    let decimals = match number.abs() {
        magnitude if magnitude >= 99.95 => 0,
        magnitude if magnitude >= 9.995 => 1,
        magnitude if magnitude >= 0.9995 => 2,
        _ => 3,
    };
    format!("{number:.decimals$}")
}

/// Returns the median, or NaN of nothing.
#[must_use]
pub fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_has_three_significant_digits() {
        let cases =
            [(2.441, "2.44"), (9.996, "10.0"), (24.97, "25.0"), (99.96, "100"), (0.5, "0.500")];
        for (number, text) in cases {
            assert_eq!(significant(number), text);
        }
    }
}
