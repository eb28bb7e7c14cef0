//! Runs in virtual time.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::memory::InMemory;
use crate::{
    history::{History, Op, Touched},
    invariants::{Invariant, Outcome, check},
    schedule::{Effect, Loss},
    workload::{Break, Failure, Run, Runner, Scheduled, Settings, Shares, WorkloadError},
};

/// The effect of a fault that cuts the nodes off from Postgres.
const CUT: Effect = Effect { postgres: Loss::Surely, ..Effect::NONE };

fn settings() -> Settings {
    let mut settings = Settings::new(11);
    settings.rate = 1_000;
    settings.duration = Duration::from_secs(10);
    settings.sessions = 200;
    settings
}

async fn run(subject: InMemory, settings: Settings) -> Run {
    Runner::new(subject, settings).run().await.unwrap()
}

struct Switch<F>(F, Option<Touched>);

impl<F: Fn(bool) -> Result<(), Failure> + Send + 'static> Break for Switch<F> {
    async fn cause(&mut self) -> Result<(), Failure> {
        (self.0)(true)
    }

    async fn heal(&mut self) -> Result<Option<Touched>, Failure> {
        (self.0)(false)?;
        Ok(self.1)
    }
}

fn down(subject: &InMemory, touched: Option<Touched>) -> impl Break + use<> {
    let down = Arc::clone(&subject.down);
    let switch = move |on| {
        down.store(on, Ordering::Relaxed);
        Ok(())
    };
    Switch(switch, touched)
}

#[tokio::test(start_paused = true)]
async fn correct_subject_keeps_every_promise() {
    let subject = InMemory { takes: Duration::from_millis(2), ..InMemory::default() };
    let run = run(subject, settings()).await;
    let verdicts = check(&run.history);
    let shown = [
        Invariant::R1,
        Invariant::R2,
        Invariant::R3,
        Invariant::R4,
        Invariant::R5,
        Invariant::R6,
        Invariant::R9,
        Invariant::R13,
    ];
    assert_eq!(verdicts.overall(&shown), Outcome::Holds, "{verdicts}{}", run.report);
    assert!(verdicts.of(Invariant::R1).examined() > 500, "{verdicts}");
    let total = run.report.total;
    assert_eq!((total.due, total.sent, total.hung), (10_000, 10_000, 0));
    assert_eq!(total.answered + total.dropped, 10_000);
    assert!((80..200).contains(&total.dropped), "{}", run.report);
    assert_eq!(run.report.seconds.len(), 10);
    assert!(run.report.seconds.iter().all(|s| s.counts.due == 1_000));
    // 2 ms, plus the timers' resolution of 1 ms.
    assert!((2_000..5_000).contains(&run.report.validates.p50_us), "{}", run.report);
    let file = run.history.write(Vec::new()).unwrap();
    assert_eq!(History::read(file.as_slice()).unwrap(), run.history);
}

#[tokio::test(start_paused = true)]
async fn node_that_misses_revokes_breaks_r1_and_r13() {
    let subject =
        InMemory { takes: Duration::from_millis(1), forgets_node_1: true, ..InMemory::default() };
    let verdicts = check(&run(subject, settings()).await.history);
    assert_eq!(verdicts.of(Invariant::R1).outcome(), Outcome::Broken);
    assert_eq!(verdicts.of(Invariant::R13).outcome(), Outcome::Broken);
    assert_eq!(verdicts.of(Invariant::R3).outcome(), Outcome::Holds, "{verdicts}");
    assert!(verdicts.to_string().contains("was Valid after a change that ended it"));
}

