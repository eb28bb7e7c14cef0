//! Checks of leases: the permission to fill one key once.

use std::sync::Arc;

use super::{
    Check, Held, Instant, LEASE_TTL, Node, Nodes, Outcome, SessionCache, TOLERANCE, Tokens,
    When as _, at_once, believe, ensure, on_several_threads, sleep, still_within,
};
use crate::conformance::check::checks;

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"leases":
        miss_grants_lease_that_fills: "A miss in `get` takes the lease. A fill under it is stored, \
            and every node then has a hit.",
        held_lease_blocks_other_fills: "While a lease is held, other look-ups get `DoNotFill`, and \
            the lease remains valid.",
        concurrent_misses_grant_one_lease: "Exactly one of many concurrent misses on all nodes \
            gets the lease.",
        duplicate_digest_gets_one_lease: "A digest that occurs twice in one look-up gets at most \
            one lease.",
        lease_lasts_exactly_its_ttl: "A lease lasts for `LEASE_TTL` and no longer. No other \
            look-up gets it before, another gets it after, and the late holder cannot fill any \
            more.",
        lapsed_lease_does_not_fill: "A fill after `LEASE_TTL` is refused, even if no other look-up \
            took the lease.",
        dropped_lease_lapses: "A lease may be dropped unused. It lapses after `LEASE_TTL`.",
        lost_leases_never_fill: "Every lease is unique. Lost leases of a key fill neither in place \
            of the current lease nor over its entry.",
    }
}

async fn miss_grants_lease_that_fills<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let lease = here.lease(a).await.when("after a miss")?;
    here.store(lease, "alice").await?;
    for node in [here, there] {
        node.look_up(a).await?.hit_of("alice").when("after a fill")?;
    }
    Ok(())
}

async fn held_lease_blocks_other_fills<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let held = here.lease(a).await?;
    for node in [there, here, there] {
        let second = node.look_up(a).await?;
        held.stands()?;
        second.not_to_fill().when("while another look-up has the lease")?;
    }
    here.store(held, "alice").await.when("after other look-ups")
}

async fn concurrent_misses_grant_one_lease<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    const ROUNDS: usize = 50;
    const LOOK_UPS: usize = 8;
    on_several_threads()?;
    nodes.connected().await?;
    let tokens = Tokens::new();
    for round in 0..ROUNDS {
        let a = tokens.of(&format!("round {round}"));
        let start = Arc::new(tokio::sync::Barrier::new(LOOK_UPS));
        let began = Instant::now();
        let look_ups = (0..LOOK_UPS).map(|number| {
            let node = Arc::clone([&nodes.here, &nodes.there][number % 2]);
            let start = Arc::clone(&start);
            async move {
                start.wait().await;
                Node(&*node).look_up(a).await
            }
        });
        let seen = at_once(look_ups).await?;
        // Otherwise the first lease may have lapsed before the last look-up.
        still_within(LEASE_TTL, began, "a lease")?;
        let leases = seen.iter().filter(|seen| seen.is_leased()).count();
        ensure!(leases == 1, "{leases} of {LOOK_UPS} concurrent misses got the lease");
        for seen in seen.iter().filter(|seen| !seen.is_leased()) {
            seen.not_to_fill()?;
        }
    }
    Ok(())
}

async fn duplicate_digest_gets_one_lease<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, _) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let seen = here.look_up_all(&[a, a], believe).await?;
    let leases = seen.iter().filter(|seen| seen.is_leased()).count();
    ensure!(leases == 1, "one look-up of a digest twice got {leases} leases");
    Ok(())
}

async fn lease_lasts_exactly_its_ttl<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let late = here.lease(a).await?;
    let (early, end) = (late.began + LEASE_TTL, Instant::now() + LEASE_TTL);
    let new = there.leased_again(a, early, end).await?;
    here.refused(late, "late").await?;
    there.store(new, "new").await?;
    here.look_up(a).await?.hit_of("new")?;
    Ok(())
}

async fn lapsed_lease_does_not_fill<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let late = here.lease(a).await?;
    // A look-up would take the lease, so the check must wait.
    sleep(LEASE_TTL + TOLERANCE).await;
    here.refused(late, "late").await?;
    there.look_up(a).await?.no_hit().when("after a late fill")
}

async fn dropped_lease_lapses<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    drop(here.lease(a).await?);
    // A cache may release the lease at once, which is better than required.
    let now = Instant::now();
    let lease = there.leased_again(a, now, now + LEASE_TTL).await?;
    there.store(lease, "alice").await
}

async fn lost_leases_never_fill<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    // More than fit into a one-byte nonce.
    const LOST: usize = 300;
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let mut lost = Vec::new();
    for _ in 0..LOST {
        lost.push(here.lease(a).await?);
        there.invalidate(&[a]).await?;
    }
    let over_a_copy = lost.split_off(LOST - 20);
    let tried = async |lost: Vec<Held<C::Lease>>| {
        let tries = lost.into_iter().map(|late| here.refused(late, "late"));
        futures_util::future::try_join_all(tries).await
    };
    let present = there.lease(a).await?;
    // Concurrently, because the current lease lasts for two seconds only.
    tried(lost).await.when("while another lease is held")?;
    there.store(present, "present").await.when("after fills under lost leases")?;
    tried(over_a_copy).await.when("over an entry")?;
    here.look_up(a).await?.hit_of("present").when("after fills under lost leases")?;
    Ok(())
}
