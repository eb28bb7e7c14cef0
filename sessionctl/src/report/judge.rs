//! The verdict on a deployment, and its reasons. They are functions of what was checked and
//! measured.

use std::fmt;

use serde::Serialize;
use session_layer::cache::DEFAULT_DEADLINE;
use session_testkit::report::{Measured, Outage};
use session_tools::check::{Report as Checks, Status};

/// A PING that takes longer makes a hit miss its goal of 5 ms.
const SLOW_PING_US: u64 = 3_000;
/// How long Redis may be back before it is used again.
const BACK_WITHIN_MS: u64 = 3_000;

/// The verdict on the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Warning,
    Failed,
}

impl Verdict {
    /// Returns the worst of the reasons.
    pub(super) fn of(reasons: &[Reason]) -> Self {
        reasons.iter().map(|reason| reason.verdict).max().unwrap_or(Self::Ok)
    }

    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Ok => "✅",
            Self::Warning => "⚠️",
            Self::Failed => "❌",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "all is well",
            Self::Warning => "works, with limitations",
            Self::Failed => "not well",
        })
    }
}

/// A reason for the verdict: what, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    pub(super) verdict: Verdict,
    pub(super) what: String,
    pub(super) why: Option<String>,
    pub(super) help: Vec<String>,
}

impl Reason {
    fn new(verdict: Verdict, what: impl Into<String>) -> Self {
        Self { verdict, what: what.into(), why: None, help: Vec::new() }
    }
}

/// The steps that need the application's own tables, which a report's own servers lack.
const OF_THE_SCHEMA: [&str; 6] =
    ["schema", "usage", "rights", "row_security", "journal", "statements"];

/// Leaves out the steps that need the application's tables.
pub(super) fn leave_out_the_schema(checks: &mut Checks) {
    for server in &mut checks.servers {
        server.steps.retain(|step| !OF_THE_SCHEMA.contains(&step.step));
        let worst = server.steps.iter().map(|step| step.status).max();
        server.status = worst.unwrap_or(Status::Skipped);
    }
    checks.ok = checks.servers.iter().all(|server| server.status != Status::Failed);
}

/// Returns whether both servers can be reached.
pub(super) fn can_be_measured(checks: &Checks) -> bool {
    checks.servers.iter().all(|server| {
        let reached = |step: &str| {
            server.steps.iter().any(|it| it.step == step && it.status != Status::Failed)
        };
        reached("connect") && (reached("ping") || reached("select"))
    })
}

/// Returns the reasons, the worst first. `failure` is why nothing could be measured.
pub(super) fn judge(
    checks: &Checks,
    measured: Option<&Measured>,
    failure: Option<&str>,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    for step in checks.servers.iter().flat_map(|server| &server.steps) {
        let verdict = match step.status {
            Status::Failed => Verdict::Failed,
            Status::Warning => Verdict::Warning,
            Status::Ok | Status::Skipped => continue,
        };
        let help = step.help.iter().flat_map(|help| help.lines()).map(str::to_owned).collect();
        reasons.push(Reason {
            why: step.why.clone(),
            help,
            ..Reason::new(verdict, &*step.message)
        });
    }
    if let Some(failure) = failure {
        let what = "The deployment could not be measured";
        let why = Some(failure.to_owned());
        reasons.push(Reason { why, ..Reason::new(Verdict::Failed, what) });
    }
    if let Some(measured) = measured {
        let ping = measured.latencies.get("ping");
        reasons.extend(ping.and_then(|ping| slow_redis(ping.p50_us)));
        for goal in measured.goals.iter().filter(|goal| !goal.met) {
            let help = goal.help.clone();
            reasons.push(Reason { help, ..Reason::new(Verdict::Failed, &*goal.text) });
        }
        reasons.extend(of_outage(&measured.outage));
    }
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.verdict));
    reasons
}

