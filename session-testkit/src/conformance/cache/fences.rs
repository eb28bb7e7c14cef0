//! Checks of fences, which prevent fills while a session is changed.

use session_layer::cache::FENCE_TTL;

use super::{
    Check, Instant, Nodes, Outcome, SessionCache, Tokens, When as _, dead, ensure, still_within,
};
use crate::conformance::check::checks;

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"fences":
        fence_prevents_fills: "Under a fence no look-up gets a lease, whether the key had nothing, \
            a lease, an entry or a fence. An earlier lease does not fill.",
        fence_lapses: "A fence prevents fills for `FENCE_TTL` and no longer. A miss then gets the \
            lease, and fills.",
    }
}

async fn fence_prevents_fills<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let [nothing, leased, copied] = Tokens::named(["nothing", "leased", "copied"]);
    here.filled(copied, "alice").await?;
    let late = here.lease(leased).await?;
    let began = Instant::now();
    there.fence(&[nothing, leased, copied]).await?;
    there.fence(&[nothing]).await.when("over a fence")?;
    here.refused(late, "old").await?;
    for node in [here, there] {
        for (what, digest) in [("nothing", nothing), ("a lease", leased)] {
            let found = node.look_up(digest).await?;
            still_within(FENCE_TTL, began, "a fence")?;
            found.not_to_fill().when(format!("under a fence over {what}"))?;
        }
        // The entry may be served or be gone, because a fence need not remove it.
        let found = node.judged(copied, dead).await?;
        still_within(FENCE_TTL, began, "a fence")?;
        ensure!(!found.is_leased(), "a look-up under a fence over an entry got a lease");
    }
    Ok(())
}

async fn fence_lapses<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let began = Instant::now();
    there.fence(&[a]).await?;
    let lease = here.leased_again(a, began + FENCE_TTL, Instant::now() + FENCE_TTL).await?;
    here.store(lease, "alice").await
}
