//! Checks of many keys: they are independent, and results are in order.

use super::{
    Check, Entry, EntryVerdict, Held, Instant, LEASE_TTL, Lookup, Nodes, Outcome, SessionCache,
    TokenDigest, Tokens, When as _, believe, still_within,
};
use crate::conformance::check::{checks, ensure_eq};

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"keys":
        results_match_the_order_of_digests: "A look-up of many digests returns one result for \
            each, in order, for a hit, a miss, a rejected entry, another lease and a fence.",
        keys_are_independent: "Digests are bytes. Two digests that differ in any bit are \
            independent. The bit may be the first, the last, or in a byte with a meaning in texts.",
        lease_fills_only_its_own_key: "A lease fills only its own digest, even if one look-up took \
            several leases.",
    }
}

async fn results_match_the_order_of_digests<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let names = ["alice", "none", "dead", "held", "fenced", "bob", "none too"];
    let digests = Tokens::named(names);
    let [alice, _, dead, held, fenced, bob, _] = digests;
    for (digest, user) in [(alice, "alice"), (dead, "dead"), (bob, "bob")] {
        here.filled(digest, user).await?;
    }
    there.fence(&[fenced]).await?;
    let began = Instant::now();
    let _held = there.lease(held).await?;
    let judge = |entry: &Entry| match entry.session.user_id() {
        "dead" => EntryVerdict::Stale,
        _ => EntryVerdict::Fresh,
    };
    let seen = here.look_up_all(&digests, judge).await?;
    still_within(LEASE_TTL, began, "a lease")?;
    let kinds: Vec<_> = seen
        .iter()
        .map(|seen| match &seen.answer {
            Lookup::Hit(entry) => entry.session.user_id(),
            Lookup::Leased(_) => "lease",
            Lookup::DoNotFill => "do not fill",
            _ => "an error",
        })
        .collect();
    ensure_eq!(
        "the results for a hit, a miss, a rejected entry, another lease, a fence, a hit, a miss",
        kinds,
        ["alice", "lease", "lease", "do not fill", "do not fill", "bob", "lease"]
    );
    // The leases are in order too.
    for ((digest, name), seen) in digests.into_iter().zip(names).zip(seen) {
        if seen.is_leased() {
            here.store(seen.leased()?, name).await.when(name)?;
            there.look_up(digest).await?.hit_of(name)?;
        }
    }
    Ok(())
}

async fn keys_are_independent<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let base = *Tokens::new().of("base").as_bytes();
    let mut digests = vec![base];
    for byte in 0..base.len() {
        for value in [base[byte] ^ 0x01, base[byte] ^ 0x20, base[byte] ^ 0x80] {
            let mut other = base;
            other[byte] = value;
            digests.push(other);
        }
    }
    for special in [0, b'\n', b'\r', b' ', b'*', b'?', b'{', b'}', b'/', 0xff] {
        let mut other = base;
        other[20..].fill(special);
        digests.push(other);
    }
    let digests: Vec<_> = digests.into_iter().map(TokenDigest::from_bytes).collect();
    let user = |number: usize| format!("user {number}");
    for (number, digest) in digests.iter().enumerate() {
        here.filled(*digest, &user(number)).await.when("under a new digest")?;
    }
    let (gone, kept) = (digests[1], 2);
    there.invalidate(&[gone]).await?;
    for (number, digest) in digests.iter().enumerate().filter(|(_, it)| **it != gone) {
        there.look_up(*digest).await?.hit_of(&user(number)).when("under its own key")?;
    }
    here.look_up(gone).await?.no_hit()?;
    there.fence(&digests[..1]).await?;
    here.look_up(digests[kept]).await?.hit_of(&user(kept)).when("next to a fence")?;
    Ok(())
}

async fn lease_fills_only_its_own_key<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let digests = Tokens::named(["a", "b", "c"]);
    let mut leases = Vec::new();
    for seen in here.look_up_all(&digests, believe).await? {
        leases.push(seen.leased()?);
    }
    // The last lease first.
    if let Some(last) = leases.pop() {
        here.store(last, "c").await?;
    }
    for digest in [digests[0], digests[1]] {
        let found = there.look_up(digest).await?;
        leases.iter().try_for_each(Held::stands)?;
        found.not_to_fill().when("under a key with an unused lease")?;
    }
    for (held, user) in leases.into_iter().zip(["a", "b"]) {
        here.store(held, user).await?;
    }
    for (digest, user) in digests.into_iter().zip(["a", "b", "c"]) {
        there.look_up(digest).await?.hit_of(user)?;
    }
    Ok(())
}
