//! A port with one bug for each check, which proves that the check can fail.

/// Declares an enum of bugs, and lists of them with the checks that must find each.
macro_rules! mistakes {
    (
        $vis:vis enum $kind:ident $(= $($other:ident),+)?;
        $($(#[$doc:meta])* $list_vis:vis const $list:ident = {
            $($mistake:ident: $($check:literal)+,)+
        })+
    ) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $kind {
            $($($other,)+)?
            $($($mistake,)+)+
        }
        $(
            $(#[$doc])*
            $list_vis const $list: &[($kind, &str)] = &[$($(($kind::$mistake, $check),)+)+];
        )+
    };
}
use mistakes;

mod store;
mod toy;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Mutex, atomic::AtomicBool};

use session_layer::store::SqliteStore;

use self::store::Wrapped;
use self::toy::Toy;
use super::{
    Check, Failure, Nodes, NotConforming, cache_checks, cache_outage_checks, run, store_checks,
    store_outage_checks,
};

/// Returns the bugs that their checks did not find. They run concurrently, because they mostly
/// wait.
async fn survivors<P: Sync, M: Copy + std::fmt::Debug>(
    checks: &[Check<P>],
    mistakes: &[(M, &str)],
    broken: impl AsyncFn(M) -> P,
) -> Vec<String> {
    let tries = mistakes.iter().map(async |(mistake, name)| {
        let check = checks.iter().find(|check| check.name() == *name).unwrap();
        match check.run(&broken(*mistake).await).await {
            Ok(()) => Some(format!("{mistake:?} survives {name}")),
            Err(failure) => {
                println!("{mistake:?}: {name}: {failure}");
                None
            }
        }
    });
    let survivors = futures_util::future::join_all(tries).await;
    survivors.into_iter().flatten().collect()
}

/// Returns the checks without a bug in the list.
fn untried<P, M>(checks: &[Check<P>], mistakes: &[(M, &str)]) -> Vec<&'static str> {
    let names = checks.iter().map(Check::name);
    names.filter(|name| mistakes.iter().all(|(_, tried)| tried != name)).collect()
}

async fn wrapped(mistake: store::Mistake) -> Wrapped {
    Wrapped {
        store: SqliteStore::open(":memory:").await.unwrap(),
        mistake,
        down: false,
        lost_epochs: AtomicBool::new(false),
        nodes: Mutex::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cache_check_catches_a_mistake() {
    let checks = cache_checks();
    assert_eq!(untried(&checks, toy::MISTAKES), [""; 0]);
    let broken = async |mistake| Nodes::one(Toy::with(mistake));
    assert_eq!(survivors(&checks, toy::MISTAKES, broken).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_check_catches_a_mistake() {
    let checks = store_checks();
    assert_eq!(untried(&checks, store::MISTAKES), [""; 0]);
    assert_eq!(survivors(&checks, store::MISTAKES, wrapped).await, [""; 0]);
}

#[tokio::test]
async fn every_outage_check_catches_a_false_reply() {
    let checks = cache_outage_checks();
    let broken = async |lie| Toy::with(lie).down();
    assert_eq!(untried(&checks, toy::LIES), [""; 0]);
    assert_eq!(survivors(&checks, toy::LIES, broken).await, [""; 0]);
    let checks = store_outage_checks();
    let broken = async |lie| Wrapped { down: true, ..wrapped(lie).await };
    assert_eq!(untried(&checks, store::LIES), [""; 0]);
    assert_eq!(survivors(&checks, store::LIES, broken).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn correct_ports_pass_every_check() {
    let cache = async || Ok::<_, Infallible>(Nodes::one(Toy::new()));
    let store = async || Ok::<_, Infallible>(wrapped(store::Mistake::None).await);
    run(cache_checks(), cache).await.unwrap();
    run(store_checks(), store).await.unwrap();
    let cache = async || Ok::<_, Infallible>(Toy::new().down());
    let store =
        async || Ok::<_, Infallible>(Wrapped { down: true, ..wrapped(store::Mistake::None).await });
    run(cache_outage_checks(), cache).await.unwrap();
    run(store_outage_checks(), store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_with_other_data_passes_every_check() {
    let used = SqliteStore::open(":memory:").await.unwrap();
    for _ in 0..2 {
        run(store_checks(), async || Ok::<_, Infallible>(used.clone())).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_separate_caches_fail_as_a_shared_one() {
    let fresh = async || Ok::<_, Infallible>(Nodes::two(Toy::new(), Toy::new()));
    let error = run(cache_checks(), fresh).await.unwrap_err();
    let failed: BTreeSet<_> = error.report().failed().map(|checked| checked.name).collect();
    for name in [
        "miss_grants_lease_that_fills",
        "held_lease_blocks_other_fills",
        "invalidate_removes_entries",
        "invalidate_removes_leases",
        "fence_prevents_fills",
    ] {
        assert!(failed.contains(name), "{name} passes on two caches");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn report_states_the_demand_and_the_behaviour() {
    let reads = || store_checks().into_iter().filter(|check| check.group() == "reads");
    let fresh = async || Ok::<_, Infallible>(wrapped(store::Mistake::ProbeFails).await);
    let error: NotConforming = run(reads(), fresh).await.unwrap_err();
    let text = format!("{error:?}");
    assert_eq!(
        text,
        "1 of 10 checks failed:\n  reads::working_store_probes_without_error\n    demands: `probe` \
         of a working store returns no error, and `backend` is a name.\n    but `probe` failed: \
         injected error"
    );
    let report = error.report().to_string();
    assert_eq!(report.lines().count(), reads().count());
    assert!(report.contains("passed  reads::used_digest_is_refused"));

    let error = run(reads().take(1), async || Err::<Wrapped, _>("no server".to_owned()));
    let text = error.await.unwrap_err().to_string();
    assert!(text.ends_with("but there was no port to check: no server"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn port_that_panics_or_hangs_fails_its_check() {
    let checks = cache_checks();
    let of = async |mistake| -> Failure {
        let port = Nodes::one(Toy::with(mistake));
        checks[0].run(&port).await.unwrap_err()
    };
    assert_eq!(of(toy::Mistake::Panics).await.to_string(), "the port panicked: injected panic");
    let hangs = of(toy::Mistake::Hangs).await.to_string();
    assert!(hangs.contains("`get` had no reply after 10s"), "{hangs}");
}

#[test]
fn check_names_are_unique_and_demands_are_sentences() {
    fn verify<P>(checks: &[Check<P>]) {
        let names: BTreeSet<_> = checks.iter().map(Check::name).collect();
        assert_eq!(names.len(), checks.len());
        for check in checks {
            let demand = check.demands();
            assert!(demand.ends_with('.') && !demand.contains("  "), "{check:?}");
        }
    }
    verify(&cache_checks::<Toy>());
    verify(&store_checks::<Wrapped>());
    verify(&cache_outage_checks::<Toy>());
    verify(&store_outage_checks::<Wrapped>());
}

#[test]
fn checks_can_be_spawned() {
    fn is_send<T: Send>(_: &T) {}
    let fresh = || std::future::ready(Ok::<_, Infallible>(Nodes::one(Toy::new())));
    is_send(&run(cache_checks(), fresh));
}
