//! The loss of a master that sentinels watch, and its replacement.

use super::{
    FaultError, Target,
    guard::{FaultGuard, Undo},
    redis::info,
};

/// Kills the master and waits until every sentinel names the other server.
pub(super) async fn fail_over(target: &Target, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let sentinels = target.sentinels.as_deref().ok_or_else(|| {
        let why = "there are no sentinels. Name them with `Target::sentinels`";
        FaultError::Impossible(why.to_owned())
    })?;
    let (master, _) = sentinels.master().await?;
    let clients = info(master, "clients").await?.number("connected_clients");
    // Each sentinel has two connections, and the replica one.
    let others = 2 * sentinels.servers().len() as u64 + 1;
    guard.connections = clients.unwrap_or_default().saturating_sub(others);
    guard.undo = Undo::Return(master.clone());
    master.kill().await?;
    Ok(sentinels.until_master_is_not(master).await?)
}
