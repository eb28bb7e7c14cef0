//! Checks of a cache's status and probe.

use super::{Check, Failure, Nodes, Outcome, SessionCache, Tokens, When as _, ensure, in_time};
use crate::conformance::check::checks;

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"status":
        status_is_correct: "`status` names the backend, reports `connected` for a working cache, \
            and its numbers are consistent.",
        probe_is_correct: "`probe` of a working cache pings, sets and gets. It reports \
            `connected`, three durations and no error, and does not change entries or leases.",
    }
}

async fn status_is_correct<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    here.filled(Tokens::new().of("a"), "alice").await?;
    for status in [here.0.status(), there.0.status()] {
        ensure!(
            !["", "none"].contains(&status.backend),
            "`backend` is {:?}, which names no cache",
            status.backend
        );
        ensure!(status.connected, "`connected` is false after a reply");
        ensure!(
            status.available <= status.size,
            "`available` is {}, above the `size` of {}",
            status.available,
            status.size
        );
    }
    Ok(())
}

async fn probe_is_correct<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let [copied, leased] = Tokens::named(["copied", "leased"]);
    here.filled(copied, "alice").await?;
    let held = here.lease(leased).await?;
    for node in [here, there] {
        let probe = in_time("probe", node.0.probe()).await?;
        let (ping, set, get) = (probe.ping, probe.set, probe.get);
        ensure!(
            probe.connected && ping.is_some() && set.is_some() && get.is_some(),
            "`probe` of a working cache reports: connected {}, PING {ping:?}, SET {set:?}, GET \
             {get:?}",
            probe.connected
        );
        if let Some(error) = probe.errors.first() {
            return Err(Failure::new(format!("`probe` of a working cache reports: {error}")));
        }
    }
    there.look_up(copied).await?.hit_of("alice").when("after `probe`")?;
    here.store(held, "bob").await.when("after `probe`")
}