/// Returns the reason for a PING that takes so long, in microseconds.
fn slow_redis(ping_us: u64) -> Option<Reason> {
    if ping_us <= SLOW_PING_US {
        return None;
    }
    let what = format!("Redis is slow: a PING takes {}", ms(ping_us));
    let why = if u128::from(ping_us) > DEFAULT_DEADLINE.as_micros() {
        let deadline = DEFAULT_DEADLINE.as_millis();
        format!("a look-up has a deadline of {deadline} ms, therefore each one fails")
    } else {
        "no hit can be faster than a PING".to_owned()
    };
    Some(Reason {
        why: Some(why),
        help: vec![
            "place Redis nearer to the application, and look for a slow network or proxy between \
             them"
                .to_owned(),
            "SLOWLOG GET and LATENCY DOCTOR show whether Redis itself is busy".to_owned(),
        ],
        ..Reason::new(Verdict::Failed, what)
    })
}

fn of_outage(outage: &Outage) -> Option<Reason> {
    if outage.how.is_none() {
        let what = "An outage of Redis was not examined: TLS cannot pass through a proxy";
        return Some(Reason::new(Verdict::Warning, what));
    }
    let failed: u64 = outage.samples.iter().map(|sample| sample.failed).sum();
    if failed > 0 {
        let all: u64 = outage.samples.iter().map(|sample| sample.requests).sum();
        let what = format!("{failed} of {all} requests failed while Redis was away or came back");
        return Some(Reason {
            help: vec![
                "Postgres must answer all requests meanwhile: check its load, its connections \
                 (max_connections) and the latency of a miss"
                    .to_owned(),
            ],
            ..Reason::new(Verdict::Failed, what)
        });
    }
    match outage.hits_again_ms {
        Some(at) if at.saturating_sub(outage.up_ms) <= BACK_WITHIN_MS => None,
        Some(at) => {
            let took = at.saturating_sub(outage.up_ms);
            let what = format!("Redis was used again {took} ms after its return");
            Some(Reason::new(Verdict::Warning, what))
        }
        None => {
            let what = "Redis was not used again after its return";
            let help = vec!["RUST_LOG=session_layer=debug shows the layer's errors".to_owned()];
            Some(Reason { help, ..Reason::new(Verdict::Failed, what) })
        }
    }
}

/// Returns microseconds as text in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "microseconds of a request are far below 2^52")]
pub(super) fn ms(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use session_tools::check::{Finding, ServerReport};

    use super::*;

    fn checks(steps: Vec<Finding>) -> Checks {
        let status = steps.iter().map(|step| step.status).max().unwrap_or(Status::Ok);
        let server = ServerReport { server: "redis", url: None, status, steps };
        Checks { ok: status != Status::Failed, servers: vec![server] }
    }

    #[test]
    fn failed_step_is_the_reason_with_its_cause_and_remedy() {
        let full = Finding::failed("SET test failed", "MISCONF", "free the disk\nor its log");
        let warned = Finding::warning("Role: master with 1 replicas", "a failover", "set it");
        let reasons = judge(&checks(vec![warned, full, Finding::ok("PING")]), None, None);
        assert_eq!(Verdict::of(&reasons), Verdict::Failed);
        assert_eq!(reasons.len(), 2);
        assert_eq!(reasons[0].what, "SET test failed");
        assert_eq!(reasons[0].why.as_deref(), Some("MISCONF"));
        assert_eq!(reasons[0].help, ["free the disk", "or its log"]);
        assert_eq!(Verdict::of(&judge(&checks(vec![]), None, None)), Verdict::Ok);
    }

    #[test]
    fn redis_slower_than_the_deadline_is_named_as_such() {
        assert_eq!(slow_redis(SLOW_PING_US), None);
        for (ping_us, why) in [
            (15_000, "no hit can be faster than a PING"),
            (64_000, "a look-up has a deadline of 50 ms, therefore each one fails"),
        ] {
            assert_eq!(slow_redis(ping_us).unwrap().why.as_deref(), Some(why));
        }
    }

    #[test]
    fn unreachable_server_is_not_measured() {
        let step = |step, finding: Finding| Finding { step, ..finding };
        let up = vec![step("connect", Finding::ok("")), step("ping", Finding::ok(""))];
        assert!(can_be_measured(&checks(up)));
        let down = vec![step("connect", Finding::failed("", "", ""))];
        assert!(!can_be_measured(&checks(down)));
    }
}
