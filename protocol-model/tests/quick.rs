//! The quick subset of the runs: each turns out as it is expected to. The rest: `cargo run --release -p
//! protocol-model`.

use std::collections::HashSet;

use protocol_model::{Limits, Run, all};

/// The groups of runs by the beginnings of their names, a test for each: tests run beside each other.
const ONE_SERVER: &[&str] = &["A0", "A1", "A3", "A4", "A5"];
const ONE_SERVER_AND_MORE: &[&str] = &["A2", "A6", "A7"];
const MUTANTS: &[&str] = &["mutant"];
const BOUNDS: &[&str] = &["B", "D"];
const FAILOVERS: &[&str] = &["C"];
const BESIDE: &[&str] = &["E", "J", "L", "N", "O", "T"];
const AS_BUILT: &[&str] = &["F", "G", "H", "K"];

#[test]
fn one_server() {
    explore(ONE_SERVER);
}

#[test]
fn one_server_and_more() {
    explore(ONE_SERVER_AND_MORE);
}

#[test]
fn mutants() {
    explore(MUTANTS);
}

#[test]
fn bounds_and_copies() {
    explore(BOUNDS);
}

#[test]
fn failovers() {
    explore(FAILOVERS);
}

#[test]
fn beside_the_core() {
    explore(BESIDE);
}

#[test]
fn as_built() {
    explore(AS_BUILT);
}

/// Every group.
const GROUPS: [&[&str]; 7] = [
    ONE_SERVER,
    ONE_SERVER_AND_MORE,
    MUTANTS,
    BOUNDS,
    FAILOVERS,
    BESIDE,
    AS_BUILT,
];

fn explore(group: &[&str]) {
    let runs = all().into_iter().filter(|run| is_in(group, run));
    let mut surprises = Vec::new();
    for run in runs.filter(Run::is_quick) {
        let outcome = run.explore(Limits::default());
        println!("{}: {} states", run.name(), outcome.states());
        for surprise in outcome.surprises() {
            surprises.push(format!("{} ({}): {surprise}", run.name(), run.about()));
            for (promise, trace) in outcome.traces() {
                surprises.push(format!(
                    "{promise} is broken by\n    {}",
                    trace.join("\n    ")
                ));
            }
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

fn is_in(group: &[&str], run: &Run) -> bool {
    group.iter().any(|start| run.name().starts_with(start))
}

#[test]
fn every_run_has_a_group_a_name_of_its_own_and_an_expectation() {
    let runs = all();
    let names: HashSet<_> = runs.iter().map(Run::name).collect();
    assert_eq!(names.len(), runs.len(), "a name stands twice");
    for run in &runs {
        let groups = GROUPS.iter().filter(|group| is_in(group, run)).count();
        assert_eq!(groups, 1, "{}", run.name());
        let caught_fast = run.is_quick() || !run.name().contains("mutant");
        assert!(caught_fast, "{}", run.name());
    }
}

/// What a group of runs is about stands in the README, in a line that begins with its letter.
#[test]
fn the_readme_explains_every_letter() {
    let readme = include_str!("../README.md");
    for run in all() {
        let letter = &run.name()[..1];
        let start = if run.name().starts_with("mutant") {
            "mutant"
        } else {
            letter
        };
        let line = format!("| {start} |");
        assert!(readme.contains(&line), "{line}");
    }
}

#[test]
fn a_run_that_is_cut_short_has_not_held() {
    let runs = all();
    let run = runs.iter().find(|run| run.name() == "A0 design").unwrap();
    let limits = Limits {
        states: 100,
        ..Limits::default()
    };
    let outcome = run.explore(limits);
    assert!(!outcome.is_complete());
    assert!(!outcome.surprises().is_empty());
}

/// The fingerprints' seed is not to matter: a collision would show as another count.
#[test]
fn counts_do_not_depend_on_the_seed() {
    let runs = all();
    let run = runs.iter().find(|run| run.name() == "A0 design").unwrap();
    let counts = |seed| {
        let outcome = run.explore(Limits {
            seed,
            ..Limits::default()
        });
        (outcome.states(), outcome.steps(), outcome.depth())
    };
    assert_eq!(counts(0), counts(7));
}
