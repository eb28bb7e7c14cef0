//! Checks of the node's verdict on an entry, and of its effect.
//!
//! For each value of `EntryVerdict`, a check states what happens to the entry and to the caller.

use std::sync::{Mutex, PoisonError};

use super::{
    Check, EntryVerdict, Failure, Lookup, Node, Nodes, Outcome, Seen, SessionCache, TokenDigest,
    Tokens, When as _, dead, ensure, on_several_threads,
};
use crate::conformance::check::{checks, ensure_eq};

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"freshness":
        fresh_entry_is_served_and_stays: "`Fresh`: the entry is served to each node, and \
            `judge` was called with that entry.",
        rejected_entry_is_replaced_by_lease: "`Stale`: the entry is not served. A lease replaces \
            it, so that no other node is served it either, and the fill replaces the lease.",
        foreign_entry_is_replaced_by_lease: "`Foreign` is `Stale`, and counted if the cache \
            counts. The entry is not served, a lease replaces it, and the fill replaces the lease.",
        undecided_entry_stays: "`Unverified`: the entry is not served, no lease is granted, and \
            the entry stays for nodes that consider it fresh.",
        only_the_judged_entry_is_replaced: "A lease replaces a rejected entry by compare-and-set. \
            A newer entry or another lease that replaced it meanwhile stays.",
    }
}

async fn fresh_entry_is_served_and_stays<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    here.filled(a, "alice").await?;
    for node in [here, there, here] {
        let judged_users = Mutex::new(Vec::new());
        let found = node
            .judged(a, |entry| {
                if let Ok(mut users) = judged_users.lock() {
                    users.push(entry.session.user_id().to_owned());
                }
                EntryVerdict::Fresh
            })
            .await?;
        found.hit_of("alice").when("a fresh entry")?;
        let users = judged_users.into_inner().unwrap_or_default();
        ensure_eq!("the entries that `judge` was called with", users, ["alice"]);
    }
    Ok(())
}

async fn rejected_entry_is_replaced_by_lease<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let [a, b] = Tokens::named(["a", "b"]);
    here.filled(a, "old").await?;
    let held = here.judged(a, dead).await?.leased().when("a rejected entry")?;
    for node in [there, here] {
        let found = node.look_up(a).await?;
        held.stands()?;
        found.not_to_fill().when("after a lease replaced a rejected entry")?;
    }
    here.store(held, "new").await?;
    there.look_up(a).await?.hit_of("new")?;

    // It is a lease like any other.
    here.filled(b, "old").await?;
    let late = here.judged(b, dead).await?.leased()?;
    there.invalidate(&[b]).await?;
    here.refused(late, "late").await
}

async fn foreign_entry_is_replaced_by_lease<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    here.filled(a, "another store's").await?;
    let found = here.judged(a, |_| EntryVerdict::Foreign).await?;
    let held = found.leased().when("another store's copy")?;
    here.store(held, "new").await?;
    there.look_up(a).await?.hit_of("new")?;
    Ok(())
}

async fn undecided_entry_stays<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    here.filled(a, "alice").await?;
    for node in [here, there] {
        let found = node.judged(a, |_| EntryVerdict::Unverified).await?;
        found.not_to_fill().when("an undecided entry")?;
    }
    for node in [here, there] {
        node.look_up(a)
            .await?
            .hit_of("alice")
            .when("after an undecided verdict of another node")?;
    }
    Ok(())
}

async fn only_the_judged_entry_is_replaced<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    on_several_threads()?;
    let (here, there) = nodes.connected().await?;
    let [a, b] = Tokens::named(["a", "b"]);

    // During the verdict, the other node replaces the entry.
    here.filled(a, "old").await?;
    let found = overtaken(here, a, async {
        there.invalidate(&[a]).await?;
        there.filled(a, "newer").await
    })
    .await?;
    ensure!(
        !matches!(found.answer, Lookup::Leased(_) | Lookup::Hit(_)),
        "a look-up got {} for a rejected entry that was replaced meanwhile",
        found.describe()
    );
    here.look_up(a).await?.hit_of("newer").when("the entry that replaced it")?;

    // The same with a lease.
    here.filled(b, "old").await?;
    let held = Mutex::new(None);
    let found = overtaken(here, b, async {
        there.invalidate(&[b]).await?;
        let taken = there.lease(b).await?;
        if let Ok(mut held) = held.lock() {
            *held = Some(taken);
        }
        Ok(())
    })
    .await?;
    let held = held.into_inner().ok().flatten();
    let held = held.ok_or_else(|| Failure::new("`judge` was not called"))?;
    held.stands()?;
    ensure!(
        !matches!(found.answer, Lookup::Leased(_) | Lookup::Hit(_)),
        "a look-up got {} for a rejected entry that another lease replaced meanwhile",
        found.describe()
    );
    there.store(held, "new").await.when("under the lease that replaced the entry")
}

/// Looks up a digest and rejects its entry, after `meanwhile` has run during the verdict.
async fn overtaken<C: SessionCache>(
    node: Node<'_, C>,
    digest: TokenDigest,
    meanwhile: impl Future<Output = Outcome> + Send,
) -> Outcome<Seen<C::Lease>> {
    let meanwhile = Mutex::new(Some(Box::pin(meanwhile)));
    let outcome = Mutex::new(Ok(()));
    let runtime = tokio::runtime::Handle::current();
    let found = node
        .judged(digest, |_| {
            let first = meanwhile.lock().ok().and_then(|mut it| it.take());
            if let (Some(meanwhile), Ok(mut outcome)) = (first, outcome.lock()) {
                // The judge is synchronous: this thread waits, and other threads execute the rest.
                *outcome = tokio::task::block_in_place(|| runtime.block_on(meanwhile));
            }
            EntryVerdict::Stale
        })
        .await?;
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner).when("during the verdict")?;
    Ok(found)
}
