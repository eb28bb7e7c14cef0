//! The rates in the table that `validations` prints.

/// The table of one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rates {
    /// The numbers of callers, as in the header.
    pub(crate) callers: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// The rates of one row, by number of callers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// A bare command, which has no code of session-layer.
    pub(crate) is_bare: bool,
    pub(crate) rates: Vec<f64>,
}

impl Rates {
    /// Reads the first table whose header names numbers of callers.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip_while(|line| !line.contains(" callers |"));
        let (_, header) = lines.next()?.split_once(" at ")?;
        let callers: Vec<_> =
            header.split_once(" callers")?.0.split(" / ").map(str::to_owned).collect();
        let rows = lines.skip(1).take_while(|line| line.starts_with('|')).map(Row::parse);
        let rows = rows.collect::<Option<Vec<_>>>()?;
        let complete = rows.iter().all(|row| row.rates.len() == callers.len());
        (complete && !rows.is_empty()).then_some(Self { callers, rows })
    }
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let (name, rates, ratios) = (cells.next()?, cells.next()?, cells.next()?);
        let rates = rates.split(" / ").map(|rate| rate.parse().ok().filter(|rate| *rate > 0.0));
        Some(Self {
            name: name.to_owned(),
            is_bare: ratios == "–",
            rates: rates.collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_read_row_by_row() {
        let text = "2026-11-30, a machine.\n\n\
            | thousand/s at 1 / 16 callers | rates | ÷ bare | CPU µs |\n|---|---|---|---|\n\
            | bare GET | 16.3 / 110 | – | 26.2 / 7.6 |\n\
            | Redis hit, sealed | 13.6 / 70.2 | 0.83 / 0.64 | 36.1 / 16.8 |\n\nmore\n";
        let row = |name: &str, is_bare, rates: [f64; 2]| Row {
            name: name.to_owned(),
            is_bare,
            rates: rates.to_vec(),
        };
        let rows = vec![
            row("bare GET", true, [16.3, 110.0]),
            row("Redis hit, sealed", false, [13.6, 70.2]),
        ];
        let callers = vec!["1".to_owned(), "16".to_owned()];
        assert_eq!(Rates::parse(text), Some(Rates { callers, rows }));
    }

    #[test]
    fn other_text_is_no_table() {
        let header = "| thousand/s at 1 / 16 callers | rates | ÷ bare | CPU µs |\n|---|\n";
        for rows in ["", "| a | 1.0 | – | 1 |", "| a | 1.0 / 0 | – | 1 |", "| a | x / 1 | – | 1 |"]
        {
            assert_eq!(Rates::parse(&format!("{header}{rows}\n")), None, "{rows}");
        }
        assert_eq!(Rates::parse("no table"), None);
    }
}
