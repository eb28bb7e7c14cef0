//! What ends a copy ends the lease with it: a read that is older than the change can't be filled in after.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Check, LONG, Nodes, Outcome, SessionCache, Tokens, When as _, at_once, believe, entry, fence,
    fill, filled, invalidate, lease, look_up, look_up_all, on_several_threads, refused, store,
};
use crate::conformance::check::{answer, checks};

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"invalidation":
        it_removes_copies: "`invalidate` removes the copies under all the digests it is given, for every \
            node, and no others; where nothing is, it is no error.",
        it_removes_leases: "`invalidate` removes leases: a read that began before it can't be filled in \
            after it, neither where nothing came since nor over what came since.",
        it_removes_fences: "`invalidate` removes fences: whoever misses then gets the lease.",
        it_wins_over_a_fill_beside_it: "Of a fill and an `invalidate` at the same time, whichever comes \
            first, no copy is left once both are answered.",
        of_nothing_it_is_no_error: "`get`, `fence` and `invalidate` of no digests do nothing, and that is no \
            error.",
    }
}

async fn it_removes_copies<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let tokens = Tokens::new();
    let [a, b, nothing, kept] = ["a", "b", "nothing", "kept"].map(|name| tokens.of(name));
    for digest in [a, b, kept] {
        filled(here, digest, "alice").await?;
    }
    invalidate(there, &[a, nothing, b]).await?;
    for digest in [a, b] {
        for node in [here, there] {
            look_up(node, digest)
                .await?
                .no_hit()
                .when("after `invalidate` was answered")?;
        }
    }
    look_up(here, kept)
        .await?
        .hit_of("alice")
        .when("a copy that was not named")?;
    invalidate(here, &[a]).await?;
    invalidate(here, &[a]).await.when("a second time")?;
    Ok(())
}

async fn it_removes_leases<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let tokens = Tokens::new();
    let [a, b] = ["a", "b"].map(|name| tokens.of(name));

    let late = lease(here, a).await?;
    invalidate(there, &[a]).await?;
    refused(here, late, "old").await?;
    look_up(there, a)
        .await?
        .no_hit()
        .when("after a fill that came too late")?;

    let late = lease(here, b).await?;
    invalidate(there, &[b]).await?;
    let new = lease(there, b).await.when("after `invalidate`")?;
    refused(here, late, "old").await?;
    store(there, new, "new").await?;
    look_up(here, b).await?.hit_of("new")?;
    Ok(())
}

async fn it_removes_fences<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    fence(there, &[a]).await?;
    invalidate(there, &[a]).await?;
    look_up(here, a)
        .await?
        .leased()
        .when("after a fence and `invalidate`")?;
    Ok(())
}

async fn it_wins_over_a_fill_beside_it<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
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
            // At once, and somewhat later: of two tasks that wait for each other the same one may always go first.
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
        look_up(here, a)
            .await?
            .no_hit()
            .when("after a fill beside an `invalidate`")?;
    }
    Ok(())
}

async fn of_nothing_it_is_no_error<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, _) = nodes.connected().await?;
    look_up_all(here, &[], believe).await?;
    answer("fence", here.fence(&[])).await?;
    answer("invalidate", here.invalidate(&[])).await?;
    Ok(())
}
