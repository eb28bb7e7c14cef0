//! The verdict on figures, with advice for missed goals. It is a pure function.

use std::fmt;

use serde::{Serialize, Serializer};
use session_layer::cache::DEFAULT_DEADLINE;

use super::{Machine, Settings};
use crate::workload::Latency;

/// The measured figures, with further ones that explain them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    /// Validations with Postgres alone.
    pub(crate) without_cache: Latency,
    /// Validations of the same sessions with the warm cache: hits and others.
    pub(crate) with_cache: Latency,
    /// The hits among these.
    pub(crate) hit: Latency,
    /// First validations, which miss the cache and read Postgres.
    pub(crate) miss: Latency,
    /// The share of hits with the warm cache, in percent.
    pub(crate) hit_rate: f64,
    /// The number of measured requests.
    pub(crate) sent: u64,
    /// The number of them without a 200 response.
    pub(crate) failed: u64,
    /// The number of fills, including the warm-up.
    pub(crate) fills: u64,
    /// The number of rejected fills.
    pub(crate) fills_refused: u64,
    /// A bare PING of Redis, sequentially: the round trip.
    pub(crate) ping: Latency,
    /// A bare SELECT 1 of Postgres, sequentially.
    pub(crate) select: Latency,
}

/// A goal for a cache of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Bar {
    /// The p99 of a hit is below 5 ms.
    HitP99,
    /// The p99 of a miss is below 30 ms.
    MissP99,
    /// Over 90 % of all validations hit the warm cache.
    HitRate,
    /// The average latency is at least 70 % below that of Postgres alone. 70 % to 80 % is expected.
    Improvement,
    /// Every request got a 200 response. Otherwise the other figures are meaningless.
    Answered,
}

impl Bar {
    pub(crate) const ALL: [Self; 5] =
        [Self::HitP99, Self::MissP99, Self::HitRate, Self::Improvement, Self::Answered];

    /// Returns the goal's limit: ms, percent, or a number of requests.
    pub(crate) fn limit(self) -> f64 {
        self.goal().2
    }

    /// Returns the figure's name, how it must compare with the limit, the limit, and its unit.
    fn goal(self) -> (&'static str, &'static str, f64, &'static str) {
        match self {
            Self::HitP99 => ("p99 of a hit", "below", 5.0, " ms"),
            Self::MissP99 => ("p99 of a miss", "below", 30.0, " ms"),
            Self::HitRate => ("hit rate once warm", "over", 90.0, " %"),
            Self::Improvement => ("less latency on average", "at least", 70.0, " %"),
            Self::Answered => ("requests without a 200 response", "at most", 0.0, ""),
        }
    }

    /// Returns whether a figure reaches the goal.
    fn is_met(self, measured: f64) -> bool {
        match self {
            Self::HitP99 | Self::MissP99 => measured < self.limit(),
            Self::HitRate => measured > self.limit(),
            Self::Improvement => measured >= self.limit(),
            Self::Answered => measured <= self.limit(),
        }
    }

    /// Returns the figure to compare. Without a measurement it is `None`, which misses the goal.
    fn measured(self, figures: &Figures) -> Option<f64> {
        let p99 = |latency: &Latency| (latency.count > 0).then(|| ms(latency.p99_us));
        match self {
            Self::HitP99 => p99(&figures.hit),
            Self::MissP99 => p99(&figures.miss),
            Self::HitRate => (figures.with_cache.count > 0).then_some(figures.hit_rate),
            Self::Improvement => {
                improvement(figures.without_cache.mean_us, figures.with_cache.mean_us)
            }
            #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
            Self::Answered => (figures.sent > 0).then_some(figures.failed as f64),
        }
    }
}

/// Returns how much less the second value is than the first, in percent, unless one is 0.
pub(super) fn improvement(before: f64, after: f64) -> Option<f64> {
    (before > 0.0 && after > 0.0).then(|| (before - after) * 100.0 / before)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a request are far below 2^52")]
pub(super) fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// A goal, and whether it was reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) bar: Bar,
    pub(crate) limit: f64,
    /// The measured value: ms, percent, or a number of requests. `null` without a measurement.
    #[serde(serialize_with = "rounded")]
    pub(crate) measured: Option<f64>,
    pub(crate) met: bool,
    pub(crate) help: Vec<String>,
}

fn rounded<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    let value = value.map(|value| (value * 1000.0).round() / 1000.0);
    value.serialize(serializer)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, must, limit, unit) = self.bar.goal();
        let digits = match unit {
            " ms" => 2,
            " %" => 1,
            _ => 0,
        };
        match self.measured {
            Some(measured) => write!(f, "{what}: {measured:.digits$}{unit}")?,
            None => write!(f, "{what}: nothing was measured")?,
        }
        write!(f, " ({must} {limit}{unit})")
    }
}

/// Returns a verdict against each goal, in the order of [`Bar::ALL`].
pub(crate) fn judge(figures: &Figures, machine: &Machine, settings: &Settings) -> Vec<Verdict> {
    let verdict = |bar: Bar| {
        let measured = bar.measured(figures);
        let met = measured.is_some_and(|measured| bar.is_met(measured));
        Verdict {
            bar,
            limit: bar.limit(),
            measured,
            met,
            help: if met { Vec::new() } else { help(bar, figures, machine, settings) },
        }
    };
    Bar::ALL.into_iter().map(verdict).collect()
}

