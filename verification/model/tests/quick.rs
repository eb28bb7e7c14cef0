//! The quick subset of the runs has the expected results. The others: `cargo run --release -p
//! protocol-model`.

use std::collections::HashSet;

use protocol_model::{Limits, Run, all};

/// Groups of runs by the beginnings of their names. Tests run in parallel.
const ONE_SERVER: &[&str] = &["K"];
const MUTANTS: &[&str] = &["mutant", "F", "G", "H"];
const BOUNDS: &[&str] = &["B", "W"];
const FAILOVERS: &[&str] = &["C", "D"];
const NEAR: &[&str] = &["Q"];
const SUBMODELS: &[&str] = &["E", "J", "L", "M", "N", "O", "P", "S", "T", "U"];
const GROUPS: [&[&str]; 6] = [ONE_SERVER, MUTANTS, BOUNDS, FAILOVERS, NEAR, SUBMODELS];

#[test]
fn one_server() {
    explore(ONE_SERVER);
}

#[test]
fn mutants() {
    explore(MUTANTS);
}

#[test]
fn bounds() {
    explore(BOUNDS);
}

#[test]
fn failovers() {
    explore(FAILOVERS);
}

#[test]
fn near_caches() {
    explore(NEAR);
}

#[test]
fn submodels() {
    explore(SUBMODELS);
}

fn explore(group: &[&str]) {
    let runs = all().into_iter().filter(|run| is_in(group, run));
    let mut surprises = Vec::new();
    for run in runs.filter(Run::is_quick) {
        let outcome = run.explore(Limits::default());
        println!("{outcome}");
        for surprise in outcome.surprises() {
            surprises.push(format!("{} ({}): {surprise}", run.name(), run.about()));
            for (promise, trace) in outcome.traces() {
                surprises.push(format!("{promise} is broken by\n    {}", trace.join("\n    ")));
            }
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

fn is_in(group: &[&str], run: &Run) -> bool {
    group.iter().any(|start| run.name().starts_with(start))
}

#[test]
fn every_run_has_a_unique_name_and_one_group() {
    let runs = all();
    let names: HashSet<_> = runs.iter().map(Run::name).collect();
    assert_eq!(names.len(), runs.len(), "a name is used twice");
    for run in &runs {
        let groups = GROUPS.iter().filter(|group| is_in(group, run)).count();
        assert_eq!(groups, 1, "{}", run.name());
    }
}

/// README.md explains each group in a row that begins with its letter.
#[test]
fn the_readme_explains_every_letter() {
    let readme = include_str!("../README.md");
    for run in all() {
        let start = if run.name().starts_with("mutant") { "mutant" } else { &run.name()[..1] };
        let row = format!("| {start} |");
        assert!(readme.contains(&row), "{row}");
    }
}

/// Every name in brackets in `docs/protocol.md`, such as `[K1 | mutant 9]`, is a run.
#[test]
fn the_protocol_names_runs_that_exist() {
    let page = include_str!("../../../docs/protocol.md");
    let runs = all();
    let mut seen = 0;
    for bracket in page.split("`[").skip(1) {
        let bracket = bracket.split(']').next().unwrap().replace('|', ",");
        let mut mutants = false;
        for name in bracket.split(',').map(|name| name.split_whitespace().collect::<Vec<_>>()) {
            let name = name.join(" ");
            mutants |= name.starts_with("mutant");
            let is_number = name.chars().next().is_some_and(char::is_numeric);
            if name == "–" || name.contains(':') {
                continue;
            }
            let name = if mutants && is_number { format!("mutant {name}") } else { name };
            let name = name.replace("mutants", "mutant");
            assert!(runs.iter().any(|run| run.name() == name), "no run has the name {name}");
            seen += 1;
        }
    }
    assert!(seen > 100, "only {seen} names were found");
}

#[test]
fn run_cut_short_has_not_held() {
    let runs = all();
    let run = runs.iter().find(|run| run.name() == "K0").unwrap();
    let outcome = run.explore(Limits { states: 100, ..Limits::default() });
    assert!(!outcome.is_complete());
    assert!(!outcome.surprises().is_empty());
}

/// A collision of fingerprints would change the counts.
#[test]
fn counts_do_not_depend_on_the_seed() {
    let runs = all();
    let run = runs.iter().find(|run| run.name() == "K0").unwrap();
    let counts = |seed| run.explore(Limits { seed, ..Limits::default() }).counts();
    assert_eq!(counts(0), counts(7));
}
