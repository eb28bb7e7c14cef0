//! Figures against bars: a pure function, and what to look at where one is missed.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{Machine, Settings};
use crate::workload::Latency;

/// What was measured, and what explains it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Validations by Postgres alone.
    pub without_cache: Latency,
    /// Validations of the same sessions with the cache, once it was warm; hits and the rest.
    pub with_cache: Latency,
    /// Of these, those that the cache answered.
    pub hit: Latency,
    /// First validations: the cache was asked, knew nothing, and Postgres answered.
    pub miss: Latency,
    /// How many of the validations with the warm cache it answered, in percent.
    pub hit_rate: f64,
    /// Requests that were measured.
    pub sent: u64,
    /// Of these, those that were not answered with 200.
    pub failed: u64,
    /// Copies that went into the cache, those of the warm-up included.
    pub fills: u64,
    /// Copies that the cache did not take.
    pub fills_refused: u64,
    /// A bare PING of Redis, one at a time: what the way there takes.
    pub ping: Latency,
    /// A bare SELECT 1 of Postgres, one at a time.
    pub select: Latency,
}

/// What a cache of sessions has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Bar {
    /// A validation that the cache answers: p99 below 5 ms.
    HitP99,
    /// A validation that the cache knows nothing of: p99 below 30 ms.
    MissP99,
    /// Over 90 % of all validations are answered by the warm cache.
    HitRate,
    /// On average 70 % less latency than Postgres alone, at least. (70–80 % is what is expected; more is
    /// better.)
    Improvement,
    /// Every request was answered with 200: else the rest says nothing.
    Answered,
}

impl Bar {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::HitP99,
        Self::MissP99,
        Self::HitRate,
        Self::Improvement,
        Self::Answered,
    ];

    /// What to reach: ms, percent, or a number of requests.
    #[must_use]
    pub fn limit(self) -> f64 {
        match self {
            Self::HitP99 => 5.0,
            Self::MissP99 => 30.0,
            Self::HitRate => 90.0,
            Self::Improvement => 70.0,
            Self::Answered => 0.0,
        }
    }

    /// Whether a figure reaches it.
    fn is_met(self, measured: f64) -> bool {
        match self {
            Self::HitP99 | Self::MissP99 => measured < self.limit(),
            Self::HitRate => measured > self.limit(),
            Self::Improvement => measured >= self.limit(),
            Self::Answered => measured <= self.limit(),
        }
    }

    /// What is compared; `None` where nothing was measured, which reaches nothing.
    fn measured(self, figures: &Figures) -> Option<f64> {
        let p99 = |latency: &Latency| (latency.count > 0).then(|| ms(latency.p99_us));
        match self {
            Self::HitP99 => p99(&figures.hit),
            Self::MissP99 => p99(&figures.miss),
            Self::HitRate => (figures.with_cache.count > 0).then_some(figures.hit_rate),
            Self::Improvement => {
                improvement(figures.without_cache.mean_us, figures.with_cache.mean_us)
            }
            #[expect(
                clippy::cast_precision_loss,
                reason = "counts of requests are far below 2^52"
            )]
            Self::Answered => (figures.sent > 0).then_some(figures.failed as f64),
        }
    }

    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::HitP99 => ("p99 of a hit", "below", " ms"),
            Self::MissP99 => ("p99 of a miss", "below", " ms"),
            Self::HitRate => ("hit rate once warm", "over", " %"),
            Self::Improvement => ("less latency on average", "at least", " %"),
            Self::Answered => ("requests not answered with 200", "at most", ""),
        }
    }
}

/// How much less the second is than the first, in percent; `None` where one of them is nothing.
pub(super) fn improvement(before: f64, after: f64) -> Option<f64> {
    (before > 0.0 && after > 0.0).then(|| (before - after) * 100.0 / before)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of a request are far below 2^52"
)]
pub(super) fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// One bar, and whether it was reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// Which one.
    pub bar: Bar,
    /// What was to be reached.
    pub limit: f64,
    /// What was measured: ms, percent, or a number of requests; `null` where nothing was.
    #[serde(serialize_with = "rounded")]
    pub measured: Option<f64>,
    /// Whether it was reached.
    pub met: bool,
    /// What to look at if it was not.
    pub help: Vec<String>,
}

fn rounded<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    let value = value.map(|value| (value * 1000.0).round() / 1000.0);
    value.serialize(serializer)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, must, unit) = self.bar.words();
        let digits = if self.bar == Bar::Answered { 0 } else { 1 };
        let limit = self.limit;
        match self.measured {
            Some(measured) => {
                let digits = if unit == " ms" { 2 } else { digits };
                write!(
                    f,
                    "{what}: {measured:.digits$}{unit} ({must} {limit}{unit})"
                )
            }
            None => write!(f, "{what}: nothing was measured ({must} {limit}{unit})"),
        }
    }
}

