//! A scenario's table in Markdown, and the format of its figures.

use std::{fmt, time::Duration};

use crate::observed::{Observed, Promise};

/// The result of a scenario.
#[derive(Debug)]
pub(crate) struct Section {
    /// A description of the scenario.
    what: String,
    /// D, as the nodes report it.
    staleness_bound: Duration,
    table: Vec<Vec<String>>,
    pub(crate) broken: Vec<String>,
}

impl Section {
    pub(crate) fn new(what: String, head: &[&str]) -> Self {
        let head = head.iter().copied().chain(Observed::HEAD).map(str::to_owned).collect();
        Self { what, staleness_bound: Duration::ZERO, table: vec![head], broken: Vec::new() }
    }

    /// Adds a row for each node: first these cells, then the observations. Also adds the promises
    /// that were broken. `within` is the promised bound, `d` is D.
    pub(crate) fn add(
        &mut self,
        cells: &[String],
        observed: &[Observed],
        d: Duration,
        (promise, within): (Promise, Duration),
    ) {
        self.staleness_bound = d;
        let run = &cells[0];
        for node in observed {
            self.table.push(cells.iter().cloned().chain(node.cells(d)).collect());
            let broken = node.broken(promise, within).into_iter();
            self.broken.extend(broken.map(|what| format!("{run}: {what}")));
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let staleness_bound = seconds(self.staleness_bound);
        writeln!(f, "{} D is {staleness_bound} s, as the nodes report it.\n", self.what)?;
        for (number, row) in self.table.iter().enumerate() {
            writeln!(f, "| {} |", row.join(" | "))?;
            if number == 0 {
                writeln!(f, "|{}", "---|".repeat(row.len()))?;
            }
        }
        writeln!(f)?;
        for broken in &self.broken {
            writeln!(f, "- **BROKEN**: {broken}")?;
        }
        Ok(())
    }
}

/// Writes a number with commas between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a duration in milliseconds, without the unit.
pub(crate) fn millis(span: Duration) -> String {
    grouped(u64::try_from((span.as_nanos() + 500_000) / 1_000_000).unwrap_or(u64::MAX))
}

/// Writes a duration in seconds with one decimal, without the unit.
pub(crate) fn seconds(span: Duration) -> String {
    format!("{:.1}", span.as_secs_f64())
}

/// Writes KiB in MiB, without the unit.
pub(crate) fn mib(kib: u64) -> String {
    grouped((kib + 512) / 1024)
}

/// Writes a share in percent with one decimal, without the unit.
#[expect(clippy::cast_precision_loss, reason = "a percentage needs few digits")]
pub(crate) fn percent(part: u64, of: u64) -> String {
    if of == 0 {
        return unknown();
    }
    format!("{:.1}", part as f64 * 100.0 / of as f64)
}

/// Writes the placeholder of a missing figure.
pub(crate) fn unknown() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_and_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(millis(Duration::from_micros(1_234_500)), "1,235");
        assert_eq!(seconds(Duration::from_millis(1_250)), "1.2");
        assert_eq!(mib(40 * 1024 + 512), "41");
        assert_eq!(percent(1, 3), "33.3");
        assert_eq!(percent(0, 0), "–");
    }
}
