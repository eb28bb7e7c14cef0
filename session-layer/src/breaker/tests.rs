use super::*;

const MS: Duration = Duration::from_millis(1);

/// Feeds it a call every `every` from `from` to `to`, each ending as it began.
fn feed(
    breaker: &mut Breaker,
    (from, to): (Instant, Instant),
    every: Duration,
    outcome: impl Fn(u32) -> Outcome,
) -> Option<Instant> {
    let mut now = from;
    for n in 0.. {
        if now >= to {
            break;
        }
        if breaker.ended(now, now, outcome(n)) == Some(Change::Opened) {
            return Some(now);
        }
        now += every;
    }
    None
}

#[test]
fn it_opens_within_200_ms_of_a_fault_at_any_rate_from_100_a_second() {
    for per_second in [100, 500, 2_000, 20_000] {
        let (start, every) = (Instant::now(), Duration::from_secs(1) / per_second);
        let fault = start + 1_000 * MS;
        let mut breaker = Breaker::new();
        assert!(feed(&mut breaker, (start, fault), every, |_| Outcome::Good).is_none());
        // The first of those that hang fail at their deadline.
        let failing = (fault + 50 * MS, fault + 1_000 * MS);
        let opened = feed(&mut breaker, failing, every, |_| Outcome::Failed).unwrap();
        let after = opened - fault;
        assert!(after <= 200 * MS, "{per_second}/s: after {after:?}");
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}

#[test]
fn two_bad_calls_of_five_keep_it_closed_and_two_of_three_open_it() {
    let start = Instant::now();
    let minute = (start, start + Duration::from_secs(60));
    for bad in [Outcome::Slow, Outcome::Failed] {
        for (good, of, opens) in [(3, 5, false), (1, 3, true)] {
            let outcome = |n: u32| if n % of < good { Outcome::Good } else { bad };
            let opened = feed(&mut Breaker::new(), minute, MS, outcome);
            assert_eq!(opened.is_some(), opens, "{bad:?}: {good} of {of} are good");
        }
    }
}

#[test]
fn a_hiccup_does_not_open_it() {
    // A stall of 25 ms, in which all calls are slow, among many; and one call of a quiet service.
    let start = Instant::now();
    let mut breaker = Breaker::new();
    let stalled = |n: u32| {
        if (500..525).contains(&n) {
            Outcome::Slow
        } else {
            Outcome::Good
        }
    };
    assert!(feed(&mut breaker, (start, start + 1_000 * MS), MS, stalled).is_none());
    let mut quiet = Breaker::new();
    assert!(feed(&mut quiet, (start, start + 9 * MS), MS, |_| Outcome::Failed).is_none());
    let later = start + OLDEST + 20 * MS;
    assert_eq!(
        quiet.ended(later, later, Outcome::Failed),
        None,
        "the rest is long ago"
    );
}

#[test]
fn no_connection_at_all_opens_it_at_once() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    assert_eq!(
        breaker.ended(now, now, Outcome::Unreachable),
        Some(Change::Opened)
    );
    assert_eq!(breaker.opened(), 1);
    assert_eq!(
        breaker.ended(now, now, Outcome::Unreachable),
        None,
        "it is open"
    );
}

fn open(now: Instant) -> Breaker {
    let mut breaker = Breaker::new();
    breaker.ended(now, now, Outcome::Unreachable);
    breaker
}

#[test]
fn it_closes_after_good_probes_in_a_row() {
    let now = Instant::now();
    let mut breaker = open(now);
    assert_eq!(breaker.next_probe(now), Some(now + PAUSE));
    breaker.probe();
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    for _ in 1..PROBES {
        assert_eq!(breaker.probed(now, Outcome::Good), None);
    }
    // One that is bad begins the count anew, after a pause.
    assert_eq!(breaker.probed(now, Outcome::Slow), None);
    assert_eq!(breaker.state(), BreakerState::Open);
    assert_eq!(breaker.next_probe(now), Some(now + PAUSE));
    breaker.probe();
    for n in 1..=PROBES {
        assert_eq!(breaker.probed(now, Outcome::Good).is_some(), n == PROBES);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!((breaker.next_probe(now), breaker.opened()), (None, 1));
}

#[test]
fn what_began_before_it_closed_tells_of_the_past() {
    let start = Instant::now();
    let mut breaker = open(start);
    breaker.probe();
    let closed = start + 100 * MS;
    for _ in 0..PROBES {
        breaker.probed(closed, Outcome::Good);
    }
    let late = closed + 10 * MS;
    for _ in 0..100 {
        assert_eq!(breaker.ended(start, late, Outcome::Failed), None);
    }
    assert_eq!(
        breaker.ended(late, late, Outcome::Unreachable),
        Some(Change::Opened)
    );
}

#[test]
fn there_is_one_prober_at_a_time_and_always_one_while_it_is_open() {
    let now = Instant::now();
    let mut breaker = Breaker::new();
    assert!(!breaker.needs_prober(), "it is closed");
    breaker.ended(now, now, Outcome::Unreachable);
    assert!(breaker.needs_prober() && !breaker.needs_prober());
    breaker.probe();
    breaker.prober_left();
    assert!(breaker.needs_prober());
    for _ in 0..PROBES {
        breaker.probed(now, Outcome::Good);
    }
    assert!(!breaker.needs_prober());
    breaker.ended(now, now, Outcome::Unreachable);
    assert!(breaker.needs_prober(), "the one that closed it has gone");
}

#[test]
fn a_call_is_slow_beyond_the_threshold_and_failed_whatever_it_took() {
    let slow = DEFAULT_SLOW_CALL;
    for (took, failure, expected) in [
        (slow, None, Outcome::Good),
        (slow + MS, None, Outcome::Slow),
        (MS, Some(CacheErrorKind::TimedOut), Outcome::Failed),
        (slow * 2, Some(CacheErrorKind::Refused), Outcome::Failed),
        (MS, Some(CacheErrorKind::Unreachable), Outcome::Unreachable),
    ] {
        assert_eq!(
            Outcome::of(took, slow, failure),
            expected,
            "{took:?} {failure:?}"
        );
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let now = Instant::now();
    let mut window = Window::default();
    for n in 0..10_000 {
        window.add(now, n % 3 == 0);
    }
    assert_eq!(window.calls.len(), MOST);
    assert_eq!(
        window.bad,
        window.calls.iter().filter(|(_, bad)| *bad).count()
    );
}