/// Returns advice for a missed goal from the other figures, the likeliest first.
fn help(bar: Bar, figures: &Figures, machine: &Machine, settings: &Settings) -> Vec<String> {
    let likeliest = match bar {
        Bar::HitP99 | Bar::HitRate | Bar::Improvement if figures.hit.count == 0 => no_hits(figures),
        Bar::HitP99 => {
            let look_at = "`SLOWLOG GET`, `LATENCY DOCTOR`, its memory";
            tail(bar, &figures.hit, ("Redis", "PING", &figures.ping), look_at)
        }
        Bar::MissP99 => {
            let look_at = "its load, its locks, and the use of the index on `token_digest`";
            tail(bar, &figures.miss, ("Postgres", "SELECT 1", &figures.select), look_at)
        }
        Bar::HitRate if figures.fills_refused > figures.fills / 10 => format!(
            "{} fills were rejected: keys are flushed or evicted during their fill (`INFO stats`: \
             evicted_keys, and maxmemory)",
            figures.fills_refused
        ),
        Bar::HitRate => "entries were filled and have disappeared: Redis evicts (`INFO stats`: \
                         evicted_keys, and maxmemory), or was slower than its deadline of 50 ms"
            .to_owned(),
        Bar::Improvement => {
            let (ping, plain) = (ms(figures.ping.p50_us), figures.without_cache.mean_us / 1000.0);
            let hit = figures.hit.mean_us / 1000.0;
            if ping > plain * (1.0 - bar.limit() / 100.0) {
                format!(
                    "a PING takes {ping:.2} ms, and a validation with Postgres alone {plain:.2} \
                     ms: move Redis nearer"
                )
            } else {
                format!(
                    "a hit takes {hit:.2} ms, but a PING takes {ping:.2} ms: check the other work \
                     of this process and of Redis"
                )
            }
        }
        Bar::Answered => "RUST_LOG=session_layer=debug shows the errors, and `sessionctl \
                          check` checks both servers. A lower `--concurrency` shows whether they \
                          are overloaded"
            .to_owned(),
    };
    let mut help = vec![likeliest];
    if bar == Bar::HitRate {
        return help;
    }
    let cores = u32::try_from(machine.cores).unwrap_or(u32::MAX);
    if machine.is_busy() {
        help.push(format!(
            "this machine was busy before it began (load {:.1} on {cores} cores): measure on an \
             idle one",
            machine.load_average.unwrap_or_default()
        ));
    }
    if settings.concurrency > 4 * cores {
        help.push(format!(
            "{} clients on {cores} cores wait for each other: a lower --concurrency shows the \
             latency of one validation",
            settings.concurrency
        ));
    }
    if machine.is_debug() {
        help.push(
            "this is a debug build: `cargo run --release -p session-testkit -- bench`".to_owned(),
        );
    }
    help
}

fn no_hits(figures: &Figures) -> String {
    let (ping, deadline) = (figures.ping.p50_us, DEFAULT_DEADLINE.as_millis());
    if u128::from(ping) > DEFAULT_DEADLINE.as_micros() {
        format!(
            "a PING takes {:.2} ms, and a look-up has a deadline of {deadline} ms, therefore each \
             one fails: move Redis nearer, or remove what slows it down",
            ms(ping)
        )
    } else if figures.fills == 0 {
        "nothing was filled, therefore nothing can hit: `sessionctl check` \
         shows whether Redis is full, or denies SET, EVALSHA or INFO"
            .to_owned()
    } else {
        "entries are filled, and none is served: `sessionctl check` shows whether Redis \
         permits GET, and is a master"
            .to_owned()
    }
}

/// Returns the reason for a high p99: the round trip to the server, its stalls, or the load.
fn tail(
    bar: Bar,
    latency: &Latency,
    (server, command, way): (&str, &str, &Latency),
    look_at: &str,
) -> String {
    let (half, p50) = (bar.limit() / 2.0, ms(latency.p50_us));
    let (round_trip, stall) = (ms(way.p50_us), ms(way.p99_us));
    if latency.count == 0 {
        "no request read Postgres with an empty cache".to_owned()
    } else if round_trip > half {
        format!(
            "the round trip to {server} takes {round_trip:.2} ms ({command}, p50): move it nearer"
        )
    } else if stall > half {
        format!(
            "{server} itself stalls at times ({command} alone: p50 {round_trip:.2} ms, p99 \
             {stall:.2} ms): check {look_at}"
        )
    } else if p50 < half {
        format!(
            "half of them took {p50:.2} ms or less, and only the slowest few are late: other work \
             on these cores, or pauses of {server} (check {look_at})"
        )
    } else {
        format!(
            "half of them took over {p50:.2} ms, but {command} takes {round_trip:.2} ms: too much \
             load at a time, or check {look_at}"
        )
    }
}

#[cfg(test)]
mod tests;
