//! What a cache says about itself.

use super::{
    Check, Failure, Nodes, Outcome, SessionCache, Tokens, When as _, ensure, filled, in_time,
    lease, look_up, store,
};
use crate::conformance::check::checks;

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"truth":
        status_tells_the_truth: "`status` names the backend, says `connected` of a cache that answers, and \
            its numbers fit together.",
        probe_tells_the_truth: "`probe` really pings, sets and gets: of a cache that answers it says \
            `connected`, how long each took, and no error; it leaves copies and leases alone.",
    }
}

async fn status_tells_the_truth<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    filled(here, Tokens::new().of("a"), "alice").await?;
    for status in [here.status(), there.status()] {
        ensure!(
            !["", "none"].contains(&status.backend),
            "`backend` is {:?}, which is the name of no cache",
            status.backend
        );
        ensure!(status.connected, "after an answer, `connected` is false");
        ensure!(
            status.available <= status.size,
            "`available` is {}, of a `size` of {}",
            status.available,
            status.size
        );
    }
    Ok(())
}

async fn probe_tells_the_truth<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let tokens = Tokens::new();
    let [copied, leased] = ["copied", "leased"].map(|name| tokens.of(name));
    filled(here, copied, "alice").await?;
    let held = lease(here, leased).await?;
    for node in [here, there] {
        let probe = in_time("probe", node.probe()).await?;
        let (ping, set, get) = (probe.ping, probe.set, probe.get);
        ensure!(
            probe.connected && ping.is_some() && set.is_some() && get.is_some(),
            "of a cache that answers, `probe` says: connected {}, PING {ping:?}, SET {set:?}, GET {get:?}",
            probe.connected
        );
        if let Some(error) = probe.errors.first() {
            return Err(Failure::new(format!(
                "of a cache that answers, `probe` says: {error}"
            )));
        }
    }
    look_up(there, copied)
        .await?
        .hit_of("alice")
        .when("after `probe`")?;
    store(here, held, "bob").await.when("after `probe`")
}
