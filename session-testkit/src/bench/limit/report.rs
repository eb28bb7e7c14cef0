//! The report of a search, as text and as JSON.

use std::fmt;

use serde::Serialize;

use super::{Machine, Settings, Trial};
use crate::bench::judge::ms;

/// The report of both searches.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Whether both searches found a rate.
    pub(crate) ok: bool,
    pub(crate) machine: Machine,
    pub(crate) settings: Settings,
    pub(crate) method: String,
    /// With Redis.
    pub(crate) healthy: Found,
    /// With Redis unreachable: Postgres alone.
    pub(crate) without_redis: Found,
}

/// The result of one search.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Found {
    /// The highest rate whose p99 was within the bar, in requests per second. `null` if there is
    /// none.
    pub(crate) limit: Option<u32>,
    /// The share of validations that the cache served, in percent, with those of the warm-ups.
    pub(crate) hit_rate: f64,
    /// The trials, in their order.
    pub(crate) trials: Vec<Trial>,
}

impl Found {
    /// Returns the trial at the limit, and the lowest rate that failed.
    fn around(&self) -> (Option<&Trial>, Option<u32>) {
        let at = self.trials.iter().find(|trial| trial.passed && Some(trial.rate) == self.limit);
        let failed = self.trials.iter().filter(|trial| Some(trial.rate) > self.limit);
        (at, failed.map(|trial| trial.rate).min())
    }
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        settings: Settings,
        healthy: Found,
        without_redis: Found,
    ) -> Self {
        let Settings { bar, trial, sessions } = &settings;
        let method = format!(
            "open loop, latency since the intended arrival, {sessions} sessions in turn, {} s per \
             trial, bar: p99 at most {bar:?}",
            trial.as_secs_f64()
        );
        let ok = healthy.limit.is_some() && without_redis.limit.is_some();
        Self { ok, machine, settings, method, healthy, without_redis }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n", self.machine, self.method)?;
        let header = ["within the bar", "p50, ms", "p99, ms", "over the bar", "hit rate, %"];
        write!(f, "{:<17}", "requests/s")?;
        header.iter().try_for_each(|name| write!(f, "{name:>16}"))?;
        writeln!(f)?;
        for (name, found) in [("with Redis", &self.healthy), ("without Redis", &self.without_redis)]
        {
            let (at, over) = found.around();
            let rate = |rate: Option<u32>| rate.map_or_else(|| "-".to_owned(), |it| it.to_string());
            let [p50, p99] = [
                at.map_or(0.0, |trial| ms(trial.latency.p50_us)),
                at.map_or(0.0, |trial| ms(trial.latency.p99_us)),
            ];
            let (limit, over, hits) = (rate(found.limit), rate(over), found.hit_rate);
            writeln!(f, "{name:<17}{limit:>16}{p50:>16.2}{p99:>16.2}{over:>16}{hits:>16.1}")?;
        }
        if !self.ok {
            writeln!(
                f,
                "\nNot even one request per second stays within the bar.\n   → raise --bar, or run \
                 `session-testkit bench`, which shows the latency of single requests"
            )?;
        }
        Ok(())
    }
}
