//! Failover to a replica that lags, failback, and demotion of a master with its clients.
//!
//! The replica lags because it is promoted first. The master's later writes are lost, as with a
//! replica that was cut off before its master failed.

use std::time::Duration;

use super::{
    FaultError, Target,
    guard::{FaultGuard, Undo},
    redis::{EFFECT, changes, dirty, info, send, words},
};
use crate::{backends::RedisServer, proxy::Peer, wait::Patience};

/// The approximate time that a demoted master loads.
const LOADING: Duration = Duration::from_millis(1_500);

pub(super) async fn fail_over(target: &Target, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let (master, replica) = paired(target).await?;
    guard.undo = Undo::Failback;
    let before = dirty(master).await?;
    // From here on, the replica lacks the master's writes.
    replica.replica_of(None).await?;
    guard.effects = Some(changes(master, before).await?);
    master.replica_of(Some(replica)).await?;
    if let Some(network) = &target.network {
        network.set_target(Peer::Redis, replica.address());
    }
    Ok(())
}

/// Demotes the master. Its clients stay connected, and it loads its own former data.
pub(super) async fn demote(target: &Target, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let (master, replica) = paired(target).await?;
    let keys = info(master, "keyspace").await?;
    let keys = keys.text("db0").and_then(|line| {
        let count = line.strip_prefix("keys=")?.split(',').next()?;
        count.parse::<u64>().ok()
    });
    // The first command makes the server load quickly and is allowed meanwhile. The second is not.
    guard.undo = Undo::Redis(vec![
        words(&["CONFIG", "SET", "key-load-delay", "0"]),
        words(&["REPLICAOF", "NO", "ONE"]),
    ]);
    // The data are few, therefore each key is delayed. Clients are served meanwhile.
    let delay = LOADING.as_micros() / u128::from(keys.unwrap_or_default().max(1));
    master.config_set("key-load-delay", &delay.min(100_000).to_string()).await?;
    master.config_set("loading-process-events-interval-bytes", "1024").await?;
    replica.replica_of(None).await?;
    // Without a new id, the servers would not transfer and load their common data.
    let () = send(replica, &["DEBUG", "CHANGE-REPL-ID"]).await?;
    Ok(master.replica_of(Some(replica)).await?)
}

/// Returns the master and an up-to-date replica.
async fn paired(target: &Target) -> Result<(&RedisServer, &RedisServer), FaultError> {
    let replica = target.replica.as_ref().ok_or_else(|| {
        FaultError::Impossible("there is no replica. Name one with `Target::replica`".to_owned())
    })?;
    replica.replica_of(Some(&target.redis)).await?;
    in_step(replica, &target.redis).await?;
    Ok((&target.redis, replica))
}

/// Copies the new master's data to the old master and promotes it again.
pub(super) async fn fail_back(target: &Target) -> Result<(), FaultError> {
    let Some(replica) = &target.replica else {
        return Ok(());
    };
    let caught_up = match info(&target.redis, "replication").await?.text("role") {
        Some("slave") => in_step(&target.redis, replica).await,
        // The master had not been demoted yet.
        _ => Ok(()),
    };
    target.redis.replica_of(None).await?;
    if let Some(network) = &target.network {
        network.set_target(Peer::Redis, target.redis.address());
    }
    replica.replica_of(Some(&target.redis)).await?;
    caught_up
}

/// Waits until the replica has the master's current data.
async fn in_step(replica: &RedisServer, master: &RedisServer) -> Result<(), FaultError> {
    let mut patience = Patience::new("the replica to catch up", EFFECT);
    let in_step = async || {
        let Ok(wanted) = info(master, "replication").await else {
            return false;
        };
        let wanted = wanted.number("master_repl_offset");
        let has = info(replica, "replication").await;
        has.is_ok_and(|it| {
            it.text("master_link_status") == Some("up") && it.number("slave_repl_offset") >= wanted
        })
    };
    while !patience.look(in_step()).await? {}
    Ok(())
}
