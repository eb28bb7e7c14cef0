//! The plan: a pure function of its seed, with the configured shares.

use std::{collections::HashMap, time::Duration};

use crate::workload::{Action, Plan, Planned, Settings, Shares};

fn plan(seed: u64) -> Vec<Planned> {
    let mut settings = Settings::new(seed);
    settings.duration = Duration::from_secs(10);
    Plan::new(&settings, 3).collect()
}

#[test]
fn seed_replays_its_plan_and_another_seed_differs() {
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
}

/// Checks that releases and dependencies do not change the plan, which could not be replayed then.
#[test]
fn plan_of_a_fixed_seed_is_stable() {
    let some: Vec<String> = plan(42)
        .iter()
        .filter(|each| !matches!(each.action, Action::Random(_)))
        .step_by(3_500)
        .map(|each| format!("{} {} {:?}", each.due, each.node, each.action))
        .collect();
    assert_eq!(some, PLAN_42);
}

const PLAN_42: [&str; 6] = [
    "340948 2 Validate { slot: 165, choice: Newest }",
    "1784717615 1 Validate { slot: 28, choice: Newest }",
    "3573330347 2 Validate { slot: 471, choice: Newest }",
    "5357799662 0 Validate { slot: 5, choice: Newest }",
    "7145330236 1 Validate { slot: 67, choice: Newest }",
    "8931699554 1 Validate { slot: 221, choice: Newest }",
];

#[test]
fn due_requests_match_the_rate_on_all_nodes_in_order() {
    let plan = plan(1);
    assert_eq!(plan.len(), 20_000);
    assert!(plan.is_sorted_by_key(|each| each.due));
    let mut of_second = HashMap::new();
    let mut of_node = HashMap::new();
    for each in &plan {
        *of_second.entry(each.due / 1_000_000_000).or_insert(0) += 1;
        *of_node.entry(each.node).or_insert(0) += 1;
    }
    assert_eq!(of_second.len(), 10);
    assert!(of_second.values().all(|count| *count == 2_000));
    assert_eq!(of_node.len(), 3);
    assert!(of_node.values().all(|count| (6_000..7_400).contains(count)));
}

#[test]
fn shares_are_kept_and_keys_are_uneven() {
    let plan = plan(3);
    let mut kinds: HashMap<&str, u32> = HashMap::new();
    let mut slots: HashMap<u32, u32> = HashMap::new();
    for each in &plan {
        let kind = match each.action {
            Action::Create { .. } => "create",
            Action::Validate { slot, .. } => {
                *slots.entry(slot).or_default() += 1;
                "validate"
            }
            Action::Random(_) => "random",
            Action::Update { .. } => "update",
            Action::Revoke { .. } => "revoke",
            Action::RevokeAll { .. } => "revoke all",
            Action::Rotate { .. } => "rotate",
        };
        *kinds.entry(kind).or_default() += 1;
    }
    // Of 20,000. Validates after a change take the places of others, so the counts are slightly
    // below the shares.
    for (kind, expected) in [
        ("create", 800),
        ("random", 400),
        ("update", 600),
        ("revoke", 400),
        ("revoke all", 40),
        ("rotate", 200),
    ] {
        let count = kinds[kind];
        assert!((expected * 7 / 10..expected * 13 / 10).contains(&count), "{kind}: {count}");
    }
    let hottest = slots.values().max().copied().unwrap();
    assert!((1_800..3_000).contains(&hottest), "{hottest}");
    assert!(slots.len() > 800, "{} of 1000 slots", slots.len());
    let dropped = plan.iter().filter(|each| each.drop.is_some()).count();
    assert!((300..500).contains(&dropped), "{dropped}");
}

#[test]
fn ended_session_lingers_before_a_login_takes_its_slot() {
    let mut settings = Settings::new(5);
    settings.shares = Shares { create: 100, revoke: 50, revoke_all: 0, ..Shares::default() };
    settings.short_lived = 0;
    settings.sessions = 100_000;
    settings.zipf = 0.0;
    let mut ended: HashMap<u32, u64> = HashMap::new();
    let mut taken = 0;
    for each in Plan::new(&settings, 2) {
        match each.action {
            Action::Revoke { slot } => {
                ended.entry(slot).or_insert(each.due);
            }
            Action::Create { slot, .. } => {
                if let Some(at) = ended.remove(&slot) {
                    taken += u32::from(each.due - at >= 4_000_000_000);
                }
            }
            _ => {}
        }
    }
    // Nearly every revoke of the first 26 of 30 s. A few slots are hit by chance before.
    assert!(taken > 1_500, "{taken}");
}

#[test]
fn invalid_settings_are_refused() {
    let refused = |change: fn(&mut Settings)| {
        let mut settings = Settings::new(1);
        change(&mut settings);
        settings.check().unwrap_err().to_string()
    };
    assert_eq!(refused(|s| s.rate = 0), "`rate` is 0, but must be at least 1");
    assert_eq!(refused(|s| s.dropped = 1001), "`dropped` is 1001 of 1000");
    assert_eq!(refused(|s| s.shares.revoke = 990), "`shares` is 1092 of 1000");
    assert!(refused(|s| s.zipf = f64::NAN).contains("NaN"));
    assert!(refused(|s| s.rate = 2_000_000).contains("2000000"));
}
