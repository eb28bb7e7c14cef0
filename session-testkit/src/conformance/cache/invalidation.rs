//! Checks of invalidation. It removes the lease too, so that an older read cannot fill afterwards.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Check, LONG, Nodes, Outcome, SessionCache, Tokens, When as _, at_once, believe, entry, fence,
    fill, filled, invalidate, lease, look_up, look_up_all, on_several_threads, refused, store,
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
        filled(here, digest, "alice").await?;
    }
    invalidate(there, &[a, nothing, b]).await?;
    for digest in [a, b] {
        for node in [here, there] {
            look_up(node, digest).await?.no_hit().when("after `invalidate` returned")?;
        }
    }
    look_up(here, kept).await?.hit_of("alice").when("an entry of another digest")?;
    invalidate(here, &[a]).await?;
    invalidate(here, &[a]).await.when("a second time")?;
    Ok(())
}

async fn invalidate_removes_leases<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let [a, b] = Tokens::named(["a", "b"]);

    let late = lease(here, a).await?;
    invalidate(there, &[a]).await?;
    refused(here, late, "old").await?;
    look_up(there, a).await?.no_hit().when("after a late fill")?;

    let late = lease(here, b).await?;
    invalidate(there, &[b]).await?;
    let new = lease(there, b).await.when("after `invalidate`")?;
    refused(here, late, "old").await?;
    store(there, new, "new").await?;
    look_up(here, b).await?.hit_of("new")?;
    Ok(())
}

async fn invalidate_removes_fences<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    fence(there, &[a]).await?;
    invalidate(there, &[a]).await?;
    look_up(here, a).await?.leased().when("after a fence and `invalidate`")?;
    Ok(())
}

async fn invalidate_wins_over_concurrent_fill<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    const ROUNDS: usize = 200;
    on_several_threads()?;
    let (here, _) = nodes.connected().await?;
    let tokens = Tokens::new();
    for round in 0..ROUNDS {
        let a = tokens.of(&round.to_string());
        let held = lease(here, a).await?;
        let start = Arc::new(tokio::sync::Barrier::new(2));
        let filling = {
            let (node, start) = (Arc::clone(&nodes.here), Arc::clone(&start));
            async move {
                start.wait().await;
                fill(&*node, held, &entry("old"), LONG).await?;
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
                invalidate(&*node, &[a]).await?;
                Ok(())
            }
        };
        let both: [std::pin::Pin<Box<dyn Future<Output = Outcome> + Send>>; 2] =
            [Box::pin(filling), Box::pin(invalidating)];
        at_once(both).await?;
        look_up(here, a).await?.no_hit().when("after a fill concurrent with `invalidate`")?;
    }
    Ok(())
}

async fn empty_digest_list_is_no_error<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, _) = nodes.connected().await?;
    look_up_all(here, &[], believe).await?;
    answer("fence", here.fence(&[])).await?;
    answer("invalidate", here.invalidate(&[])).await?;
    Ok(())
}
