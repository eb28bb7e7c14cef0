//! Tables in Markdown, and the format of figures.

use std::{fmt, time::Duration};

#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self { head: head.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", self.head.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(self.head.len()))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
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
    fn table_is_printed_as_markdown() {
        let mut table = Table::new(["rows", "age, ms"]);
        table.row([grouped(1_000), millis(Duration::from_millis(251))]);
        let expected = "| rows | age, ms |\n|---|---|\n| 1,000 | 251 |\n";
        assert_eq!(table.to_string(), expected);
    }

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
