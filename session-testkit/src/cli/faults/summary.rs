//! A Markdown table with one line per run.

use crate::{
    fault_run::{FaultFigures, Figures, Judged},
    workload::Latency,
};

/// The head of the table.
pub(super) const HEAD: &str = "\
| run | seed | promises | healthy p99, ms | first second p99, ms | then p99, ms | hits again, ms | \
unavailable with Postgres up | sent / due | affected | revoked tried |
|---|---|---|---|---|---|---|---|---|---|---|
";

/// Returns the line of one run.
pub(super) fn row(name: &str, seed: u64, judged: &Judged) -> String {
    // The outcome does not cover the promises that the run did not exercise.
    let promises = match judged.unexercised().as_slice() {
        [] => judged.outcome().to_string(),
        some => format!("{} (not exercised: {})", judged.outcome(), some.join(", ")),
    };
    let (availability, load) = (&judged.availability, &judged.report.total);
    format!(
        "| {name} | {seed} | {promises} | {} | {} of {} | {} / {} | {} | {} |\n",
        latencies(&judged.figures),
        availability.unavailable_with_postgres,
        availability.answered_with_postgres,
        load.sent,
        load.due,
        affected(&judged.figures),
        judged.revoked_tried,
    )
}

/// Returns the line of a run that could not run.
pub(super) fn failed_row(name: &str, seed: u64, why: &str) -> String {
    // A line break or a bar would end the cell.
    let why = why.replace('|', "\\|");
    let why: Vec<&str> = why.split_whitespace().collect();
    format!(
        "| {name} | {seed} | inconclusive (could not run: {}) |{}\n",
        why.join(" "),
        " – |".repeat(8)
    )
}

fn affected(figures: &Figures) -> u64 {
    let counted = figures.faults.iter().filter_map(|fault| fault.touched);
    counted.map(|touched| touched.connections).sum()
}

/// Returns the four columns of latencies. A drawn schedule has many faults, and the worst is shown.
fn latencies(figures: &Figures) -> String {
    let faults = &figures.faults;
    let worst = |of: fn(&FaultFigures) -> Latency| {
        let measured = faults.iter().map(of).filter(|latency| latency.count > 0);
        measured.map(|latency| latency.p99_us).max()
    };
    // Unknown if it was not observed after one of the faults.
    let again: Option<Vec<u64>> = faults.iter().map(|fault| fault.hits_again_us).collect();
    let columns = [
        Some(figures.healthy.p99_us),
        worst(|fault| fault.first_second),
        worst(|fault| fault.rest),
        again.and_then(|spans| spans.into_iter().max()),
    ];
    columns.map(ms).join(" | ")
}

/// Formats microseconds as milliseconds with one decimal, because more would be noise.
fn ms(micros: Option<u64>) -> String {
    match micros {
        Some(micros) => format!("{}.{}", micros / 1000, micros % 1000 / 100),
        None => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Touched;

    #[test]
    fn row_of_a_failed_run_has_all_columns_in_one_line() {
        let row = failed_row("redis-kill", 7, "no Redis:\n  | docker: a|b");
        assert_eq!(row.matches('\n').count(), 1, "{row}");
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        assert_eq!(columns(&row), columns(HEAD.lines().next().unwrap()), "{row}");
        assert!(row.contains("could not run: no Redis: "), "{row}");
    }

    fn latency(p99_us: u64) -> Latency {
        Latency { count: u64::from(p99_us > 0), p99_us, ..Latency::default() }
    }

    fn fault(first: u64, rest: u64, hits_again_us: Option<u64>) -> FaultFigures {
        FaultFigures {
            name: "redis-kill".to_owned(),
            at_ms: 0,
            healed_ms: 1,
            touched: Some(Touched { connections: 6, bytes: 0 }),
            first_second: latency(first),
            rest: latency(rest),
            hits_again_us,
        }
    }

    #[test]
    fn table_shows_worst_fault_and_omits_unmeasured_values() {
        let figures = |faults| Figures { healthy: latency(4_940), faults };
        let one = figures(vec![fault(60_000, 0, Some(900)), fault(2_000, 9_100, Some(80))]);
        assert_eq!(latencies(&one), "4.9 | 60.0 | 9.1 | 0.9");
        assert_eq!(affected(&one), 12);
        let other = figures(vec![fault(1_000, 0, Some(900)), fault(2_000, 0, None)]);
        assert_eq!(latencies(&other), "4.9 | 2.0 | – | –");
    }
}
