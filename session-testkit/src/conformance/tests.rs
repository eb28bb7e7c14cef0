//! Each check must be able to fail: for each there is a port with one mistake that it catches.

mod down;
mod store;
mod toy;

use std::collections::BTreeSet;
use std::convert::Infallible;

use session_layer::store::SqliteStore;

use self::down::Down;
use self::store::Wrapped;
use self::toy::Toy;
use super::{
    Check, Failure, Nodes, NotConforming, cache_checks, cache_outage_checks, run, shared_cache,
    store_checks, store_outage_checks,
};

/// Which mistakes the check that was meant for them did not catch. They are tried all at once, since
/// most of the time something is waited for.
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

/// The checks that no mistake is listed for.
fn untried<P, M>(checks: &[Check<P>], mistakes: &[(M, &str)]) -> Vec<&'static str> {
    let names = checks.iter().map(Check::name);
    names
        .filter(|name| mistakes.iter().all(|(_, tried)| tried != name))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_check_of_a_cache_catches_a_mistake() {
    let checks = cache_checks();
    assert_eq!(untried(&checks, toy::MISTAKES), [""; 0]);
    let broken = async |mistake| Nodes::one(Toy::with(mistake));
    let survivors = survivors(&checks, toy::MISTAKES, broken).await;
    assert_eq!(survivors, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_check_of_a_store_catches_a_mistake() {
    let checks = store_checks();
    assert_eq!(untried(&checks, store::MISTAKES), [""; 0]);
    let broken = async |mistake| Wrapped {
        store: SqliteStore::open(":memory:").await.unwrap(),
        mistake,
    };
    let survivors = survivors(&checks, store::MISTAKES, broken).await;
    assert_eq!(survivors, [""; 0]);
}

#[tokio::test]
async fn every_check_of_an_outage_catches_a_lie() {
    let broken = async |lie| Down(Some(lie));
    let checks = cache_outage_checks();
    assert_eq!(untried(&checks, down::CACHE_LIES), [""; 0]);
    assert_eq!(survivors(&checks, down::CACHE_LIES, broken).await, [""; 0]);
    let checks = store_outage_checks();
    assert_eq!(untried(&checks, down::STORE_LIES), [""; 0]);
    assert_eq!(survivors(&checks, down::STORE_LIES, broken).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_mistake_every_check_passes() {
    let cache = async || Ok::<_, Infallible>(Nodes::one(Toy::new()));
    let store = async || {
        Ok::<_, Infallible>(Wrapped {
            store: SqliteStore::open(":memory:").await.unwrap(),
            mistake: store::Mistake::None,
        })
    };
    let down = async || Ok::<_, Infallible>(Down(None));
    run(cache_checks(), cache).await.unwrap();
    run(store_checks(), store).await.unwrap();
    run(cache_outage_checks(), down).await.unwrap();
    run(store_outage_checks(), down).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_used_already_passes_too() {
    let used = SqliteStore::open(":memory:").await.unwrap();
    for _ in 0..2 {
        super::store(async || Ok::<_, Infallible>(used.clone()))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_caches_are_not_one_that_is_shared() {
    let fresh = async || Ok::<_, Infallible>((Toy::new(), Toy::new()));
    let error = shared_cache(fresh).await.unwrap_err();
    let failed: BTreeSet<_> = error
        .report()
        .failed()
        .map(|checked| checked.name)
        .collect();
    for name in [
        "who_misses_gets_the_lease_and_fills",
        "others_do_not_fill_meanwhile",
        "it_removes_copies",
        "it_removes_leases",
        "a_fence_keeps_fills_away",
    ] {
        assert!(failed.contains(name), "{name} passes on two caches");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_says_what_is_demanded_and_what_was_done() {
    let reads = || {
        store_checks()
            .into_iter()
            .filter(|check| check.group() == "reads")
    };
    let fresh = async || {
        Ok::<_, Infallible>(Wrapped {
            store: SqliteStore::open(":memory:").await.unwrap(),
            mistake: store::Mistake::ProbeFails,
        })
    };
    let error: NotConforming = run(reads(), fresh).await.unwrap_err();
    let told = format!("{error:?}");
    assert_eq!(
        told,
        "1 of 9 checks failed:\n  reads::it_says_that_it_works\n    demands: `probe` of a store that \
         answers is no error, and `backend` is a name.\n    but `probe` failed: it was told to"
    );
    let report = error.report().to_string();
    assert_eq!(report.lines().count(), reads().count());
    assert!(report.contains("passed  reads::a_digest_is_taken_once"));

    let error = run(reads().take(1), async || {
        Err::<Wrapped, _>("no server".to_owned())
    });
    let told = error.await.unwrap_err().to_string();
    assert!(
        told.ends_with("but there was no port to check: no server"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_panics_or_hangs_fails_its_check() {
    let checks = cache_checks();
    let of = async |mistake| -> Failure {
        let port = Nodes::one(Toy::with(mistake));
        checks[0].run(&port).await.unwrap_err()
    };
    assert_eq!(
        of(toy::Mistake::Panics).await.to_string(),
        "the port panicked: told to"
    );
    let hangs = of(toy::Mistake::Hangs).await.to_string();
    assert!(hangs.contains("`get` had no answer after 10s"), "{hangs}");
}

#[test]
fn names_are_unique_and_every_demand_is_a_sentence() {
    let lists = [
        told(&cache_checks::<Toy>()),
        told(&store_checks::<Wrapped>()),
        told(&cache_outage_checks::<Down>()),
        told(&store_outage_checks::<Down>()),
    ];
    for list in lists {
        let names: BTreeSet<_> = list.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), list.len());
        for (name, demand) in list {
            assert!(demand.ends_with('.') && !demand.contains("  "), "{name}");
        }
    }
}

fn told<P>(checks: &[Check<P>]) -> Vec<(&'static str, &'static str)> {
    let told = |check: &Check<P>| (check.name(), check.demands());
    checks.iter().map(told).collect()
}

#[test]
fn checks_can_be_spawned() {
    fn is_send<T: Send>(_: &T) {}
    let check = cache_checks::<Toy>()[0];
    let port = Nodes::one(Toy::new());
    is_send(&check.run(&port));
    is_send(&super::cache(|| {
        std::future::ready(Ok::<_, Infallible>(Toy::new()))
    }));
}