/// A verdict against each bar, in the order of [`Bar::ALL`].
#[must_use]
pub fn judge(figures: &Figures, machine: &Machine, settings: &Settings) -> Vec<Verdict> {
    let verdict = |bar: Bar| {
        let measured = bar.measured(figures);
        let met = measured.is_some_and(|measured| bar.is_met(measured));
        Verdict {
            bar,
            limit: bar.limit(),
            measured,
            met,
            help: if met {
                Vec::new()
            } else {
                help(bar, figures, machine, settings)
            },
        }
    };
    Bar::ALL.into_iter().map(verdict).collect()
}

/// What the other figures say about a bar that was missed: the likeliest first.
fn help(bar: Bar, figures: &Figures, machine: &Machine, settings: &Settings) -> Vec<String> {
    let mut help = Vec::new();
    match bar {
        Bar::HitP99 if figures.hit.count == 0 => help.push(no_hits(figures)),
        Bar::HitP99 => tail(
            &mut help,
            (bar, &figures.hit),
            ("Redis", "PING", &figures.ping),
            "`SLOWLOG GET`, `LATENCY DOCTOR`, its memory",
        ),
        Bar::MissP99 => tail(
            &mut help,
            (bar, &figures.miss),
            ("Postgres", "SELECT 1", &figures.select),
            "its load, locks, and whether `token_digest` is looked up by its index",
        ),
        Bar::HitRate if figures.with_cache.count == 0 => {}
        Bar::HitRate if figures.hit.count == 0 => help.push(no_hits(figures)),
        Bar::HitRate if figures.fills_refused > figures.fills / 10 => help.push(format!(
            "{} fills were refused: keys are flushed or evicted while they are being filled (`INFO stats`: \
             evicted_keys, against maxmemory)",
            figures.fills_refused
        )),
        Bar::HitRate => help.push(
            "entries were filled and are not there any more: Redis evicts (`INFO stats`: evicted_keys, against \
             maxmemory), or was slower than its deadline of 50 ms"
                .to_owned(),
        ),
        Bar::Improvement => {
            let (ping, plain) = (ms(figures.ping.p50_us), figures.without_cache.mean_us / 1000.0);
            if figures.hit.count == 0 {
                help.push(no_hits(figures));
            } else if ping > plain * (1.0 - bar.limit() / 100.0) {
                help.push(format!(
                    "a PING alone takes {ping:.2} ms of the {plain:.2} ms that Postgres alone takes: bring Redis nearer"
                ));
            } else {
                help.push(format!(
                    "a hit takes {:.2} ms where a PING takes {:.2} ms: look at what else this process and Redis do",
                    figures.hit.mean_us / 1000.0,
                    ping
                ));
            }
        }
        Bar::Answered => help.push(
            "RUST_LOG=session_layer=debug shows why; `session-testkit check` looks at both servers, `--concurrency` at \
             whether they are asked for too much"
                .to_owned(),
        ),
    }
    let of_time = !matches!(bar, Bar::HitRate);
    let cores = u32::try_from(machine.cores).unwrap_or(u32::MAX);
    if of_time && machine.is_busy() {
        help.push(format!(
            "this machine was busy before it began (load {:.1} on {cores} cores): measure on a quiet one",
            machine.load_average.unwrap_or_default()
        ));
    }
    if of_time && settings.concurrency > 4 * cores {
        help.push(format!(
            "{} clients on {cores} cores wait for each other: a lower --concurrency shows what one validation takes",
            settings.concurrency
        ));
    }
    if of_time && machine.is_debug() {
        help.push(
            "this is a debug build: `cargo run --release -p session-testkit -- bench`".to_owned(),
        );
    }
    help
}

fn no_hits(figures: &Figures) -> String {
    if figures.fills == 0 {
        "nothing was filled, so nothing can be answered from the cache: `session-testkit check` says whether Redis \
         allows what it takes (SET, EVALSHA, INFO)"
            .to_owned()
    } else {
        "copies are filled, and none is served: `session-testkit check` says whether Redis allows GET, and is a master"
            .to_owned()
    }
}

/// Why a p99 is too high: the way to the server, all of them, or only the slowest few?
fn tail(
    help: &mut Vec<String>,
    (bar, latency): (Bar, &Latency),
    (server, command, way): (&str, &str, &Latency),
    look_at: &str,
) {
    let (p50, p99) = (ms(latency.p50_us), ms(way.p99_us));
    if latency.count == 0 {
        help.push("no request was answered by Postgres with the cache empty".to_owned());
    } else if ms(way.p50_us) > bar.limit() / 2.0 {
        help.push(format!(
            "the way to {server} alone takes {:.2} ms ({command}, p50): bring it nearer",
            ms(way.p50_us)
        ));
    } else if p99 > bar.limit() / 2.0 {
        help.push(format!(
            "{server} itself stalls at times ({command} alone: p50 {:.2} ms, p99 {p99:.2} ms): look at {look_at}",
            ms(way.p50_us)
        ));
    } else if p50 < bar.limit() / 2.0 {
        help.push(format!(
            "half of them took {p50:.2} ms or less, so it is the slowest few: other work on these cores, or {server} pausing \
             (look at {look_at})"
        ));
    } else {
        help.push(format!(
            "half of them took over {p50:.2} ms while {command} takes {:.2} ms: too much at a time, or look at {look_at}",
            ms(way.p50_us)
        ));
    }
}

#[cfg(test)]
mod tests;
