//! Stage 2: a short benchmark against its goals.

use super::{
    nodes::{Nodes, failed},
    report::Outcome,
};
use crate::bench::{self, Bar, Length, Machine, Report, Settings, Verdict};
use session_tools::check::{Finding, Steps, Stop};

/// The number of requests: enough for a p99, and quickly done.
const REQUESTS: u32 = 2_000;
const SESSIONS: u32 = 300;

pub(super) async fn run(
    nodes: &Nodes<'_>,
    checks: &mut Steps<'_>,
    measured: &mut Option<Report>,
) -> Outcome {
    let settings =
        Settings { length: Length::Requests(REQUESTS), sessions: SESSIONS, ..Settings::default() };
    let report = match bench::run(nodes.backends, &settings, |_| {}).await {
        Ok(report) => report,
        Err(error) => {
            checks.record("bench", failed("Nothing could be measured", &error));
            return Err(Stop);
        }
    };
    for verdict in &report.verdicts {
        checks.record(name(verdict.bar), finding(verdict, &report.machine));
    }
    let verdicts = report.verdicts.iter();
    let latencies = verdicts.filter(|verdict| verdict.met && verdict.bar != Bar::Answered);
    let summary: Vec<String> = latencies.map(ToString::to_string).collect();
    *measured = Some(report);
    Ok(summary.join(", "))
}

fn name(bar: Bar) -> &'static str {
    match bar {
        Bar::HitP99 => "hit p99",
        Bar::MissP99 => "miss p99",
        Bar::HitRate => "hit rate",
        Bar::Improvement => "improvement",
        Bar::Answered => "answered",
    }
}

/// Returns a warning instead of a failure for a missed latency on a debug build or a busy machine.
fn finding(verdict: &Verdict, machine: &Machine) -> Finding {
    if verdict.met {
        return Finding::ok(verdict.to_string());
    }
    let (what, help) = (verdict.to_string(), verdict.help.join("\n"));
    let of_time = !matches!(verdict.bar, Bar::HitRate | Bar::Answered);
    if of_time && verdict.measured.is_some() && (machine.is_debug() || machine.is_busy()) {
        let why = "the goal was missed, but by a debug build or on a busy machine";
        return Finding::warning(&what, why, help);
    }
    let why = "the goal was missed. `session-testkit bench` measures longer";
    Finding::failed(&what, why, help)
}

#[cfg(test)]
mod tests {
    use session_tools::check::Status;

    use super::*;
    use crate::bench::{Figures, judge};

    #[test]
    fn missed_latency_fails_only_on_idle_release_build() {
        let figures = Figures {
            hit: crate::workload::Latency { count: 1, p99_us: 9_000, ..Default::default() },
            sent: 1,
            failed: 1,
            ..Figures::default()
        };
        let machine = |build, load| Machine {
            cores: 2,
            build,
            load_average: Some(load),
            ..Machine::default()
        };
        for (machine, late) in [
            (machine("release", 0.5), Status::Failed),
            (machine("debug", 0.5), Status::Warning),
            (machine("release", 7.0), Status::Warning),
        ] {
            let verdicts = judge(&figures, &machine, &Settings::default());
            let statuses =
                verdicts.iter().map(|verdict| (verdict.bar, finding(verdict, &machine).status));
            for (bar, status) in statuses {
                // A missing measurement and failed requests are failures everywhere.
                let expected = if bar == Bar::HitP99 { late } else { Status::Failed };
                assert_eq!(status, expected, "{bar:?} {machine:?}");
            }
        }
    }
}
