//! Scripts: what overlaps is up to the test, what is recorded is what happened.

use std::time::Duration;

use super::memory::InMemory;
use crate::{
    history::{Op, Parameters},
    invariants::{Invariant, Outcome, check},
    subject::{Failed, Login, Reach, Seen},
    workload::Script,
};

#[tokio::test(start_paused = true)]
async fn a_forced_order_is_recorded_and_judged() {
    let subject = InMemory {
        takes: Duration::from_millis(2),
        forgets_node_1: true,
        ..InMemory::default()
    };
    let script = Script::new(subject, 7, Parameters::default());
    let first = script.create(0, &Login::new("ann", "a")).await.unwrap();
    let second = script.create(0, &Login::new("bob", "b")).await.unwrap();
    assert_eq!((first.session(), second.session()), (0, 1));
    assert!(matches!(
        script.validate(1, &first).await,
        Some(Seen::Valid { .. })
    ));
    // Both begin before either has ended.
    let (changed, seen) = tokio::join!(script.update(0, &first, "a.1"), script.validate(0, &first));
    assert_eq!(changed, Ok(Reach::Propagated));
    assert!(matches!(seen, Some(Seen::Valid { .. })));
    assert_eq!(script.revoke(0, &first).await, Ok(Reach::Propagated));
    assert_eq!(script.validate(0, &first).await, Some(Seen::Invalid));

    let history = script.finish();
    assert_eq!(history.header.seed, 7);
    assert_eq!(history.end.map(|end| (end.due, end.sent)), Some((7, 7)));
    let of = |wanted: fn(&Op) -> bool| {
        let found = history.operations.iter().find(|each| wanted(&each.op));
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
async fn a_revoked_session_that_is_honoured_breaks_r1() {
    let subject = InMemory {
        forgets_node_1: true,
        ..InMemory::default()
    };
    let script = Script::new(subject, 7, Parameters::default());
    let ann = script.create(0, &Login::new("ann", "a")).await.unwrap();
    script.revoke(0, &ann).await.unwrap();
    // In virtual time the next call would come at the instant of the answer, and not after it.
    tokio::time::sleep(Duration::from_millis(1)).await;
    script.validate(1, &ann).await;
    let verdicts = check(&script.finish());
    assert_eq!(verdicts.of(Invariant::R1).outcome(), Outcome::Broken);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_in_time_has_no_answer() {
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
    // The budget is 250 ms, and the caller waited for 100 ms alone.
    assert_eq!(verdicts.of(Invariant::R9).outcome(), Outcome::Holds);
    assert!(verdicts.doubts().is_empty());
}
