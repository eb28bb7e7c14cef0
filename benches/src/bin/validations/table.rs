//! The table in Markdown.

use std::fmt;

use crate::load::Measured;
use crate::subjects::Kind;

/// The rounds of each subject, by number of callers.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    callers: &'a [usize],
    rows: Vec<(Kind, Vec<Vec<Measured>>)>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(callers: &'a [usize]) -> Self {
        Self { callers, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, kind: Kind, at: usize, measured: Measured) {
        if !self.rows.iter().any(|(known, _)| *known == kind) {
            self.rows.push((kind, vec![Vec::new(); self.callers.len()]));
        }
        if let Some((_, rounds)) = self.rows.iter_mut().find(|(known, _)| *known == kind) {
            rounds[at].push(measured);
        }
    }

    fn rates(&self, kind: Kind) -> Option<Vec<f64>> {
        let (_, rounds) = self.rows.iter().find(|(known, _)| *known == kind)?;
        Some(rounds.iter().map(|rounds| median(rounds.iter().map(|round| round.rate))).collect())
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let callers: Vec<_> = self.callers.iter().map(ToString::to_string).collect();
        let callers = callers.join(" / ");
        writeln!(f, "| thousand/s at {callers} callers | rates | ÷ bare | CPU µs |")?;
        writeln!(f, "|---|---|---|---|")?;
        for (kind, rounds) in &self.rows {
            let Some(rates) = self.rates(*kind) else { continue };
            let list = |numbers: Vec<String>| numbers.join(" / ");
            let thousands = list(rates.iter().map(|rate| format!("{:.1}", rate / 1e3)).collect());
            let ratios = match self.rates(kind.bare()) {
                Some(bare) if *kind != kind.bare() => {
                    list(rates.iter().zip(bare).map(|(a, b)| format!("{:.2}", a / b)).collect())
                }
                _ => "–".to_owned(),
            };
            let cpu = rounds.iter().map(|rounds| median(rounds.iter().map(|round| round.cpu_us)));
            let cpu = list(cpu.map(|cpu| format!("{cpu:.1}")).collect());
            writeln!(f, "| {} | {thousands} | {ratios} | {cpu} |", kind.name())?;
        }
        Ok(())
    }
}

/// Returns the median, or NaN of nothing.
fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}
