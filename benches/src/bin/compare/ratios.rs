//! The ratios of the rates of two builds, and the verdict.

use std::fmt;

use session_benches::validations::{joined, median};

use crate::rates::Rates;

/// The ratios head ÷ base of every pair.
#[derive(Debug, Default)]
pub(crate) struct Ratios {
    callers: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    is_bare: bool,
    /// The ratios of all pairs, by number of callers.
    ratios: Vec<Vec<f64>>,
}

impl Ratios {
    /// Adds a pair. A row that one build lacks is left out.
    pub(crate) fn add(&mut self, base: &Rates, head: &Rates) -> Result<(), &'static str> {
        if base.callers != head.callers {
            return Err("the builds measured different numbers of callers");
        }
        self.callers.clone_from(&base.callers);
        for head in &head.rows {
            let Some(base) = base.rows.iter().find(|base| base.name == head.name) else { continue };
            let at = self.rows.iter().position(|row| row.name == head.name).unwrap_or_else(|| {
                let (name, ratios) = (head.name.clone(), vec![Vec::new(); self.callers.len()]);
                self.rows.push(Row { name, is_bare: head.is_bare, ratios });
                self.rows.len() - 1
            });
            let pairs = head.rates.iter().zip(&base.rates);
            for (ratios, (head, base)) in self.rows[at].ratios.iter_mut().zip(pairs) {
                ratios.push(head / base);
            }
        }
        if self.rows.is_empty() { Err("the builds have no row in common") } else { Ok(()) }
    }

    /// Returns the medians of rows of session-layer that are below the limit.
    pub(crate) fn below(&self, limit: f64) -> Vec<String> {
        let rows = self.rows.iter().filter(|row| !row.is_bare);
        let medians = rows.flat_map(|row| {
            row.medians().zip(&self.callers).map(|(median, callers)| (&row.name, median, callers))
        });
        let below = medians.filter(|(_, median, _)| *median < limit);
        below
            .map(|(name, median, callers)| format!("{name} at {callers} callers is {median:.3}"))
            .collect()
    }
}

impl Row {
    fn medians(&self) -> impl Iterator<Item = f64> {
        self.ratios.iter().map(|ratios| median(ratios.iter().copied()))
    }
}

impl fmt::Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let callers = self.callers.join(" / ");
        writeln!(f, "| head ÷ base at {callers} callers | median | lowest | highest |")?;
        writeln!(f, "|---|---|---|---|")?;
        for row in &self.rows {
            let cell = |ratios: Vec<f64>| joined(ratios.iter().map(|ratio| format!("{ratio:.2}")));
            let extreme = |than: fn(f64, f64) -> f64| {
                row.ratios.iter().filter_map(|ratios| ratios.iter().copied().reduce(than)).collect()
            };
            let (median, lowest) = (cell(row.medians().collect()), cell(extreme(f64::min)));
            writeln!(f, "| {} | {median} | {lowest} | {} |", row.name, cell(extreme(f64::max)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(bare: f64, hit: f64) -> Rates {
        let table = format!(
            "| thousand/s at 8 callers | rates | ÷ bare | CPU µs |\n|---|\n\
             | GET | {bare} | – | 1 |\n| hit | {hit} | 1 | 1 |\n"
        );
        Rates::parse(&table).expect("a table")
    }

    #[test]
    fn median_of_the_pairs_decides_for_rows_of_session_layer() {
        let mut ratios = Ratios::default();
        for head in [8.0, 5.0, 9.0] {
            ratios.add(&rates(10.0, 10.0), &rates(1.0, head)).expect("rows in common");
        }
        assert_eq!(ratios.below(0.8), Vec::<String>::new());
        assert_eq!(ratios.below(0.81), ["hit at 8 callers is 0.800"]);
        let table = ratios.to_string();
        assert!(
            table.ends_with("| GET | 0.10 | 0.10 | 0.10 |\n| hit | 0.80 | 0.50 | 0.90 |\n"),
            "{table}"
        );
    }

    #[test]
    fn builds_without_a_common_row_cannot_be_compared() {
        let (base, mut head) = (rates(1.0, 1.0), rates(1.0, 1.0));
        head.rows.iter_mut().for_each(|row| row.name.push('2'));
        assert!(Ratios::default().add(&base, &head).is_err());
        head.callers = vec!["9".to_owned()];
        assert!(Ratios::default().add(&base, &head).is_err());
    }
}
