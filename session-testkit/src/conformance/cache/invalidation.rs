//! Checks of invalidation. It removes the lease too, so that an older read cannot fill afterwards.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Check, LONG, Node, Nodes, Outcome, SessionCache, Tokens, When as _, at_once, believe, entry,
    on_several_threads,
};
use crate::conformance::check::{answer, checks};

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"invalidation":
        invalidate_removes_entries: "`invalidate` removes the entries of all given digests on \
            every node, and no others. A digest without an entry is no error.",
        invalidate_removes_leases: "`invalidate` removes leases. A read from before it cannot fill \
            afterwards, neither an empty key nor over a newer entry.",
        invalidate_removes_fences: "`invalidate` removes fences. The next miss gets the lease.",
        invalidate_wins_over_concurrent_fill: "After a concurrent fill and `invalidate`, no entry \
            is left, whichever came first.",
        empty_digest_list_is_no_error: "`get`, `fence` and `invalidate` without digests have no \
            effect and are no errors.",
    }
}

async fn invalidate_removes_entries<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let [a, b, nothing, kept] = Tokens::named(["a", "b", "nothing", "kept"]);
    for digest in [a, b, kept] {
        here.filled(digest, "alice").await?;
    }
    there.invalidate(&[a, nothing, b]).await?;
    for digest in [a, b] {
        for node in [here, there] {
            node.look_up(digest).await?.no_hit().when("after `invalidate` returned")?;
        }
    }
    here.look_up(kept).await?.hit_of("alice").when("an entry of another digest")?;
    here.invalidate(&[a]).await?;
    here.invalidate(&[a]).await.when("a second time")?;
    Ok(())
}

async fn invalidate_removes_leases<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let [a, b] = Tokens::named(["a", "b"]);

    let late = here.lease(a).await?;
    there.invalidate(&[a]).await?;
    here.refused(late, "old").await?;
    there.look_up(a).await?.no_hit().when("after a late fill")?;

    let late = here.lease(b).await?;
    there.invalidate(&[b]).await?;
    let new = there.lease(b).await.when("after `invalidate`")?;
    here.refused(late, "old").await?;
    there.store(new, "new").await?;
    here.look_up(b).await?.hit_of("new")?;
    Ok(())
}

async fn invalidate_removes_fences<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    there.fence(&[a]).await?;
    there.invalidate(&[a]).await?;
    here.look_up(a).await?.leased().when("after a fence and `invalidate`")?;
    Ok(())
}

async fn invalidate_wins_over_concurrent_fill<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    const ROUNDS: usize = 200;
    on_several_threads()?;
    let (here, _) = nodes.connected().await?;
    let tokens = Tokens::new();
    for round in 0..ROUNDS {
        let a = tokens.of(&round.to_string());
        let held = here.lease(a).await?;
        let start = Arc::new(tokio::sync::Barrier::new(2));
        let filling = {
            let (node, start) = (Arc::clone(&nodes.here), Arc::clone(&start));
            async move {
                start.wait().await;
                Node(&*node).fill(held, &entry("old"), LONG).await?;
                Ok(())
            }
        };
        let invalidating = {
            let node = Arc::clone(&nodes.there);
            // Alternately at once and slightly later, because one of two concurrent tasks may
            // always win.
            let later = Duration::from_millis(u64::from(round % 2 == 1));
            async move {
                start.wait().await;
                tokio::time::sleep(later).await;
                Node(&*node).invalidate(&[a]).await?;
                Ok(())
            }
        };
        let both: [std::pin::Pin<Box<dyn Future<Output = Outcome> + Send>>; 2] =
            [Box::pin(filling), Box::pin(invalidating)];
        at_once(both).await?;
        here.look_up(a).await?.no_hit().when("after a fill concurrent with `invalidate`")?;
    }
    Ok(())
}

async fn empty_digest_list_is_no_error<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, _) = nodes.connected().await?;
    here.look_up_all(&[], believe).await?;
    answer("fence", here.0.fence(&[])).await?;
    answer("invalidate", here.0.invalidate(&[])).await?;
    Ok(())
}
