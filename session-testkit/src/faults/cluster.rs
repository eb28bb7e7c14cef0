//! The faults of a cluster: slots that move, and a shard without a master.

use std::ops::RangeInclusive;

use super::{
    FaultError, Target,
    guard::{FaultGuard, Undo},
};
use crate::backends::{Cluster, RedisServer};

/// The slots that move: a tenth of those of the first shard.
const MOVED: RangeInclusive<u16> = 0..=545;

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

pub(super) async fn move_slots(target: &Target, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let (cluster, from, to) = shards(target)?;
    guard.undo = Undo::MoveBack;
    guard.effects = Some(cluster.move_slots(from, to, MOVED).await?);
    Ok(())
}

pub(super) async fn move_back(target: &Target) -> Result<(), FaultError> {
    let (cluster, first, second) = shards(target)?;
    cluster.move_slots(second, first, MOVED).await?;
    Ok(())
}

pub(super) async fn stop_shard(target: &Target, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let (_, first, _) = shards(target)?;
    guard.stop(first.kill()).await
}
