use super::*;

fn latency(count: u64, p50_us: u64, p99_us: u64) -> Latency {
    Latency {
        count,
        #[expect(clippy::cast_precision_loss, reason = "small")]
        mean_us: p50_us as f64,
        p50_us,
        p95_us: p99_us,
        p99_us,
        p999_us: p99_us,
        max_us: p99_us,
    }
}

fn good() -> Figures {
    Figures {
        without_cache: latency(1000, 1000, 3000),
        with_cache: latency(1000, 200, 900),
        hit: latency(1000, 200, 900),
        miss: latency(100, 1500, 4000),
        hit_rate: 100.0,
        sent: 2100,
        failed: 0,
        fills: 150,
        fills_refused: 0,
        ping: latency(200, 100, 200),
        select: latency(200, 300, 500),
    }
}

fn idle() -> Machine {
    Machine { cores: 8, build: "release", load_average: Some(0.5), ..Machine::default() }
}

fn missed(figures: &Figures) -> Vec<Bar> {
    let verdicts = judge(figures, &idle(), &Settings::default());
    let missed = verdicts.iter().filter(|verdict| !verdict.met);
    missed.map(|verdict| verdict.bar).collect()
}

#[test]
fn figure_at_its_limit_misses_only_its_goal() {
    type Change = fn(&mut Figures);
    let cases: [(Change, Change, Bar); 5] = [
        (|f| f.hit.p99_us = 5_000, |f| f.hit.p99_us = 4_999, Bar::HitP99),
        (|f| f.miss.p99_us = 30_000, |f| f.miss.p99_us = 29_999, Bar::MissP99),
        (|f| f.hit_rate = 90.0, |f| f.hit_rate = 90.1, Bar::HitRate),
        (|f| f.with_cache.mean_us = 300.1, |f| f.with_cache.mean_us = 300.0, Bar::Improvement),
        (|f| f.failed = 1, |f| f.failed = 0, Bar::Answered),
    ];
    for (miss, meet, bar) in cases {
        let (mut missing, mut meeting) = (good(), good());
        miss(&mut missing);
        meet(&mut meeting);
        assert_eq!(missed(&missing), [bar]);
        assert_eq!(missed(&meeting), [], "{bar:?}");
    }
}

#[test]
fn missing_measurement_misses_every_goal() {
    let verdicts = judge(&Figures::default(), &idle(), &Settings::default());
    assert_eq!(verdicts.len(), Bar::ALL.len());
    for verdict in verdicts {
        assert!(!verdict.met && verdict.measured.is_none(), "{verdict:?}");
        assert!(verdict.to_string().contains("nothing was measured"));
    }
}

/// Returns the advice for a missed goal.
fn advice(bar: Bar, figures: &Figures, machine: &Machine, settings: &Settings) -> String {
    let verdicts = judge(figures, machine, settings);
    let verdict = verdicts.into_iter().find(|verdict| verdict.bar == bar);
    verdict.unwrap().help.join("\n")
}

#[test]
fn advice_follows_from_the_other_figures() {
    type Change = fn(&mut Figures);
    let cases: [(Bar, Change, &str); 12] = [
        (Bar::HitP99, |f| (f.hit, f.fills) = (Latency::default(), 0), "nothing was filled"),
        (
            Bar::HitP99,
            |f| (f.hit, f.fills, f.ping) = (Latency::default(), 0, latency(9, 64_000, 65_000)),
            "a PING takes 64.00 ms, and a look-up has a deadline of 50 ms",
        ),
        (Bar::HitP99, |f| f.hit = Latency::default(), "entries are filled, and none is served"),
        (
            Bar::HitP99,
            |f| (f.hit, f.ping) = (latency(9, 4000, 9000), latency(9, 3000, 3000)),
            "the round trip to Redis takes 3.00 ms",
        ),
        (
            Bar::HitP99,
            |f| (f.hit, f.ping) = (latency(9, 200, 9000), latency(9, 100, 8000)),
            "Redis itself stalls",
        ),
        (Bar::HitP99, |f| f.hit = latency(9, 200, 9000), "the slowest few"),
        (Bar::HitP99, |f| f.hit = latency(9, 4000, 9000), "too much load at a time"),
        (
            Bar::MissP99,
            |f| (f.miss, f.select) = (latency(9, 40_000, 50_000), latency(9, 20_000, 20_000)),
            "the round trip to Postgres",
        ),
        (Bar::HitRate, |f| (f.hit_rate, f.fills_refused) = (50.0, 100), "100 fills were rejected"),
        (Bar::HitRate, |f| f.hit_rate = 50.0, "evicts"),
        (
            Bar::Improvement,
            |f| (f.with_cache.mean_us, f.ping) = (900.0, latency(9, 310, 320)),
            "move Redis nearer",
        ),
        (Bar::Improvement, |f| f.with_cache.mean_us = 900.0, "but a PING takes 0.10 ms"),
    ];
    for (bar, change, expected) in cases {
        let mut figures = good();
        change(&mut figures);
        let advice = advice(bar, &figures, &idle(), &Settings::default());
        assert!(advice.contains(expected), "{bar:?}: {advice}");
        assert_eq!(advice.lines().count(), 1, "{advice}");
    }
}

#[test]
fn busy_machine_is_advice_only_for_latencies() {
    let machine =
        Machine { cores: 2, build: "debug", load_average: Some(7.25), ..Machine::default() };
    let settings = Settings { concurrency: 64, ..Settings::default() };
    let mut figures = good();
    figures.hit = latency(9, 200, 9000);
    figures.hit_rate = 50.0;
    let of_time = advice(Bar::HitP99, &figures, &machine, &settings);
    for expected in ["busy", "64 clients on 2 cores", "debug build"] {
        assert!(of_time.contains(expected), "{of_time}");
    }
    assert!(!advice(Bar::HitRate, &figures, &machine, &settings).contains("debug build"));
}
