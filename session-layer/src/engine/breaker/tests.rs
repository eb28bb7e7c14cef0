use super::*;

const MS: Duration = Duration::from_millis(1);

/// Records a call every `every` from `from` to `to`. Each call ends when it begins. Returns when
/// the breaker opened.
fn feed(
    breaker: &mut Breaker,
    (from, to): (Instant, Instant),
    every: Duration,
    outcome: impl Fn(u32) -> LookupOutcome,
) -> Option<Instant> {
    let mut now = from;
    for n in 0.. {
        if now >= to {
            break;
        }
        if breaker.ended(now, now, outcome(n)) == Some(Transition::Opened) {
            return Some(now);
        }
        now += every;
    }
    None
}

#[test]
fn fault_at_100_calls_per_second_opens_breaker_in_200ms() {
    for per_second in [100, 500, 2_000, 20_000] {
        let (start, every) = (Instant::now(), Duration::from_secs(1) / per_second);
        let fault = start + 1_000 * MS;
        let mut breaker = Breaker::new();
        assert!(feed(&mut breaker, (start, fault), every, |_| LookupOutcome::Good).is_none());
        // The first calls that hang fail at their deadline.
        let failing = (fault + 50 * MS, fault + 1_000 * MS);
        let opened = feed(&mut breaker, failing, every, |_| LookupOutcome::Failed).unwrap();
        let after = opened - fault;
        assert!(after <= 200 * MS, "{per_second}/s: after {after:?}");
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}

#[test]
fn majority_of_bad_calls_opens_breaker_minority_does_not() {
    let start = Instant::now();
    let minute = (start, start + Duration::from_secs(60));
    for bad in [LookupOutcome::Slow, LookupOutcome::Failed] {
        for (good, of, opens) in [(3, 5, false), (1, 3, true)] {
            let outcome = |n: u32| if n % of < good { LookupOutcome::Good } else { bad };
            let opened = feed(&mut Breaker::new(), minute, MS, outcome);
            assert_eq!(opened.is_some(), opens, "{bad:?}: {good} of {of} are good");
        }
    }
}

#[test]
fn short_stall_leaves_breaker_closed() {
    // A stall of 25 ms during which all calls are slow, and then a bad call of an idle service.
    let start = Instant::now();
    let mut breaker = Breaker::new();
    let stalled = |n: u32| {
        if (500..525).contains(&n) { LookupOutcome::Slow } else { LookupOutcome::Good }
    };
    assert!(feed(&mut breaker, (start, start + 1_000 * MS), MS, stalled).is_none());
    let mut idle = Breaker::new();
    assert!(feed(&mut idle, (start, start + 9 * MS), MS, |_| LookupOutcome::Failed).is_none());
    let later = start + MAX_WINDOW + 20 * MS;
    assert_eq!(
        idle.ended(later, later, LookupOutcome::Failed),
        None,
        "the other calls are too old"
    );
}

#[test]
fn missing_connection_opens_breaker_at_once() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    assert_eq!(breaker.ended(now, now, LookupOutcome::Unreachable), Some(Transition::Opened));
    assert_eq!(breaker.opened(), 1);
    assert_eq!(
        breaker.ended(now, now, LookupOutcome::Unreachable),
        None,
        "the breaker is open already"
    );
}

#[test]
fn good_call_that_tips_the_window_leaves_breaker_closed() {
    let start = Instant::now();
    let mut breaker = Breaker::new();
    let bad_from = start + WINDOW / 2;
    assert!(
        feed(&mut breaker, (start, start + 10 * MS), MS, |_| { LookupOutcome::Good }).is_none()
    );
    let bad = (bad_from, bad_from + 9 * MS);
    assert!(feed(&mut breaker, bad, MS, |_| LookupOutcome::Failed).is_none());
    // The old good calls leave the window. Nine of the ten calls in it are then bad.
    let now = start + WINDOW + 20 * MS;
    assert_eq!(breaker.ended(now, now, LookupOutcome::Good), None);
    assert_eq!(breaker.ended(now, now, LookupOutcome::Slow), Some(Transition::Opened));
}

