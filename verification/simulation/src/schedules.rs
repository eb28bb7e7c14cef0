//! The schedules: session-layer keeps its promises in each of them.

use std::env;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use session_testkit::invariants::{Invariant, Outcome};

use crate::caught::shrink;
use crate::coverage::Counts;
use crate::plan::Plan;
use crate::schedule::{Ran, run, seed};

/// The number of schedules in each of the eight parts, unless `SIMULATION_SCHEDULES` sets it. In
/// each part, every event that `coverage.rs` counts happens. Every night runs more, with other
/// seeds.
const SCHEDULES: u64 = 4_000;

/// The promises that a schedule checks.
const JUDGED: [Invariant; 10] = {
    use Invariant::*;
    [R1, R1Delta, R2, R3, R4, R5, R6, R7, R9, R13]
};

macro_rules! parts {
    ($($name:ident: $part:literal),*) => {$(
        #[test]
        fn $name() {
            part($part);
        }
    )*};
}
parts! {
    part_1: 0, part_2: 1, part_3: 2, part_4: 3, part_5: 4, part_6: 5, part_7: 6, part_8: 7
}

/// Returns the base of all seeds of this test run.
pub(crate) fn base() -> u64 {
    let base = match env::var("SIMULATION_SEED").as_deref() {
        Ok("fresh") => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, |now| u64::from(now.subsec_nanos()) << 20 ^ now.as_secs())
        }
        Ok(number) => number.parse().expect("SIMULATION_SEED is a number, or `fresh`"),
        Err(_) => 1,
    };
    println!("base seed {base} (SIMULATION_SEED={base} replays this run)");
    base
}

fn variable(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn part(part: u64) {
    let base = base();
    let schedules = variable("SIMULATION_SCHEDULES").unwrap_or(SCHEDULES);
    let began = Instant::now();
    let mut counts = Counts::new();
    let mut examined = [0_u64; JUDGED.len()];
    for number in 0..schedules {
        let plan = Plan::of(seed(base, part * 1_000_000 + number));
        let ran = run(&plan, None, false);
        if let Some(broken) = broken(&ran) {
            panic!("{}", describe(&plan, broken));
        }
        counts.add(ran.coverage, ran.history.operations.len());
        for (count, judged) in examined.iter_mut().zip(JUDGED) {
            *count += ran.verdicts.of(judged).examined();
        }
    }
    println!("{counts}");
    for (count, judged) in examined.iter().zip(JUDGED) {
        println!("{count:>8}  cases of {judged}: {}", judged.promise());
    }
    println!("in {:?}", began.elapsed());
    let missing = counts.missing();
    assert!(missing.is_empty(), "no schedule had {missing:?}");
    assert!(!examined.contains(&0), "a promise was never checked");
}

/// Returns the first promise that was broken.
pub(crate) fn broken(ran: &Ran) -> Option<Invariant> {
    let broken = |judged: &Invariant| ran.verdicts.of(*judged).outcome() == Outcome::Broken;
    JUDGED.into_iter().find(broken)
}

/// Describes the shrunk schedule, and how to replay the whole one.
fn describe(plan: &Plan, broken: Invariant) -> String {
    let least = shrink(plan, None, broken);
    let ran = run(&least, None, true);
    format!(
        "{broken} is broken; SIMULATION_SCHEDULE={} replays it\n\n{least}\n{}\n\n{}",
        plan.seed,
        ran.trace.join("\n"),
        ran.verdicts
    )
}

/// Replays the schedule of `SIMULATION_SCHEDULE`, step by step.
#[test]
fn one_schedule() {
    let Some(seed) = variable("SIMULATION_SCHEDULE") else {
        return;
    };
    let plan = Plan::of(seed);
    let ran = run(&plan, None, true);
    println!("{plan}\n{}\n\n{}", ran.trace.join("\n"), ran.verdicts);
    if let Some(broken) = broken(&ran) {
        panic!("{}", describe(&plan, broken));
    }
}

#[test]
fn seed_replays_to_the_same_history() {
    let base = base();
    for number in 0..100 {
        let plan = Plan::of(seed(base, number));
        let (once, again) = (run(&plan, None, true), run(&plan, None, true));
        assert_eq!(once.trace, again.trace, "schedule {}", plan.seed);
        assert_eq!(once.history, again.history, "schedule {}", plan.seed);
    }
}
