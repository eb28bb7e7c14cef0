//! What a validation costs, beside the bare command it is made of.
//!
//! `redis_get` is the floor of a hit, `postgres_alone` what a service without a cache pays. The ratios
//! printed at the end are of this run; see the crate's documentation for why.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures_util::future::join_all;
use redis::AsyncCommands as _;
use session_benches::{Service, median};
use session_layer::{Mode, NewSession, Sessions, Validation};
use tokio::runtime::Runtime;

const AT_ONCE: u64 = 64;

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let runtime = Runtime::new()?;
    let service = runtime.block_on(Service::start())?;
    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(5))
        .sample_size(50)
        .configure_from_args();
    one(&mut criterion, &runtime, &service)?;
    many(&mut criterion, &runtime, &service)?;
    criterion.final_summary();
    ratios();
    Ok(())
}

/// One request at a time: latency.
fn one(
    criterion: &mut Criterion,
    runtime: &Runtime,
    service: &Service,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut group = criterion.benchmark_group("one");
    let redis = runtime.block_on(service.backends.redis().connect())?;
    let (token, key) = (service.warm.token.reveal(), service.warm_key());
    group.bench_function("redis_get", |b| {
        b.to_async(runtime).iter(|| get(redis.clone(), &key));
    });
    group.bench_function("hit", |b| {
        b.to_async(runtime).iter(|| valid(&service.sessions, token));
    });
    group.bench_function("hit_sealed", |b| {
        let token = service.warm_sealed.token.reveal();
        b.to_async(runtime).iter(|| valid(&service.sealed, token));
    });
    group.bench_function("miss", |b| {
        // Each iteration asks for a session that was never asked for before.
        b.to_async(runtime).iter_custom(|times| async move {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let new = service
                    .sessions
                    .create(NewSession::new("cold").data("a session's data"));
                let cold = new.await.expect("Postgres is there");
                let begin = Instant::now();
                valid(&service.sessions, cold.token.reveal()).await;
                spent += begin.elapsed();
            }
            spent
        });
    });
    service.sessions.set_mode(Mode::Bypass);
    group.bench_function("postgres_alone", |b| {
        b.to_async(runtime).iter(|| valid(&service.sessions, token));
    });
    service.sessions.set_mode(Mode::On);
    group.finish();
    Ok(())
}

/// Many at once: throughput, where sharing connections counts.
fn many(
    criterion: &mut Criterion,
    runtime: &Runtime,
    service: &Service,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut group = criterion.benchmark_group("many");
    group.throughput(Throughput::Elements(AT_ONCE));
    let redis = runtime.block_on(service.backends.redis().connect())?;
    let (token, key) = (service.warm.token.reveal(), service.warm_key());
    group.bench_function(BenchmarkId::from_parameter("redis_get"), |b| {
        b.to_async(runtime)
            .iter(|| join_all((0..AT_ONCE).map(|_| get(redis.clone(), &key))));
    });
    group.bench_function(BenchmarkId::from_parameter("hit"), |b| {
        b.to_async(runtime)
            .iter(|| join_all((0..AT_ONCE).map(|_| valid(&service.sessions, token))));
    });
    service.sessions.set_mode(Mode::Bypass);
    group.bench_function(BenchmarkId::from_parameter("postgres_alone"), |b| {
        b.to_async(runtime)
            .iter(|| join_all((0..AT_ONCE).map(|_| valid(&service.sessions, token))));
    });
    service.sessions.set_mode(Mode::On);
    group.finish();
    Ok(())
}

async fn get(mut redis: redis::aio::MultiplexedConnection, key: &str) {
    let value: Vec<u8> = redis.get(key).await.expect("Redis is there");
    assert!(!value.is_empty(), "the warm session has left the cache");
}

async fn valid(sessions: &Sessions, token: &str) {
    let answer = sessions.validate(token).await;
    assert!(matches!(answer, Validation::Valid(_)), "{answer:?}");
}

fn ratios() {
    println!("\nRatios of this run (medians):");
    for (group, name, to, means) in [
        ("one", "hit", "redis_get", "a hit, in bare GETs"),
        (
            "one",
            "hit_sealed",
            "hit",
            "a hit on a sealed entry, in hits",
        ),
        (
            "one",
            "miss",
            "postgres_alone",
            "a miss, in reads of Postgres",
        ),
        (
            "one",
            "hit",
            "postgres_alone",
            "a hit, in reads of Postgres",
        ),
        (
            "many",
            "hit",
            "redis_get",
            "64 hits at once, in 64 bare GETs",
        ),
        (
            "many",
            "hit",
            "postgres_alone",
            "64 hits at once, in 64 reads of Postgres",
        ),
    ] {
        if let (Some(one), Some(other)) = (median(group, name), median(group, to)) {
            println!("{means}: {:.2}", one / other);
        }
    }
}
