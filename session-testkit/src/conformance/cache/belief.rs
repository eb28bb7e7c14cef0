//! What the reading node makes of a copy, and what that does to it.
//!
//! For each value of `Belief` there is what becomes of the copy and of the caller. A new one has a line in
//! `checks` and a function.

use std::sync::{Mutex, PoisonError};

use super::{
    Belief, Check, Failure, Lookup, Nodes, Outcome, Seen, SessionCache, TokenDigest, Tokens,
    When as _, dead, ensure, filled, invalidate, judged, lease, look_up, on_several_threads,
    refused, store,
};
use crate::conformance::check::{checks, ensure_eq};

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"belief":
        what_is_believed_is_served_and_stays: "`Believed`: the copy is served, to one node after the other, \
            and `judge` was asked about that very copy.",
        a_dead_copy_gives_way_to_a_lease: "`Dead`: the copy is not served; the lease takes its place, so \
            nobody else is served it either, and the fill replaces it.",
        another_stores_copy_gives_way_too: "`Foreign` is `Dead`, and counted if the cache counts: the copy is \
            not served, the lease takes its place, and the fill replaces it.",
        a_copy_it_is_unsure_of_stays: "`Unsure`: the copy is not served, no lease is given out, and the copy \
            is left where it is, for whoever believes it.",
        only_the_copy_that_was_judged_gives_way: "A lease replaces a dead copy by compare-and-set: what \
            came in its place since it was judged, a newer copy or somebody's lease, stays.",
    }
}

async fn what_is_believed_is_served_and_stays<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    filled(here, a, "alice").await?;
    for node in [here, there, here] {
        let judged_of = Mutex::new(Vec::new());
        let found = judged(node, a, |entry| {
            if let Ok(mut judged_of) = judged_of.lock() {
                judged_of.push(entry.session.user_id().to_owned());
            }
            Belief::Believed
        })
        .await?;
        found.hit_of("alice").when("a copy that is believed")?;
        let judged_of = judged_of.into_inner().unwrap_or_default();
        ensure_eq!("what `judge` was asked about", judged_of, ["alice"]);
    }
    Ok(())
}

async fn a_dead_copy_gives_way_to_a_lease<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let tokens = Tokens::new();
    let [a, b] = ["a", "b"].map(|name| tokens.of(name));
    filled(here, a, "old").await?;
    let held = judged(here, a, dead).await?.leased().when("a dead copy")?;
    for node in [there, here] {
        let found = look_up(node, a).await?;
        held.stands()?;
        found.not_to_fill().when("in the place of a dead copy")?;
    }
    store(here, held, "new").await?;
    look_up(there, a).await?.hit_of("new")?;

    // It is a lease as any other.
    filled(here, b, "old").await?;
    let late = judged(here, b, dead).await?.leased()?;
    invalidate(there, &[b]).await?;
    refused(here, late, "late").await
}

async fn another_stores_copy_gives_way_too<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    filled(here, a, "another store's").await?;
    let found = judged(here, a, |_| Belief::Foreign).await?;
    let held = found.leased().when("another store's copy")?;
    store(here, held, "new").await?;
    look_up(there, a).await?.hit_of("new")?;
    Ok(())
}

async fn a_copy_it_is_unsure_of_stays<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    filled(here, a, "alice").await?;
    for node in [here, there] {
        let found = judged(node, a, |_| Belief::Unsure).await?;
        found
            .not_to_fill()
            .when("a copy that the node is unsure of")?;
    }
    for node in [here, there] {
        look_up(node, a)
            .await?
            .hit_of("alice")
            .when("a copy that another node was unsure of")?;
    }
    Ok(())
}

async fn only_the_copy_that_was_judged_gives_way<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    on_several_threads()?;
    let (here, there) = nodes.connected().await?;
    let tokens = Tokens::new();
    let [a, b] = ["a", "b"].map(|name| tokens.of(name));

    // In the middle of the judgement, the other node replaces the copy.
    filled(here, a, "old").await?;
    let found = overtaken(here, a, async {
        invalidate(there, &[a]).await?;
        filled(there, a, "newer").await
    })
    .await?;
    ensure!(
        !matches!(found.answer, Lookup::Leased(_) | Lookup::Hit(_)),
        "for a copy that was judged dead and replaced meanwhile, got {}",
        found.told()
    );
    look_up(here, a)
        .await?
        .hit_of("newer")
        .when("the copy that came in between")?;

    // The same with a lease.
    filled(here, b, "old").await?;
    let held = Mutex::new(None);
    let found = overtaken(here, b, async {
        invalidate(there, &[b]).await?;
        let taken = lease(there, b).await?;
        if let Ok(mut held) = held.lock() {
            *held = Some(taken);
        }
        Ok(())
    })
    .await?;
    let held = held.into_inner().ok().flatten();
    let held = held.ok_or_else(|| Failure::new("`judge` was not asked"))?;
    held.stands()?;
    ensure!(
        !matches!(found.answer, Lookup::Leased(_) | Lookup::Hit(_)),
        "for a dead copy in whose place somebody took the lease meanwhile, got {}",
        found.told()
    );
    store(there, held, "new")
        .await
        .when("under the lease that was taken in between")
}

/// A look-up that calls the copy dead, after `meanwhile` has happened.
async fn overtaken<C: SessionCache>(
    cache: &C,
    digest: TokenDigest,
    meanwhile: impl Future<Output = Outcome> + Send,
) -> Outcome<Seen<C::Lease>> {
    let meanwhile = Mutex::new(Some(Box::pin(meanwhile)));
    let outcome = Mutex::new(Ok(()));
    let runtime = tokio::runtime::Handle::current();
    let found = judged(cache, digest, |_| {
        let first = meanwhile.lock().ok().and_then(|mut it| it.take());
        if let (Some(meanwhile), Ok(mut outcome)) = (first, outcome.lock()) {
            // The judge is no async function: this thread waits, others see to the rest.
            *outcome = tokio::task::block_in_place(|| runtime.block_on(meanwhile));
        }
        Belief::Dead
    })
    .await?;
    outcome
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .when("while a copy was judged")?;
    Ok(found)
}
