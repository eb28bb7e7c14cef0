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

async fn probed<L>(layer: L) -> Result<Report, RulesBroken>
where
    L: tower::Layer<Inner<String>>,
    L::Service: tower::Service<u64, Error: Into<super::BoxError>> + Clone,
{
    Probe::new(layer, || 7, || "an answer".to_owned()).run().await
}

fn rules(error: &RulesBroken) -> Vec<Rule> {
    let rules: Vec<Rule> = error.violations.iter().map(|broken| broken.rule).collect();
    assert!(!rules.is_empty(), "an error without a broken rule");
    rules
}

#[tokio::test]
async fn towers_own_middlewares_keep_the_rules() {
    let report = probed(Identity::new()).await.unwrap();
    // The inner service was called. Futures were dropped before the first poll and at three awaits.
    assert_eq!(report.dropped_at, 4);
    assert!(report.calls > 10, "{report}");
    probed(TimeoutLayer::new(Duration::from_secs(60))).await.unwrap();
    probed(ConcurrencyLimitLayer::new(1)).await.unwrap();
    probed(ConcurrencyLimitLayer::new(10)).await.unwrap();
    probed(Broken::with(Fault::None)).await.unwrap();
}

#[tokio::test]
async fn load_shedding_and_buffers_break_only_backpressure() {
    for error in [
        probed(LoadShedLayer::new()).await.unwrap_err(),
        probed(BufferLayer::new(16)).await.unwrap_err(),
    ] {
        assert!(rules(&error).iter().all(|rule| *rule == Rule::Backpressure), "{error}");
    }
}

#[tokio::test]
async fn each_fault_is_reported_as_its_own_rule_only() {
    // The probes run concurrently, because some wait for a timeout.
    let probes = FAULTS.iter().map(async |(fault, rule)| {
        let error = probed(Broken::with(*fault)).await.unwrap_err();
        assert!(rules(&error).iter().all(|broken| broken == rule), "{fault:?}: {error}");
    });
    futures_util::future::join_all(probes).await;
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
        assert!(FAULTS.iter().any(|(_, breaks)| *breaks == rule), "{rule:?}");
    }
}

#[tokio::test]
async fn error_names_the_rule_and_the_observed_behaviour() {
    let error = probed(Broken::with(Fault::MapsErrors)).await.unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        "the middleware breaks Tower's rules:\n  Errors: it replaced the inner service's error by \
         another: sorry"
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
