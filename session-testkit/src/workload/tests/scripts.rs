//! Scripts: the test decides what overlaps, and the record has what happened.

use std::time::Duration;

use super::memory::InMemory;
use crate::{
    history::{Op, Parameters},
    invariants::{Invariant, Outcome, check},
    subject::{Failed, Login, Seen, Visibility},
    workload::Script,
};

#[tokio::test(start_paused = true)]
async fn forced_order_is_recorded_and_checked() {
    let subject =
        InMemory { takes: Duration::from_millis(2), forgets_node_1: true, ..InMemory::default() };
    let script = Script::new(subject, 7, Parameters::default());
    let first = script.create(0, &Login::new("ann", "a")).await.unwrap();
    let second = script.create(0, &Login::new("bob", "b")).await.unwrap();
    assert_eq!((first.session(), second.session()), (0, 1));
    assert!(matches!(script.validate(1, &first).await, Some(Seen::Valid { .. })));
    // Both begin before either has ended.
    let (changed, seen) = tokio::join!(script.update(0, &first, "a.1"), script.validate(0, &first));
    assert_eq!(changed, Ok(Visibility::Propagated));
    assert!(matches!(seen, Some(Seen::Valid { .. })));
    assert_eq!(script.revoke(0, &first).await, Ok(Visibility::Propagated));
    assert_eq!(script.validate(0, &first).await, Some(Seen::Invalid));

    let history = script.finish();
    assert_eq!(history.header.seed, 7);
    assert_eq!(history.end.map(|end| (end.due, end.sent)), Some((7, 7)));
    let of = |kind: fn(&Op) -> bool| {
        let found = history.operations.iter().find(|each| kind(&each.op));
        found.unwrap()
    };
    let update = of(|op| matches!(op, Op::Update { .. }));
    let overlapping = |each: &&crate::history::Operation| {
        each.op.is_validation() && each.call < update.end() && update.call < each.end()
    };
    assert_eq!(history.operations.iter().filter(overlapping).count(), 1);
    assert_eq!(check(&history).of(Invariant::R3).outcome(), Outcome::Holds);
}

#[tokio::test(start_paused = true)]
async fn valid_after_revoke_breaks_r1() {
    let subject = InMemory { forgets_node_1: true, ..InMemory::default() };
    let script = Script::new(subject, 7, Parameters::default());
    let ann = script.create(0, &Login::new("ann", "a")).await.unwrap();
    script.revoke(0, &ann).await.unwrap();
    // In virtual time the next call would otherwise start at the instant of the result.
    tokio::time::sleep(Duration::from_millis(1)).await;
    script.validate(1, &ann).await;
    let verdicts = check(&script.finish());
    assert_eq!(verdicts.of(Invariant::R1).outcome(), Outcome::Broken);
}

#[tokio::test(start_paused = true)]
async fn operation_beyond_the_limit_has_no_result() {
    let subject = InMemory::default();
    let script =
        Script::new(subject, 7, Parameters::default()).patience(Duration::from_millis(100));
    let ann = script.create(0, &Login::new("ann", "a")).await.unwrap();
    script.subject().held.send_replace(true);
    assert_eq!(script.validate(0, &ann).await, None);
    let revoked = script.revoke(0, &ann).await;
    assert!(matches!(revoked, Err(Failed::Unknown(_))), "{revoked:?}");

    let history = script.finish();
    let hung = history.operations.iter().filter(|each| each.ret.is_none());
    assert_eq!(hung.count(), 2);
    let verdicts = check(&history);
    // The budget is 250 ms, but the caller waited for 100 ms only.
    assert_eq!(verdicts.of(Invariant::R9).outcome(), Outcome::Holds);
    assert!(verdicts.doubts().is_empty());
}
