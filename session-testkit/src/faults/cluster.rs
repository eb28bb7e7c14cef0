//! The faults of a cluster: slots that move, and a shard without a master.

use super::{
    FaultError, Target,
    guard::{FaultGuard, Undo},
};
use crate::backends::{Cluster, RedisServer};

/// The limit of slots that move. A node saves its configuration for each.
const MOVED: usize = 100;

/// Returns the shard that a fault affects, and the one that gets its slots.
fn shards(target: &Target) -> Result<(&Cluster, &RedisServer, &RedisServer), FaultError> {
    let cluster = target.cluster.as_deref().ok_or_else(|| {
        FaultError::Impossible("there is no cluster. Name one with `Target::cluster`".to_owned())
    })?;
    let [first, second, ..] = cluster.masters() else {
        return Err(FaultError::Impossible("the cluster has a single shard".to_owned()));
    };
    Ok((cluster, first, second))
}

/// Moves slots that have keys.
pub(super) async fn move_slots(target: &Target, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let (cluster, from, to) = shards(target)?;
    let mut slots = cluster.slots_with_keys(from).await?;
    slots.truncate(MOVED);
    guard.undo = Undo::MoveBack(slots.clone());
    guard.effects = Some(cluster.move_slots(from, to, slots).await?);
    Ok(())
}

pub(super) async fn move_back(target: &Target, slots: Vec<u16>) -> Result<(), FaultError> {
    let (cluster, first, second) = shards(target)?;
    cluster.move_slots(second, first, slots).await?;
    Ok(())
}

pub(super) async fn stop_shard(target: &Target, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let (_, first, _) = shards(target)?;
    guard.stop(first.kill()).await
}
