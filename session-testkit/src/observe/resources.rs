//! R11: samples of resources, taken while no request is running.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::{
    deployment::{Deployment, POOL_SIZE},
    history::{Nanos, Resource, Sample},
    proxy::Peer,
};

/// The number of samples of which the minimum is taken, because each may catch a short task.
const SAMPLES: u32 = 10;
const INTERVAL: Duration = Duration::from_millis(20);

/// Samples the resources that the nodes hold. It must be called while no request is running.
///
/// - *Pools*: a node's connections *beyond* the limit of its two pools, as the proxies count them.
///   A pool that was not full before a fault and is full afterwards has leaked nothing.
/// - *Tasks*: the tasks of this process' runtime. One task per open connection is subtracted: that
///   of a proxy, and that of a Redis client. The runtime runs all nodes, so the sample is recorded
///   for node 0.
/// - *Memory*: the resident memory of this process, recorded for node 0. It includes the record of
///   the run, for which the header's slack must leave room.
pub async fn sample(deployment: &Deployment, now: impl Fn() -> Nanos) -> Vec<Sample> {
    let mut least: Vec<Sample> = Vec::new();
    for _ in 0..SAMPLES {
        let look = look(deployment, now());
        if least.is_empty() {
            least = look;
        } else {
            for (least, now) in least.iter_mut().zip(look) {
                least.value = least.value.min(now.value);
                least.at = now.at;
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
    least
}

fn look(deployment: &Deployment, at: Nanos) -> Vec<Sample> {
    let allowed = u64::from(POOL_SIZE);
    let open = |node, peer| deployment.open_connections(node, peer);
    let (mut redis, mut postgres) = (0, 0);
    let mut samples = Vec::new();
    for node in 0..deployment.nodes() {
        let (to_redis, to_postgres) = (open(node, Peer::Redis), open(node, Peer::Postgres));
        redis += to_redis;
        postgres += to_postgres;
        let beyond = to_redis.saturating_sub(allowed) + to_postgres.saturating_sub(allowed);
        samples.push(Sample { at, node, of: Resource::Pools, value: beyond });
    }
    let tasks = Handle::current().metrics().num_alive_tasks() as u64;
    samples.push(Sample {
        at,
        node: 0,
        of: Resource::Tasks,
        value: tasks.saturating_sub(2 * redis + postgres),
    });
    // Systems without `/proc` give no sample.
    if let Some(value) = resident() {
        samples.push(Sample { at, node: 0, of: Resource::Memory, value });
    }
    samples
}

fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let before = resident().unwrap();
        assert!(before > 1024 * 1024, "{before}");
        let block = vec![1_u8; 32 * 1024 * 1024];
        assert!(resident().unwrap() > before + 24 * 1024 * 1024);
        drop(block);
    }
}
