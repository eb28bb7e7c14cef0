//! The cost of a validation, compared with the bare commands that it consists of.
//!
//! `redis_get` is the minimum of a hit, and `postgres_alone` is the cost without a cache. The
//! printed ratios are of this run. The crate's documentation states why.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures_util::future::join_all;
use redis::AsyncCommands as _;
use session_benches::{Service, median};
use session_layer::{CacheMode, NewSession, Sessions, Validation};
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

/// Measures single requests: latency.
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
        // Each iteration validates a new session.
        b.to_async(runtime).iter_custom(|times| async move {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let new = service.sessions.create(NewSession::new("cold").data("a session's data"));
                let cold = new.await.expect("Postgres replies");
                let begin = Instant::now();
                valid(&service.sessions, cold.token.reveal()).await;
                spent += begin.elapsed();
            }
            spent
        });
    });
    service.sessions.set_mode(CacheMode::Bypass);
    group.bench_function("postgres_alone", |b| {
        b.to_async(runtime).iter(|| valid(&service.sessions, token));
    });
    service.sessions.set_mode(CacheMode::On);
    group.finish();
    Ok(())
}

/// Measures concurrent requests: throughput, for which shared connections matter.
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
        b.to_async(runtime).iter(|| join_all((0..AT_ONCE).map(|_| get(redis.clone(), &key))));
    });
    for (name, mode) in [("hit", CacheMode::On), ("postgres_alone", CacheMode::Bypass)] {
        service.sessions.set_mode(mode);
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.to_async(runtime)
                .iter(|| join_all((0..AT_ONCE).map(|_| valid(&service.sessions, token))));
        });
    }
    service.sessions.set_mode(CacheMode::On);
    group.finish();
    Ok(())
}

async fn get(mut redis: redis::aio::MultiplexedConnection, key: &str) {
    let value: Vec<u8> = redis.get(key).await.expect("Redis replies");
    assert!(!value.is_empty(), "the warm session is not in the cache");
}

async fn valid(sessions: &Sessions, token: &str) {
    let answer = sessions.validate(token).await;
    assert!(matches!(answer, Validation::Valid(_)), "{answer:?}");
}

fn ratios() {
    println!("\nRatios of this run (medians):");
    for (group, name, to, means) in [
        ("one", "hit", "redis_get", "a hit, in bare GETs"),
        ("one", "hit_sealed", "hit", "a hit on a sealed entry, in hits"),
        ("one", "miss", "postgres_alone", "a miss, in reads of Postgres"),
        ("one", "hit", "postgres_alone", "a hit, in reads of Postgres"),
        ("many", "hit", "redis_get", "64 concurrent hits, in 64 bare GETs"),
        ("many", "hit", "postgres_alone", "64 concurrent hits, in 64 reads of Postgres"),
    ] {
        if let (Some(one), Some(other)) = (median(group, name), median(group, to)) {
            println!("{means}: {:.2}", one / other);
        }
    }
}
