//! The report of a measurement, as text and as JSON.

use std::fmt;

use serde::Serialize;

use super::{
    Figures, Length, Machine, ROUNDS, Settings, Verdict,
    judge::{improvement, ms},
};
use crate::workload::Latency;

/// The report of a measurement.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) ok: bool,
    pub(crate) machine: Machine,
    pub(crate) settings: Settings,
    pub(crate) method: String,
    /// The figures, with latencies in microseconds.
    pub(crate) figures: Figures,
    /// The reduction of latency with the cache, in percent.
    pub(crate) improvement: Improvement,
    pub(crate) verdicts: Vec<Verdict>,
}

/// The reduction of latency, in percent. `null` without a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Improvement {
    pub(crate) mean: Option<f64>,
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

impl Improvement {
    fn of(before: &Latency, after: &Latency) -> Self {
        let tenths = |value: f64| (value * 10.0).round() / 10.0;
        let of = |before, after| improvement(before, after).map(tenths);
        Self {
            mean: of(before.mean_us, after.mean_us),
            p50: of(ms(before.p50_us), ms(after.p50_us)),
            p95: of(ms(before.p95_us), ms(after.p95_us)),
            p99: of(ms(before.p99_us), ms(after.p99_us)),
        }
    }
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        settings: Settings,
        figures: Figures,
        verdicts: Vec<Verdict>,
    ) -> Self {
        let length = match settings.length {
            Length::Requests(requests) => format!("{requests} requests"),
            Length::Time(time) => format!("{} s", time.as_secs_f64()),
        };
        let Settings { concurrency, sessions, .. } = settings;
        let method = format!(
            "closed loop, {concurrency} clients, {sessions} sessions in turn, {length} per \
             side in {ROUNDS} alternating rounds, after a warm-up"
        );
        Self {
            ok: verdicts.iter().all(|verdict| verdict.met),
            machine,
            settings,
            method,
            improvement: Improvement::of(&figures.without_cache, &figures.with_cache),
            figures,
            verdicts,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = &self.figures;
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "{}", self.method)?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<26}{:>9}{:>9}{:>9}{:>9}{:>10}",
            "ms", "average", "p50", "p95", "p99", "requests"
        )?;
        let rows = [
            ("without cache", &figures.without_cache),
            ("with cache", &figures.with_cache),
            ("  of these, hits", &figures.hit),
            ("misses (cache empty)", &figures.miss),
            ("bare PING of Redis", &figures.ping),
            ("bare SELECT 1 of Postgres", &figures.select),
        ];
        for (name, latency) in rows {
            let [p50, p95, p99] = [latency.p50_us, latency.p95_us, latency.p99_us].map(ms);
            let (mean, count) = (latency.mean_us / 1000.0, latency.count);
            writeln!(f, "{name:<26}{mean:>9.3}{p50:>9.3}{p95:>9.3}{p99:>9.3}{count:>10}")?;
        }
        let Improvement { mean, p50, p95, p99 } = self.improvement;
        write!(f, "{:<26}", "improvement, %")?;
        for value in [mean, p50, p95, p99] {
            match value {
                Some(value) => write!(f, "{value:>9.1}")?,
                None => write!(f, "{:>9}", "-")?,
            }
        }
        writeln!(f)?;
        writeln!(f, "{:<26}{:>9.1}", "hit rate, %", figures.hit_rate)?;
        writeln!(f)?;
        for verdict in &self.verdicts {
            writeln!(f, "{} {verdict}", if verdict.met { "✅" } else { "❌" })?;
            for line in &verdict.help {
                writeln!(f, "   → {line}")?;
            }
        }
        Ok(())
    }
}
