//! The fence, which keeps fills away while a session is being changed.

use session_layer::cache::FENCE;

use super::{
    Check, Instant, Nodes, Outcome, SessionCache, Tokens, When as _, dead, ensure, fence, filled,
    judged, lease, leased_again, look_up, refused, still_within, store,
};
use crate::conformance::check::checks;

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"fences":
        a_fence_keeps_fills_away: "Behind a fence nobody gets a lease, whether nothing was there, a lease, \
            a copy or a fence, and a lease from before it does not fill.",
        a_fence_lapses: "A fence keeps fills away for `FENCE` and no longer: then the lease is to be had, \
            and fills.",
    }
}

async fn a_fence_keeps_fills_away<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let tokens = Tokens::new();
    let [nothing, leased, copied] = ["nothing", "leased", "copied"].map(|name| tokens.of(name));
    filled(here, copied, "alice").await?;
    let late = lease(here, leased).await?;
    let began = Instant::now();
    fence(there, &[nothing, leased, copied]).await?;
    fence(there, &[nothing]).await.when("over a fence")?;
    refused(here, late, "old").await?;
    for node in [here, there] {
        for (what, digest) in [("nothing", nothing), ("a lease", leased)] {
            let found = look_up(node, digest).await?;
            still_within(FENCE, began, "a fence")?;
            found
                .not_to_fill()
                .when(format!("behind a fence where {what} was"))?;
        }
        // The copy may be served on or be gone: it is not the fence that ends it.
        let found = judged(node, copied, dead).await?;
        still_within(FENCE, began, "a fence")?;
        ensure!(
            !found.is_leased(),
            "behind a fence where a copy was, got a lease"
        );
    }
    Ok(())
}

async fn a_fence_lapses<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let asked = Instant::now();
    fence(there, &[a]).await?;
    let lease = leased_again(here, a, asked + FENCE, Instant::now() + FENCE).await?;
    store(here, lease, "alice").await
}
