//! Stage 2: a short benchmark, against its bars.

use super::{
    nodes::{Nodes, failed},
    report::{Checks, Outcome, Stop},
};
use crate::{
    bench::{self, Bar, Length, Machine, Report, Settings, Verdict},
    check::Finding,
};

/// Enough for a p99, short enough to wait for.
const REQUESTS: u32 = 2_000;
const SESSIONS: u32 = 300;

pub(super) async fn run(
    nodes: &Nodes<'_>,
    checks: &mut Checks<'_>,
    measured: &mut Option<Report>,
) -> Outcome {
    let settings = Settings::default()
        .length(Length::Requests(REQUESTS))
        .sessions(SESSIONS);
    let report = match bench::run(nodes.backends, &settings, |_| {}).await {
        Ok(report) => report,
        Err(error) => {
            checks.note("bench", failed("Nothing could be measured", &error));
            return Err(Stop);
        }
    };
    for verdict in &report.verdicts {
        checks.note(name(verdict.bar), finding(verdict, &report.machine));
    }
    let verdicts = report.verdicts.iter();
    let told = verdicts.filter(|verdict| verdict.met && verdict.bar != Bar::Answered);
    let summary: Vec<String> = told.map(ToString::to_string).collect();
    *measured = Some(report);
    Ok(summary.join("; "))
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

/// A time that was missed says something of a release build on a machine that has nothing else to do.
fn finding(verdict: &Verdict, machine: &Machine) -> Finding {
    if verdict.met {
        return Finding::ok(verdict.to_string());
    }
    let (what, help) = (verdict.to_string(), verdict.help.join("\n"));
    let of_time = !matches!(verdict.bar, Bar::HitRate | Bar::Answered);
    if of_time && verdict.measured.is_some() && (machine.is_debug() || machine.is_busy()) {
        let why =
            "the bar was missed, but not by what would be deployed, or not on a quiet machine";
        return Finding::warning(&what, why, help);
    }
    let why = "the bar was missed; `session-testkit bench` measures longer";
    Finding::failed(&what, why, help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bench::{Figures, judge},
        check::Status,
    };

    #[test]
    fn a_missed_time_is_a_failure_where_times_mean_something() {
        let figures = Figures {
            hit: crate::workload::Latency {
                count: 1,
                p99_us: 9_000,
                ..Default::default()
            },
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
            let statuses = verdicts
                .iter()
                .map(|verdict| (verdict.bar, finding(verdict, &machine).status));
            for (bar, status) in statuses {
                // Nothing measured, and requests that fail, are failures everywhere.
                let expected = if bar == Bar::HitP99 {
                    late
                } else {
                    Status::Failed
                };
                assert_eq!(status, expected, "{bar:?} {machine:?}");
            }
        }
    }
}