#[tokio::test(start_paused = true)]
async fn outage_reported_as_invalid_breaks_r7() {
    for (bug, outcome) in [(false, Outcome::Holds), (true, Outcome::Broken)] {
        let subject = InMemory {
            takes: Duration::from_millis(1),
            down_is_invalid: bug,
            ..InMemory::default()
        };
        let touched = Some(Touched { connections: 3, bytes: 0 });
        let (at, lasts) = (Duration::from_secs(3), Duration::from_secs(2));
        let down = down(&subject, touched);
        let fault = Scheduled::new("memory.down", at, lasts, down).effect(CUT);
        let run = Runner::new(subject, settings()).fault(fault).run().await.unwrap();
        let verdicts = check(&run.history);
        assert_eq!(verdicts.of(Invariant::R7).outcome(), outcome, "{verdicts}");
        assert_eq!(verdicts.doubts(), [""; 0]);
        let unavailable = |second: usize| run.report.seconds[second].counts.unavailable;
        assert_eq!((unavailable(1), unavailable(6)), (0, 0), "{}", run.report);
        assert_eq!(unavailable(3) > 500, !bug, "{}", run.report);
        let fault = &run.history.faults[0];
        let lasted = fault.until.unwrap() - fault.since.unwrap();
        assert!((1_999_000_000..2_005_000_000).contains(&lasted), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn fault_without_effect_makes_the_run_inconclusive() {
    let subject = InMemory::default();
    let down = down(&subject, Some(Touched::default()));
    let fault = Scheduled::new("memory.down", Duration::ZERO, Duration::from_millis(1), down);
    let run = Runner::new(subject, settings()).fault(fault).run().await.unwrap();
    let verdicts = check(&run.history);
    assert_eq!(verdicts.overall(&[]), Outcome::Inconclusive, "{verdicts}");
    assert!(verdicts.doubts()[0].contains("memory.down had no effect"));
}

#[tokio::test(start_paused = true)]
async fn fault_that_fails_makes_the_run_inconclusive() {
    let second = Duration::from_secs(1);
    let broken = Switch(|on| if on { Err("no such server".into()) } else { Ok(()) }, None);
    let fault = Scheduled::new("redis.kill", Duration::ZERO, second, broken).effect(CUT);
    let runner = Runner::new(InMemory::default(), settings()).fault(fault);
    let run = runner.run().await.unwrap();
    let verdicts = check(&run.history);
    assert_eq!(verdicts.overall(&[]), Outcome::Inconclusive, "{verdicts}");
    assert_eq!(verdicts.of(Invariant::R7).examined(), 0);
    assert!(run.report.problems[0].contains("no such server"));
    let file = run.history.write(Vec::new()).unwrap();
    assert_eq!(History::read(file.as_slice()).unwrap(), run.history);
}

#[tokio::test(start_paused = true)]
async fn stall_delays_every_request_due_meanwhile() {
    let subject = InMemory::default();
    let second = Duration::from_secs(1);
    let held = subject.held.clone();
    let switch = Switch(
        move |on| {
            held.send_replace(on);
            Ok(())
        },
        None,
    );
    let hold = Scheduled::new("hold", 2 * second, second, switch);
    let mut settings = settings();
    settings.dropped = 0;
    settings.duration = 5 * second;
    let run = Runner::new(subject, settings).fault(hold).run().await.unwrap();
    let of = |second: usize| run.report.seconds[second].validates;
    assert!(of(1).p99_us < 5_000, "{}", run.report);
    assert!((450_000..550_000).contains(&of(2).p50_us), "{}", run.report);
    assert!((980_000..1_010_000).contains(&of(2).max_us), "{}", run.report);
    assert!(of(4).max_us < 5_000, "{}", run.report);
    assert_eq!(run.report.total.sent, run.report.total.due);
    let late = check(&run.history);
    assert_eq!(late.of(Invariant::R9).outcome(), Outcome::Broken);
}

#[tokio::test(start_paused = true)]
async fn in_flight_limit_delays_due_requests_and_counts_it() {
    let subject = InMemory { takes: Duration::from_millis(100), ..InMemory::default() };
    let mut settings = settings();
    settings.rate = 200;
    settings.duration = Duration::from_secs(3);
    settings.dropped = 0;
    settings.shares =
        Shares { create: 0, update: 0, revoke: 0, revoke_all: 0, rotate: 0, random: 0 };
    // 10 at a time, 100 ms each: 100 of the 200 requests due per second.
    settings.in_flight = 10;
    let run = run(subject, settings).await;
    let total = run.report.total;
    assert_eq!(total.due, 600);
    // 100 per second for 3 s, and the last calls.
    assert!((380..=420).contains(&total.sent), "{}", run.report);
    assert!(run.report.validates.max_us > 1_500_000, "{}", run.report);
    assert!(run.report.validates_sent.max_us < 110_000, "{}", run.report);
    let verdicts = check(&run.history);
    assert_eq!(verdicts.overall(&[]), Outcome::Inconclusive);
    assert!(verdicts.doubts()[0].contains("were sent, under 95 %"), "{verdicts}");
}

#[tokio::test(start_paused = true)]
async fn hanging_or_panicking_call_is_recorded_without_result() {
    let subject = InMemory {
        takes: Duration::from_millis(1),
        panics_on_update: true,
        hangs_on_rotate: true,
        ..InMemory::default()
    };
    let mut settings = settings();
    settings.duration = Duration::from_secs(2);
    let run = run(subject, settings).await;
    let of = |kind: fn(&Op) -> bool| {
        let operations = run.history.operations.iter();
        let these = operations.filter(|each| kind(&each.op));
        let (count, answered) = (these.clone().count(), these.filter(|e| e.ret.is_some()).count());
        assert!(count > 5, "{count}");
        answered
    };
    assert_eq!(of(|op| matches!(op, Op::Rotate { .. })), 0);
    assert_eq!(of(|op| matches!(op, Op::Update { .. })), 0);
    assert!(run.report.total.hung > 10, "{}", run.report);
    assert!(run.report.problems[0].contains("panic"), "{}", run.report);
    assert_ne!(check(&run.history).of(Invariant::R5).outcome(), Outcome::Broken);
}

#[tokio::test(start_paused = true)]
async fn unsupported_operation_is_counted_and_not_recorded() {
    let subject = InMemory { without_rotation: true, ..InMemory::default() };
    let run = run(subject, settings()).await;
    assert!(run.report.total.unsupported > 50, "{}", run.report);
    assert!(!run.history.operations.iter().any(|each| matches!(each.op, Op::Rotate { .. })));
}

#[tokio::test(start_paused = true)]
async fn failing_logins_before_the_load_end_the_run() {
    let subject = InMemory::default();
    subject.down.store(true, Ordering::Relaxed);
    let error = Runner::new(subject, settings()).run().await.unwrap_err();
    assert!(matches!(error, WorkloadError::Setup(_)), "{error:?}");
}
