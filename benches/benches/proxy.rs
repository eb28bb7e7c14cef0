//! The cost of the testkit's proxy: pipelined GETs through it, compared with GETs without it.
//!
//! The proxy runs in the process that measures, as it does in a test. Its cost includes the
//! processor time that it takes from its client.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use session_benches::median;
use session_testkit::{
    backends::Backends,
    proxy::{Proxy, Toxic},
};
use tokio::runtime::Runtime;

const AT_ONCE: u16 = 1000;

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let runtime = Runtime::new()?;
    let backends = runtime.block_on(Backends::start())?;
    let sandbox = backends.sandbox();
    let key = format!("{}:proxy", sandbox.namespace());
    let url = backends.redis().url();
    let proxy = runtime.block_on(Proxy::start(backends.redis().address()))?;
    let armed = runtime.block_on(Proxy::start(backends.redis().address()))?;
    // A toxic that inspects every byte and changes none.
    let _looks = armed.inject(Toxic::hold_from("no such thing"));

    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(5))
        .sample_size(50)
        .configure_from_args();
    let mut group = criterion.benchmark_group("proxy");
    group.throughput(Throughput::Elements(u64::from(AT_ONCE)));
    for (name, url) in
        [("none", url.to_owned()), ("clear", proxy.url(url)), ("looking", armed.url(url))]
    {
        let client = redis::Client::open(url)?;
        let mut connection = runtime.block_on(client.get_multiplexed_async_connection())?;
        runtime.block_on(connection.set::<_, _, ()>(&key, "x".repeat(200)))?;
        group.bench_function(name, |b| {
            b.to_async(&runtime).iter(|| pipelined(connection.clone(), &key));
        });
    }
    group.finish();
    criterion.final_summary();
    println!("\nRatios of this run (medians):");
    for (name, means) in [
        ("clear", "pipelined GETs through the proxy, relative to none"),
        ("looking", "the same with a toxic that inspects every byte"),
    ] {
        if let (Some(with), Some(without)) = (median("proxy", name), median("proxy", "none")) {
            println!("{means}: {:.2} of the rate", without / with);
        }
    }
    Ok(())
}

async fn pipelined(mut redis: MultiplexedConnection, key: &str) {
    let mut pipe = redis::pipe();
    for _ in 0..AT_ONCE {
        pipe.get(key);
    }
    let values: Vec<Vec<u8>> = pipe.query_async(&mut redis).await.expect("Redis replies");
    assert_eq!(values.len(), usize::from(AT_ONCE));
}
