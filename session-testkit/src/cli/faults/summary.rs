//! A Markdown table with one line per run.

use std::fmt;

use crate::{
    fault_run::{FaultFigures, Figures, Judged},
    invariants::Outcome,
    workload::Latency,
};

/// The line of one run.
pub(super) struct Line {
    name: String,
    seed: u64,
    outcome: Outcome,
    /// The promises that the run did not exercise.
    unexercised: Vec<&'static str>,
    figures: Figures,
    unavailable: u64,
    answered: u64,
    due: u64,
    sent: u64,
    tried: u64,
}

impl Line {
    pub(super) fn new(name: String, seed: u64, judged: &Judged) -> Self {
        Self {
            name,
            seed,
            outcome: judged.outcome(),
            unexercised: judged.unexercised(),
            figures: judged.figures.clone(),
            unavailable: judged.availability.unavailable_with_postgres,
            answered: judged.availability.answered_with_postgres,
            due: judged.report.total.due,
            sent: judged.report.total.sent,
            tried: judged.revoked_tried,
        }
    }
}

/// The lines of several runs.
pub(super) struct Summary<'a>(pub(super) &'a [Line]);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| run | seed | promises | healthy p99, ms | first second p99, ms | then p99, ms | \
             hits again, ms | unavailable with Postgres up | sent / due | affected | revoked \
             tried |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|---|---|")?;
        for line in self.0 {
            let faults = &line.figures.faults;
            // A drawn schedule has many faults. The worst of them is shown.
            let worst = |of: fn(&FaultFigures) -> Latency| {
                let measured = faults.iter().map(of).filter(|latency| latency.count > 0);
                measured.map(|latency| latency.p99_us).max()
            };
            // Unknown if it was not observed after one of the faults.
            let again: Option<u64> = faults
                .iter()
                .map(|fault| fault.hits_again_us)
                .collect::<Option<Vec<_>>>()
                .and_then(|spans| spans.into_iter().max());
            let counted = faults.iter().filter_map(|fault| fault.touched);
            let affected: u64 = counted.map(|touched| touched.connections).sum();
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} of {} | {} / {} | {} | {} |",
                line.name,
                line.seed,
                promises(line.outcome, &line.unexercised),
                ms(Some(line.figures.healthy.p99_us)),
                ms(worst(|fault| fault.first_second)),
                ms(worst(|fault| fault.rest)),
                ms(again),
                line.unavailable,
                line.answered,
                line.sent,
                line.due,
                affected,
                line.tried,
            )?;
        }
        Ok(())
    }
}

/// Names the promises that the run did not exercise, because the outcome does not cover them.
fn promises(outcome: Outcome, unexercised: &[&str]) -> String {
    match unexercised {
        [] => outcome.to_string(),
        some => format!("{outcome} (not exercised: {})", some.join(", ")),
    }
}

/// Formats microseconds as milliseconds with one decimal, because more would be noise.
fn ms(micros: Option<u64>) -> String {
    micros.map_or_else(
        || "–".to_owned(),
        |micros| format!("{}.{}", micros / 1000, micros % 1000 / 100),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Touched;

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
        let line = |faults| Line {
            name: "drawn".to_owned(),
            seed: 7,
            outcome: Outcome::Holds,
            unexercised: vec!["R1Δ", "R7"],
            figures: Figures { healthy: latency(4_940), faults },
            unavailable: 0,
            answered: 10,
            due: 12,
            sent: 11,
            tried: 3,
        };
        let lines = [
            line(vec![fault(60_000, 0, Some(900)), fault(2_000, 9_100, Some(80))]),
            line(vec![fault(1_000, 0, Some(900)), fault(2_000, 0, None)]),
        ];
        let text = Summary(&lines).to_string();
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| drawn | 7 | holds (not exercised: R1Δ, R7) | 4.9 | 60.0 | 9.1 | 0.9 | 0 of 10 | \
                 11 / 12 | 12 | 3 |",
                "| drawn | 7 | holds (not exercised: R1Δ, R7) | 4.9 | 2.0 | – | – | 0 of 10 | 11 / \
                 12 | 12 | 3 |"
            ]
        );
    }
}
