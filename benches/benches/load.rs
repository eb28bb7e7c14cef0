//! The capacity of Postgres without Redis: reads of many tokens compared with reads of one.
//!
//! `read` is one statement on one connection. Its rate per token shows how large a read should
//! become. `misses` is 256 concurrent requests for 256 sessions, without a cache. `singly` uses as
//! many reads as the pool has connections, and `gathered` is the default.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use futures_util::future::join_all;
use session_benches::{Service, median};
use session_layer::cache::NoCache;
use session_layer::store::{PostgresStore, SessionStore as _};
use session_layer::{Created, NewSession, Sessions, TokenDigest, Validation};
use tokio::runtime::Runtime;

const AT_ONCE: usize = 256;
const READS: [usize; 5] = [1, 16, 128, 512, 1024];

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Error> {
    let runtime = Runtime::new()?;
    let service = runtime.block_on(Service::start())?;
    let store = PostgresStore::builder(service.sandbox.database_url())
        .schema(service.sandbox.schema())
        .build()?;
    let created: Vec<Created> = runtime.block_on(async {
        let mut created = Vec::new();
        for n in 0..READS[READS.len() - 1] {
            let new = NewSession::new(format!("user {n}")).data("a session's data");
            created.push(service.sessions.create(new).await?);
        }
        Ok::<_, Error>(created)
    })?;
    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(5))
        .sample_size(50)
        .configure_from_args();
    read(&mut criterion, &runtime, &store, &created);
    misses(&mut criterion, &runtime, &store, &created);
    criterion.final_summary();
    ratios();
    Ok(())
}

fn read(criterion: &mut Criterion, runtime: &Runtime, store: &PostgresStore, created: &[Created]) {
    let digests: Vec<TokenDigest> = created.iter().map(|one| one.token.digest()).collect();
    let mut group = criterion.benchmark_group("read");
    for tokens in READS {
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(BenchmarkId::from_parameter(tokens), |b| {
            b.to_async(runtime)
                .iter(|| async { store.load(&digests[..tokens]).await.expect("a reply") });
        });
    }
    group.finish();
}

fn misses(
    criterion: &mut Criterion,
    runtime: &Runtime,
    store: &PostgresStore,
    created: &[Created],
) {
    let mut group = criterion.benchmark_group("misses");
    group.throughput(Throughput::Elements(AT_ONCE as u64));
    let builder =
        || Sessions::builder(NoCache, store.clone()).validation_timeout(Duration::from_secs(60));
    for (name, max_concurrent_reads) in
        [("singly", Some(AT_ONCE)), ("gathered_2", Some(2)), ("gathered", None)]
    {
        let builder = match max_concurrent_reads {
            Some(reads) => builder().max_concurrent_reads(reads),
            None => builder(),
        };
        let sessions =
            runtime.block_on(async { builder.build() }).expect("settings within their ranges");
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.to_async(runtime).iter(|| {
                // Requests are tasks on all threads of the runtime.
                join_all(created[..AT_ONCE].iter().map(|one| {
                    let (sessions, token) = (sessions.clone(), one.token.reveal().to_owned());
                    tokio::spawn(async move {
                        let answer = sessions.validate(&token).await;
                        assert!(matches!(answer, Validation::Valid(_)), "{answer:?}");
                    })
                }))
            });
        });
    }
    group.finish();
}

fn ratios() {
    println!("\nRatios of this run (medians):");
    let one = median("read", "1");
    for tokens in &READS[1..] {
        if let (Some(one), Some(many)) = (one, median("read", &tokens.to_string())) {
            #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
            let times = one * *tokens as f64 / many;
            println!(
                "tokens per second in reads of {tokens}, relative to reads of one: {times:.1}"
            );
        }
    }
    for gathered in ["gathered_2", "gathered"] {
        if let (Some(singly), Some(gathered_ns)) =
            (median("misses", "singly"), median("misses", gathered))
        {
            println!(
                "{AT_ONCE} concurrent misses, {gathered} relative to singly: {:.1} times the rate",
                singly / gathered_ns
            );
        }
    }
}
