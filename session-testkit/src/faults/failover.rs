//! Failover to a replica that lags, and failback to the old master.
//!
//! The replica lags because it is promoted first: what the master takes until it is demoted is lost,
//! as with a replica that was cut off before its master died.

use std::time::Duration;

use super::{
    Fault, FaultError, Target,
    guard::{FaultGuard, Undo},
    redis::{changes, dirty, info, no_effect},
};
use crate::{backends::RedisServer, proxy::Peer, wait::Patience};

const EFFECT: Duration = Duration::from_secs(10);

pub(super) async fn fail_over(
    fault: Fault,
    target: &Target,
    guard: &mut FaultGuard,
) -> Result<(), FaultError> {
    let master = &target.redis;
    let replica = target.replica.as_ref();
    let replica = replica.ok_or_else(|| FaultError::Impossible {
        fault,
        why: "to what? Say so with `Target::replica`".to_owned(),
    })?;
    replica.replica_of(Some(master)).await?;
    in_step(fault, replica, master).await?;
    guard.undo = Undo::Failback;
    let before = dirty(fault, master).await?;
    // From here on it lacks what the master takes.
    replica.replica_of(None).await?;
    guard.effects = Some(changes(fault, master, before).await?);
    master.replica_of(Some(replica)).await?;
    if let Some(network) = &target.network {
        network.set_target(Peer::Redis, replica.address());
    }
    Ok(())
}

/// The old master takes over what the new one has, and its place.
pub(super) async fn fail_back(fault: Fault, target: &Target) -> Result<(), FaultError> {
    let Some(replica) = &target.replica else {
        return Ok(());
    };
    let caught_up = match info(fault, &target.redis, "replication")
        .await?
        .text("role")
    {
        Some("slave") => in_step(fault, &target.redis, replica).await,
        // It had not been demoted yet.
        _ => Ok(()),
    };
    target.redis.replica_of(None).await?;
    if let Some(network) = &target.network {
        network.set_target(Peer::Redis, target.redis.address());
    }
    replica.replica_of(Some(&target.redis)).await?;
    caught_up
}

/// Until the replica has what the master has now.
async fn in_step(
    fault: Fault,
    replica: &RedisServer,
    master: &RedisServer,
) -> Result<(), FaultError> {
    let mut patience = Patience::new("the replica to catch up", EFFECT);
    let in_step = async || {
        let Ok(wanted) = info(fault, master, "replication").await else {
            return false;
        };
        let wanted = wanted.number("master_repl_offset");
        let has = info(fault, replica, "replication").await;
        has.is_ok_and(|it| {
            it.text("master_link_status") == Some("up") && it.number("slave_repl_offset") >= wanted
        })
    };
    while !patience.look(in_step()).await.map_err(no_effect(fault))? {}
    Ok(())
}
