//! The rates of validations along one axis.

use std::{fmt, time::Duration};

use session_benches::Error;
use session_benches::validations::{Deployment, Kind, Load, Measured, joined, median, significant};

use crate::plot::{Line, Panel};

/// The time for each point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) span: Duration,
    pub(crate) rounds: usize,
}

/// What grows, and the measurements at each point.
#[derive(Debug)]
pub(crate) struct Axis {
    name: &'static str,
    kinds: Vec<Kind>,
    points: Vec<Point>,
}

#[derive(Debug)]
struct Point {
    at: f64,
    /// The rounds of each kind.
    rounds: Vec<Vec<Measured>>,
}

impl Axis {
    pub(crate) fn new(name: &'static str, kinds: &[Kind]) -> Self {
        Self { name, kinds: kinds.to_vec(), points: Vec::new() }
    }

    /// Measures a point for each number of callers, on one deployment. `at` returns the place of a
    /// point on the axis.
    pub(crate) async fn measure(
        &mut self,
        effort: Effort,
        sessions: u32,
        data: usize,
        callers: &[usize],
        at: impl Fn(usize) -> f64,
    ) -> Result<(), Error> {
        eprintln!("{}: {sessions} sessions of {data} bytes", self.name);
        let load = Load::new(sessions, data);
        let deployment = Deployment::start(&load).await?;
        let mut rows = Vec::new();
        for kind in &self.kinds {
            rows.push(deployment.row(*kind, &load).await?);
        }
        for callers in callers {
            let mut rounds = vec![Vec::new(); rows.len()];
            for _ in 0..effort.rounds {
                for (row, rounds) in rows.iter().zip(&mut rounds) {
                    rounds.push(row.measure(&load, *callers, effort.span).await?);
                }
            }
            self.points.push(Point { at: at(*callers), rounds });
        }
        drop(rows);
        deployment.stop().await
    }

    pub(crate) fn panel(&self) -> Panel {
        let line = |(number, kind): (usize, &Kind)| Line {
            name: kind.name(),
            points: self.points.iter().map(|it| (it.at, it.rate(number) / 1e3)).collect(),
        };
        let lines = self.kinds.iter().enumerate().map(line).collect();
        Panel { x: self.name, y: "thousand validations/s", lines }
    }
}

impl Point {
    fn rate(&self, kind: usize) -> f64 {
        median(self.rounds[kind].iter().map(|measured| measured.rate))
    }

    fn cpu(&self, kind: usize) -> f64 {
        median(self.rounds[kind].iter().map(|measured| measured.cpu_us))
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = joined(self.points.iter().map(|point| point.at.to_string()));
        writeln!(f, "| thousand/s at {places} {} | rates | CPU µs |\n|---|---|---|", self.name)?;
        for (number, kind) in self.kinds.iter().enumerate() {
            let rates = self.points.iter().map(|point| significant(point.rate(number) / 1e3));
            let cpu = self.points.iter().map(|point| format!("{:.1}", point.cpu(number)));
            writeln!(f, "| {} | {} | {} |", kind.name(), joined(rates), joined(cpu))?;
        }
        Ok(())
    }
}

/// Returns a number as a place on an axis.
#[expect(clippy::cast_precision_loss, reason = "callers, bytes and nodes are far below 2^52")]
pub(crate) fn number(number: usize) -> f64 {
    number as f64
}
