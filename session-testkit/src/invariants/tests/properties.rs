//! The checker against the simulated cache. A correct cache passes. A bug that breaks one promise
//! is found by that promise's check and no other.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::{prelude::*, test_runner::TestRunner};

use super::{
    super::{Invariant, Outcome, check},
    simulated::{Break, Broken, Fate, Kind, NODES, Plan, Simulation, Step},
};
use crate::history::History;

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        3 => Just(Kind::Create),
        12 => Just(Kind::Validate),
        1 => Just(Kind::Random),
        2 => Just(Kind::Update),
        2 => Just(Kind::Revoke),
        1 => Just(Kind::RevokeAll),
        1 => Just(Kind::Rotate),
    ];
    let fate = prop_oneof![8 => Just(Fate::Comes), 1 => Just(Fate::Dropped), 1 => Just(Fate::Lost)];
    // Mostly close together, so that operations overlap. Sometimes a pause in which bounds pass.
    let gap_ms = prop_oneof![8 => 0_u64..60, 2 => 200_u64..3_000];
    (gap_ms, 1_u64..250, 0_u64..=100, kind, 0..NODES, any::<usize>(), 0_u64..=100, fate).prop_map(
        |(gap_ms, took_ms, point, kind, node, pick, luck, fate)| Step {
            gap_ms,
            took_ms,
            point,
            kind,
            node,
            // Few sessions, so that each has many operations.
            pick: pick % 4,
            luck,
            fate,
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let of = prop_oneof![
        1 => Just(Broken::Redis),
        1 => Just(Broken::Postgres),
        2 => (0..NODES).prop_map(Broken::PostgresFrom),
    ];
    let broken = (0_u64..8_000, 1_u64..8_000, of).prop_map(|(gap_ms, for_ms, of)| Break {
        gap_ms,
        for_ms,
        of,
    });
    let steps = prop::collection::vec(step(), 1..120);
    let breaks = prop::collection::vec(broken, 0..3);
    (steps, breaks, any::<bool>()).prop_map(|(steps, breaks, single_server)| Plan {
        steps,
        breaks,
        single_server,
    })
}

/// Returns a runner for `PROPTEST_CASES` times `times` cases. The variable defaults to 256.
fn cases(times: u32) -> TestRunner {
    let default = ProptestConfig::default();
    TestRunner::new(ProptestConfig {
        cases: default.cases * times,
        failure_persistence: None,
        max_shrink_iters: 4_000,
        ..default
    })
}

#[test]
fn correct_cache_passes_and_every_check_examines_something() {
    let examined = Invariant::ALL.map(|invariant| (invariant, AtomicU64::new(0)));
    let run = cases(2).run(&plan(), |plan| {
        let simulation = Simulation::run(plan, None);
        let verdicts = check(&simulation.history);
        for ((invariant, verdict), (_, sum)) in verdicts.iter().zip(&examined) {
            prop_assert_ne!(verdict.outcome(), Outcome::Broken, "{}: {}", invariant, verdicts);
            sum.fetch_add(verdict.examined(), Ordering::Relaxed);
        }
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
    for (invariant, sum) in examined {
        let sum = sum.into_inner();
        println!("{invariant}: {sum} examined");
        assert!(sum > 100, "{invariant}: only {sum} examined");
    }
}

/// Checks that each bug, in each plan that exposes it, breaks its own promise and no other.
#[test]
fn each_bug_breaks_only_its_promise() {
    for bug in Invariant::ALL {
        let shown = AtomicU64::new(0);
        let run = cases(1).run(&plan(), |plan| {
            let simulation = Simulation::run(plan, Some(bug));
            let verdicts = check(&simulation.history);
            for (invariant, verdict) in verdicts.iter() {
                let broken = verdict.outcome() == Outcome::Broken;
                let expected = simulation.shown && invariant == bug;
                prop_assert_eq!(broken, expected, "{}: {}", invariant, verdicts);
            }
            shown.fetch_add(u64::from(simulation.shown), Ordering::Relaxed);
            Ok(())
        });
        run.unwrap_or_else(|error| panic!("the bug of {bug}: {error}"));
        let shown = shown.into_inner();
        println!("{bug}: exposed in {shown} histories");
        assert!(shown > 0, "{bug} was exposed in no history");
    }
}

#[test]
fn simulated_history_written_and_read_is_unchanged() {
    let run = cases(1).run(&plan(), |plan| {
        let history = Simulation::run(plan, None).history;
        let file = history.write(Vec::new()).unwrap();
        prop_assert_eq!(History::read(file.as_slice()).unwrap(), history);
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
}
