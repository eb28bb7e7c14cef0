//! Fault runs that judge every promise.

use std::time::Duration;

use session_testkit::deployment::Deployment;
use session_testkit::fault_run::{FaultRun, Judged};
use session_testkit::invariants::{Invariant, Outcome as Verdict};
use session_testkit::schedule::Schedule;
use session_testkit::workload::Settings;

use crate::harness::Failure;
use crate::support::SOON;

/// The promises that every run of some seconds examines.
const EXAMINED: [Invariant; 4] = [Invariant::R1Delta, Invariant::R2, Invariant::R5, Invariant::R8];

/// Drives load for so many seconds while these steps happen.
///
/// # Panics
///
/// If a promise is broken or was not examined, or if a step could not be made or affected nothing.
pub async fn judged(
    deployment: &Deployment,
    steps: &[&str],
    seconds: u64,
) -> Result<Judged, Failure> {
    let steps: Result<_, _> = steps.iter().map(|step| step.parse()).collect();
    let mut settings = Settings::new(7);
    settings.rate = 80;
    settings.sessions = 200;
    settings.duration = Duration::from_secs(seconds);
    settings.parameters.budget_slack = SOON;
    let run = FaultRun::new(deployment, settings, Schedule { seed: 7, steps: steps? })?;
    let judged = run.run().await?;
    assert_ne!(judged.outcome(), Verdict::Broken, "{judged}");
    assert_eq!(judged.report.problems, Vec::<String>::new(), "{judged}");
    for examined in EXAMINED {
        // With a single Redis and no outage, every revocation is `Propagated`.
        let of = match examined {
            Invariant::R1Delta if !deployment.replicated() => Invariant::R1,
            examined => examined,
        };
        assert_eq!(judged.verdicts.of(of).outcome(), Verdict::Holds, "{judged}");
    }
    for fault in &judged.history.faults {
        assert!(!fault.touched.expect("a count").nothing(), "{fault:?}");
    }
    Ok(judged)
}