fn open(now: Instant) -> Breaker {
    let mut breaker = Breaker::new();
    breaker.ended(now, now, LookupOutcome::Unreachable);
    breaker
}

#[test]
fn five_good_probes_in_a_row_close_breaker() {
    let now = Instant::now();
    let mut breaker = open(now);
    assert_eq!(breaker.next_probe(now), Some(now + PROBE_INTERVAL));
    breaker.probe();
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    for _ in 1..GOOD_PROBES {
        assert_eq!(breaker.probed(now, LookupOutcome::Good), None);
    }
    // After a bad probe the breaker waits, and counts from zero.
    assert_eq!(breaker.probed(now, LookupOutcome::Slow), None);
    assert_eq!(breaker.state(), BreakerState::Open);
    assert_eq!(breaker.next_probe(now), Some(now + PROBE_INTERVAL));
    breaker.probe();
    for n in 1..=GOOD_PROBES {
        assert_eq!(breaker.probed(now, LookupOutcome::Good).is_some(), n == GOOD_PROBES);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!((breaker.next_probe(now), breaker.opened()), (None, 1));
}

#[test]
fn failed_call_from_before_closing_leaves_breaker_closed() {
    let start = Instant::now();
    let mut breaker = open(start);
    breaker.probe();
    let closed = start + 100 * MS;
    for _ in 0..GOOD_PROBES {
        breaker.probed(closed, LookupOutcome::Good);
    }
    let late = closed + 10 * MS;
    for _ in 0..100 {
        assert_eq!(breaker.ended(start, late, LookupOutcome::Failed), None);
    }
    assert_eq!(breaker.ended(late, late, LookupOutcome::Unreachable), Some(Transition::Opened));
}

#[test]
fn open_breaker_needs_one_prober_at_a_time() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    assert!(!breaker.needs_prober(), "the breaker is closed");
    breaker.ended(now, now, LookupOutcome::Unreachable);
    assert!(breaker.needs_prober() && !breaker.needs_prober());
    breaker.probe();
    breaker.prober_left();
    assert!(breaker.needs_prober());
    for _ in 0..GOOD_PROBES {
        breaker.probed(now, LookupOutcome::Good);
    }
    assert!(!breaker.needs_prober());
    breaker.ended(now, now, LookupOutcome::Unreachable);
    assert!(breaker.needs_prober(), "the prober that closed the breaker has ended");
}

#[test]
fn call_over_threshold_is_slow_and_error_is_a_failure() {
    let slow = DEFAULT_SLOW_LOOKUP_THRESHOLD;
    for (took, failure, expected) in [
        (slow, None, LookupOutcome::Good),
        (slow + MS, None, LookupOutcome::Slow),
        (MS, Some(CacheErrorKind::TimedOut), LookupOutcome::Failed),
        (slow * 2, Some(CacheErrorKind::Refused), LookupOutcome::Failed),
        (MS, Some(CacheErrorKind::Unreachable), LookupOutcome::Unreachable),
        (MS, Some(CacheErrorKind::PartUnavailable), LookupOutcome::Good),
        (slow + MS, Some(CacheErrorKind::PartUnavailable), LookupOutcome::Slow),
    ] {
        assert_eq!(LookupOutcome::of(took, slow, failure), expected, "{took:?} {failure:?}");
    }
}

#[test]
fn full_window_drops_its_oldest_calls() {
    let now = Instant::now();
    let mut window = Window::default();
    for n in 0..10_000 {
        window.add(now, n % 3 == 0);
    }
    assert_eq!(window.calls.len(), MAX_CALLS);
    assert_eq!(window.bad, window.calls.iter().filter(|(_, bad)| *bad).count());
}
