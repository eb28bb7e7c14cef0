//! The probe on correct middlewares (session-layer's, Tower's own) and on one with each fault.

mod broken;
mod session_layer;

use std::time::Duration;

use tower::buffer::BufferLayer;
use tower::layer::util::Identity;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;

use self::broken::{Broken, FAULTS, Fault};
use super::{Inner, InnerError, Probe, Report, Rule, RulesBroken, assert_auto_traits};

const _: () = assert_auto_traits::<Broken, u64, String>();

async fn probed<L>(layer: L, allowed: &[Rule]) -> Result<Report, RulesBroken>
where
    L: tower::Layer<Inner<String>>,
    L::Service: tower::Service<u64, Error: Into<super::BoxError>> + Clone,
{
    let probe = Probe::new(layer, || 7, || "an answer".to_owned());
    let allowing = |probe: Probe<_, _, _>, rule: &Rule| probe.allowing(*rule);
    allowed.iter().fold(probe, allowing).run().await
}

#[tokio::test]
async fn towers_own_middlewares_keep_the_rules() {
    let long = Duration::from_secs(60);
    let report = probed(Identity::new(), &[]).await.unwrap();
    // The inner service was called. Futures were dropped before the first poll and at three awaits.
    assert_eq!(report.dropped_at, 4);
    assert!(report.calls > 10, "{report}");
    probed(TimeoutLayer::new(long), &[]).await.unwrap();
    probed(ConcurrencyLimitLayer::new(1), &[]).await.unwrap();
    probed(ConcurrencyLimitLayer::new(10), &[]).await.unwrap();
}

#[tokio::test]
async fn load_shedding_and_buffers_break_only_backpressure() {
    let error = probed(LoadShedLayer::new(), &[]).await.unwrap_err();
    let rules: Vec<_> = error.violations().iter().map(|broken| broken.rule).collect();
    assert_eq!(rules, [Rule::Backpressure], "{error}");
    let report = probed(LoadShedLayer::new(), &[Rule::Backpressure]).await.unwrap();
    assert!(report.to_string().contains("not checked: [Backpressure]"), "{report}");
    let buffer = BufferLayer::new(16);
    probed(buffer, &[Rule::Backpressure]).await.unwrap();
}

#[tokio::test]
async fn each_fault_is_caught_by_name() {
    // The probes run concurrently, because some wait for a timeout.
    let probes = FAULTS.iter().map(async |(fault, rule)| {
        let probed = probed(Broken::with(*fault), &[]).await;
        match probed {
            Err(error) if error.broke(*rule) => None,
            other => Some(format!("{fault:?} is not caught as {rule}: {other:?}")),
        }
    });
    let missed: Vec<_> = futures_util::future::join_all(probes).await;
    let missed: Vec<_> = missed.into_iter().flatten().collect();
    assert_eq!(missed, [""; 0]);
}

#[tokio::test]
async fn middleware_without_a_fault_passes() {
    probed(Broken::with(Fault::None), &[]).await.unwrap();
}

#[test]
fn every_rule_has_a_fault() {
    for rule in [
        Rule::CallsOnlyWhatIsReady,
        Rule::CallDoesNotPollReady,
        Rule::Backpressure,
        Rule::Wakes,
        Rule::StaysReady,
        Rule::ReadinessErrors,
        Rule::Errors,
        Rule::ReleasesSlots,
        Rule::LeavesNothingBehind,
        Rule::PassesRequestsOn,
        Rule::NoPanic,
    ] {
        assert!(FAULTS.iter().any(|(_, breaks)| *breaks == rule), "{rule}");
    }
}

/// Checks that a fault of one rule is reported as that rule only.
#[tokio::test]
async fn single_fault_reports_only_its_own_rule() {
    let faults = [
        Fault::CallsAClone,
        Fault::ReadinessIsCloned,
        Fault::MapsErrors,
        Fault::MapsReadinessErrors,
        Fault::SwallowsReadinessErrors,
        Fault::HoldsASlot,
        Fault::LosesItsPermit,
        Fault::LosesTheWaker,
        Fault::ForgetsThatItWasReady,
        Fault::WaitsInside,
    ];
    let probes = faults.map(async |fault| {
        let error = probed(Broken::with(fault), &[]).await.unwrap_err();
        let (_, rule) = FAULTS.iter().find(|(it, _)| *it == fault).unwrap();
        let others = error.violations().iter().filter(|broken| broken.rule != *rule);
        assert_eq!(others.count(), 0, "{fault:?}: {error}");
    });
    futures_util::future::join_all(probes).await;
}

#[tokio::test]
async fn error_states_the_rule_and_the_observed_behaviour() {
    let error = probed(Broken::with(Fault::MapsErrors), &[]).await.unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        "the middleware breaks Tower's rules:\n  Errors: it replaced the inner service's error by \
         another: sorry\n    the rule: the inner service's error reaches the caller, itself or as \
         a source of the middleware's"
    );
}

#[test]
fn inner_error_is_found_among_the_sources() {
    #[derive(Debug, thiserror::Error)]
    #[error("the middleware's")]
    struct Wrapping(#[source] InnerError);
    let error: super::BoxError = Wrapping(InnerError {}).into();
    assert!(super::steps::is_inners(&*error));
    assert!(!super::steps::is_inners(&std::fmt::Error));
}
