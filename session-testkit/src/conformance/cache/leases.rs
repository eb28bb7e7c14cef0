//! The right to fill one key, once.

use std::sync::Arc;

use super::{
    Check, Held, Instant, LEASE, Nodes, Outcome, SessionCache, TOLERANCE, Tokens, When as _,
    at_once, believe, ensure, invalidate, lease, leased_again, look_up, look_up_all,
    on_several_threads, refused, sleep, still_within, store,
};
use crate::conformance::check::checks;

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"leases":
        who_misses_gets_the_lease_and_fills: "Where there is nothing, `get` takes the lease; a fill under \
            it is stored, and from then on every node has a hit.",
        others_do_not_fill_meanwhile: "While the lease stands, others are told `DoNotFill`, and the lease \
            goes on being good.",
        of_many_at_once_one_gets_the_lease: "Of many that miss at the same time, on all nodes, exactly one \
            gets the lease.",
        one_look_up_takes_a_lease_once: "A digest that is twice in one look-up has one lease at most.",
        a_lease_stands_for_its_two_seconds: "A lease stands for `LEASE` and no longer: nobody else gets it \
            before, somebody does after, and who had it then fills no more.",
        a_lapsed_lease_does_not_fill: "A fill that comes after `LEASE` is refused, also where nobody took \
            the lease in the meantime.",
        a_dropped_lease_lapses: "Dropping a lease unused is safe: it lapses after `LEASE`.",
        no_lease_is_ever_good_twice: "Every lease is another one: of many that were taken for one key, and \
            lost, none fills in the place of the present one, nor over what that filled.",
    }
}

async fn who_misses_gets_the_lease_and_fills<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let lease = lease(here, a).await.when("where nothing is")?;
    store(here, lease, "alice").await?;
    for node in [here, there] {
        look_up(node, a)
            .await?
            .hit_of("alice")
            .when("after a fill")?;
    }
    Ok(())
}

async fn others_do_not_fill_meanwhile<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let held = lease(here, a).await?;
    for node in [there, here, there] {
        let second = look_up(node, a).await?;
        held.stands()?;
        second.not_to_fill().when("while somebody has the lease")?;
    }
    store(here, held, "alice")
        .await
        .when("after others had asked")
}

async fn of_many_at_once_one_gets_the_lease<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    const ROUNDS: usize = 50;
    const ASKERS: usize = 8;
    on_several_threads()?;
    nodes.connected().await?;
    let tokens = Tokens::new();
    for round in 0..ROUNDS {
        let a = tokens.of(&format!("round {round}"));
        let start = Arc::new(tokio::sync::Barrier::new(ASKERS));
        let began = Instant::now();
        let askers = (0..ASKERS).map(|number| {
            let node = [&nodes.here, &nodes.there][number % 2];
            let node = Arc::clone(node);
            let start = Arc::clone(&start);
            async move {
                start.wait().await;
                look_up(&*node, a).await
            }
        });
        let seen = at_once(askers).await?;
        // Else the first one's may have lapsed before the last one asked.
        still_within(LEASE, began, "a lease")?;
        let leases = seen.iter().filter(|seen| seen.is_leased()).count();
        ensure!(
            leases == 1,
            "of {ASKERS} that missed at the same time, {leases} got the lease"
        );
        for seen in seen.iter().filter(|seen| !seen.is_leased()) {
            seen.not_to_fill()?;
        }
    }
    Ok(())
}

async fn one_look_up_takes_a_lease_once<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, _) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let seen = look_up_all(here, &[a, a], believe).await?;
    let leases = seen.iter().filter(|seen| seen.is_leased()).count();
    ensure!(
        leases == 1,
        "one look-up of twice the same digest gave {leases} leases"
    );
    Ok(())
}

async fn a_lease_stands_for_its_two_seconds<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let late = lease(here, a).await?;
    let (early, end) = (late.asked + LEASE, Instant::now() + LEASE);
    let new = leased_again(there, a, early, end).await?;
    refused(here, late, "late").await?;
    store(there, new, "new").await?;
    look_up(here, a).await?.hit_of("new")?;
    Ok(())
}

async fn a_lapsed_lease_does_not_fill<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let late = lease(here, a).await?;
    // To look would be to take the lease, so here only time can tell.
    sleep(LEASE + TOLERANCE).await;
    refused(here, late, "late").await?;
    look_up(there, a).await?.no_hit().when("after a late fill")
}

async fn a_dropped_lease_lapses<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    drop(lease(here, a).await?);
    // A cache that gives it back at once does better than was asked.
    let now = Instant::now();
    let lease = leased_again(there, a, now, now + LEASE).await?;
    store(there, lease, "alice").await
}

async fn no_lease_is_ever_good_twice<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    // More than a byte can number.
    const LOST: usize = 300;
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let mut lost = Vec::new();
    for _ in 0..LOST {
        lost.push(lease(here, a).await?);
        invalidate(there, &[a]).await?;
    }
    let over_a_copy = lost.split_off(LOST - 20);
    let tried = async |lost: Vec<Held<C::Lease>>| {
        let tries = lost.into_iter().map(|late| refused(here, late, "late"));
        futures_util::future::try_join_all(tries).await
    };
    let present = lease(there, a).await?;
    // All at once: the present lease stands for two seconds only.
    tried(lost).await.when("while another one stands")?;
    store(there, present, "present")
        .await
        .when("after tries under lost leases")?;
    tried(over_a_copy).await.when("over a copy")?;
    look_up(here, a)
        .await?
        .hit_of("present")
        .when("after tries under lost leases")?;
    Ok(())
}
