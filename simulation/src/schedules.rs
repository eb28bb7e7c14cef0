//! The schedules. Whatever is drawn, session-layer keeps its promises.

use std::env;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use session_testkit::invariants::{Invariant, Outcome};

use crate::coverage::Counts;
use crate::plan::Plan;
use crate::schedule::{Ran, run, seed};
use crate::shrink::shrink;

/// In each of the eight parts: 104,000 in all.
const SCHEDULES: u64 = 13_000;

/// What a schedule can say something about.
pub(crate) const JUDGED: [Invariant; 10] = [
    Invariant::R1,
    Invariant::R1Delta,
    Invariant::R2,
    Invariant::R3,
    Invariant::R4,
    Invariant::R5,
    Invariant::R6,
    Invariant::R7,
    Invariant::R9,
    Invariant::R13,
];

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

/// The base of all seeds of this run.
pub(crate) fn base() -> u64 {
    let base = match env::var("SIMULATION_SEED").as_deref() {
        Ok("fresh") => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, |now| u64::from(now.subsec_nanos()) << 20 ^ now.as_secs())
        }
        Ok(number) => number
            .parse()
            .expect("SIMULATION_SEED is a number, or `fresh`"),
        Err(_) => 1,
    };
    println!("base seed {base} (SIMULATION_SEED={base} replays this run)");
    base
}

fn variable(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

fn part(part: u64) {
    let base = base();
    let schedules = variable("SIMULATION_SCHEDULES").unwrap_or(SCHEDULES);
    let began = Instant::now();
    let mut counts = Counts::default();
    let mut examined = [0_u64; JUDGED.len()];
    for number in 0..schedules {
        let plan = Plan::of(seed(base, part * 1_000_000 + number));
        let ran = run(&plan, None, false);
        if let Some(broken) = broken(&ran) {
            panic!("{}", in_full(&plan, broken));
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
    assert!(
        !examined.contains(&0),
        "a promise was never put to the test"
    );
}

/// The first promise that was broken.
pub(crate) fn broken(ran: &Ran) -> Option<Invariant> {
    let broken = |judged: &Invariant| ran.verdicts.of(*judged).outcome() == Outcome::Broken;
    JUDGED.into_iter().find(broken)
}

/// The few operations that prove it, and how to see all of it.
fn in_full(plan: &Plan, broken: Invariant) -> String {
    let least = shrink(plan, None, broken);
    let ran = run(&least, None, true);
    format!(
        "{broken} is broken; SIMULATION_SCHEDULE={} replays it\n\n{least}\n{}\n\n{}",
        plan.seed,
        ran.trace.join("\n"),
        ran.verdicts
    )
}

/// `SIMULATION_SCHEDULE=SEED`: that one schedule, step by step.
#[test]
fn one_schedule() {
    let Some(seed) = variable("SIMULATION_SCHEDULE") else {
        return;
    };
    let plan = Plan::of(seed);
    let ran = run(&plan, None, true);
    println!("{plan}\n{}\n\n{}", ran.trace.join("\n"), ran.verdicts);
    if let Some(broken) = broken(&ran) {
        panic!("{}", in_full(&plan, broken));
    }
}

#[test]
fn a_seed_replays_to_the_same_history() {
    let base = base();
    for number in 0..100 {
        let plan = Plan::of(seed(base, number));
        let (once, again) = (run(&plan, None, true), run(&plan, None, true));
        assert_eq!(once.trace, again.trace, "schedule {}", plan.seed);
        assert_eq!(once.history, again.history, "schedule {}", plan.seed);
    }
}
