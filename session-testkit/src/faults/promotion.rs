//! Failover of Postgres to its standby, and failback.
//!
//! The primary is stopped, so its standby receives everything that was committed. The old primary
//! then returns as a standby at its old address, before the address moves. Nodes that connect in
//! between reach a server that takes no changes.

use super::{
    FaultError, Target,
    guard::{FaultGuard, Undo},
};
use crate::{backends::PostgresServer, proxy::Peer};

pub(super) async fn fail_over(target: &Target, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let standby = target.standby.as_ref().ok_or_else(|| {
        FaultError::Impossible("there is no standby. Name one with `Target::standby`".to_owned())
    })?;
    guard.undo = Undo::Demote;
    switch(target, &target.postgres, standby).await
}

/// Makes the former primary the primary again.
pub(super) async fn fail_back(target: &Target) -> Result<(), FaultError> {
    match &target.standby {
        Some(standby) => switch(target, standby, &target.postgres).await,
        None => Ok(()),
    }
}

async fn switch(
    target: &Target,
    from: &PostgresServer,
    to: &PostgresServer,
) -> Result<(), FaultError> {
    to.caught_up(from).await?;
    from.hand_over().await?;
    to.promote().await?;
    from.follow(to).await?;
    if let Some(network) = &target.network {
        network.set_target(Peer::Postgres, to.address());
    }
    Ok(())
}
