//! The probe on middlewares that keep the rules (session-layer's, Tower's own), and on each that breaks one.

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
    // It was really called, and dropped unused and at each of the inner future's three awaits.
    assert_eq!(report.dropped_at, 4);
    assert!(report.calls > 10, "{report}");
    probed(TimeoutLayer::new(long), &[]).await.unwrap();
    probed(ConcurrencyLimitLayer::new(1), &[]).await.unwrap();
    probed(ConcurrencyLimitLayer::new(10), &[]).await.unwrap();
}

#[tokio::test]
async fn what_sheds_load_or_buffers_has_no_backpressure_and_may_be_allowed_that() {
    let error = probed(LoadShedLayer::new(), &[]).await.unwrap_err();
    let rules: Vec<_> = error
        .violations()
        .iter()
        .map(|broken| broken.rule)
        .collect();
    assert_eq!(rules, [Rule::Backpressure], "{error}");
    let report = probed(LoadShedLayer::new(), &[Rule::Backpressure])
        .await
        .unwrap();
    assert!(
        report.to_string().contains("not looked at: [Backpressure]"),
        "{report}"
    );
    let buffer = BufferLayer::new(16);
    probed(buffer, &[Rule::Backpressure]).await.unwrap();
}

#[tokio::test]
async fn each_fault_is_caught_by_name() {
    // All at once: some wait for what never comes.
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
async fn without_a_fault_it_passes() {
    probed(Broken::with(Fault::None), &[]).await.unwrap();
}

/// Every rule can be broken, each by some fault.
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

/// The faults that break one rule only break that one only: a name that is said is the right one.
#[tokio::test]
async fn nothing_else_is_blamed() {
    for fault in [
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
    ] {
        let error = probed(Broken::with(fault), &[]).await.unwrap_err();
        let (_, rule) = FAULTS.iter().find(|(it, _)| *it == fault).unwrap();
        let others = error
            .violations()
            .iter()
            .filter(|broken| broken.rule != *rule);
        assert_eq!(others.count(), 0, "{fault:?}: {error}");
    }
}

#[tokio::test]
async fn the_error_says_the_rule_and_what_was_done() {
    let error = probed(Broken::with(Fault::MapsErrors), &[])
        .await
        .unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        "the middleware breaks Tower's rules:\n  Errors: in the place of the inner service's error it gives \
         another: sorry\n    the rule: the inner service's error reaches the caller, itself or as a source \
         of the middleware's"
    );
}

#[test]
fn the_inner_services_error_is_found_among_the_sources() {
    #[derive(Debug, thiserror::Error)]
    #[error("the middleware's")]
    struct Wrapping(#[source] InnerError);
    let error: super::BoxError = Wrapping(InnerError {}).into();
    assert!(super::steps::is_inners(&*error));
    assert!(!super::steps::is_inners(&std::fmt::Error));
}
