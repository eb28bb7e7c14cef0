use super::*;
use crate::model::clock::Timestamp;
use crate::model::session::{SessionId, SessionParts};

const LONG: Duration = Duration::from_secs(3600);

fn entry(user: &str) -> Entry {
    let at = Timestamp::from_micros(1);
    Entry {
        session: SessionParts::new(SessionId::from_bytes([1; 16]), user, at).into(),
        user_epoch: 0,
        store_id: [0; 16],
        xmin: 0,
        read_at: at,
        not_after: at,
    }
}

fn judge_fresh(_: &Entry) -> EntryVerdict {
    EntryVerdict::Fresh
}

fn judge_dead(_: &Entry) -> EntryVerdict {
    EntryVerdict::Stale
}

async fn get(cache: &MemoryCache, name: &str) -> Lookup<MemoryLease> {
    cache.get(&[TokenDigest::of(name)], &judge_fresh).await.remove(0)
}

#[track_caller]
fn leased(lookup: Lookup<MemoryLease>) -> MemoryLease {
    match lookup {
        Lookup::Leased(lease) => lease,
        other => panic!("expected a lease: {other:?}"),
    }
}

#[track_caller]
fn user(lookup: Lookup<MemoryLease>) -> String {
    match lookup {
        Lookup::Hit(entry) => entry.session.user_id().to_owned(),
        other => panic!("expected a hit: {other:?}"),
    }
}

async fn filled(cache: &MemoryCache, name: &str) {
    let lease = leased(get(cache, name).await);
    let fill = cache.fill(lease, &entry(name), LONG).await;
    assert_eq!(fill.unwrap(), Filled::Stored);
}

/// Waits up to 5 s for the lease of `name`.
async fn until_leased(cache: &MemoryCache, name: &str) -> MemoryLease {
    for _ in 0..500 {
        if let Lookup::Leased(lease) = get(cache, name).await {
            return lease;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the lease was not granted within 5 s");
}

#[tokio::test]
async fn miss_gets_the_lease_and_fills() {
    let cache = MemoryCache::new(100);
    let lease = leased(get(&cache, "a").await);
    assert!(matches!(get(&cache, "a").await, Lookup::DoNotFill));
    let fill = cache.fill(lease, &entry("a"), LONG).await;
    assert_eq!(fill.unwrap(), Filled::Stored);
    assert_eq!(user(get(&cache, "a").await), "a");
    let both = [TokenDigest::of("b"), TokenDigest::of("a")];
    let found = cache.clone().get(&both, &judge_fresh).await;
    assert!(matches!(found[..], [Lookup::Leased(_), Lookup::Hit(_)]));
}

#[tokio::test]
async fn a_fill_after_an_invalidation_is_refused() {
    let cache = MemoryCache::new(100);
    let late = leased(get(&cache, "a").await);
    let gone = cache.invalidate(&[TokenDigest::of("a")]).await;
    assert_eq!(gone.unwrap(), Invalidated::InThisProcess);
    let fill = cache.fill(late, &entry("old"), LONG).await;
    assert_eq!(fill.unwrap(), Filled::Refused);
    // It does not fill under another client's lease either.
    let late = leased(get(&cache, "a").await);
    cache.invalidate(&[TokenDigest::of("a")]).await.unwrap();
    let new = leased(get(&cache, "a").await);
    let fill = cache.fill(late, &entry("old"), LONG).await;
    assert_eq!(fill.unwrap(), Filled::Refused);
    let fill = cache.fill(new, &entry("new"), LONG).await;
    assert_eq!(fill.unwrap(), Filled::Stored);
    assert_eq!(user(get(&cache, "a").await), "new");
}

#[tokio::test]
async fn fence_prevents_fills_until_it_expires() {
    let span = Duration::from_millis(50);
    let cache = MemoryCache::with_spans(100, LEASE_TTL, span);
    let late = leased(get(&cache, "a").await);
    cache.fence(&[TokenDigest::of("a")]).await.unwrap();
    assert!(matches!(get(&cache, "a").await, Lookup::DoNotFill));
    let fill = cache.fill(late, &entry("old"), LONG).await;
    assert_eq!(fill.unwrap(), Filled::Refused);
    until_leased(&cache, "a").await;
}

#[tokio::test]
async fn expired_lease_does_not_fill() {
    let cache = MemoryCache::with_spans(100, Duration::from_millis(50), FENCE_TTL);
    let late = leased(get(&cache, "a").await);
    let new = until_leased(&cache, "a").await;
    let fill = cache.fill(late, &entry("old"), LONG).await;
    assert_eq!(fill.unwrap(), Filled::Refused);
    assert_ne!(new.nonce, 0);
    // An expired lease does not fill either if no other client holds one.
    tokio::time::sleep(Duration::from_millis(60)).await;
    let fill = cache.fill(new, &entry("old"), LONG).await;
    assert_eq!(fill.unwrap(), Filled::Refused);
}

#[tokio::test]
async fn entry_is_removed_at_the_end_of_its_lifetime() {
    let cache = MemoryCache::new(100);
    let lease = leased(get(&cache, "a").await);
    let short = Duration::from_millis(50);
    cache.fill(lease, &entry("a"), short).await.unwrap();
    assert_eq!(user(get(&cache, "a").await), "a");
    until_leased(&cache, "a").await;
}

#[tokio::test]
async fn lease_replaces_a_dead_entry() {
    let cache = MemoryCache::new(100);
    filled(&cache, "a").await;
    let digest = [TokenDigest::of("a")];
    let lease = leased(cache.get(&digest, &judge_dead).await.remove(0));
    assert!(matches!(get(&cache, "a").await, Lookup::DoNotFill));
    cache.fill(lease, &entry("new"), LONG).await.unwrap();
    assert_eq!(user(get(&cache, "a").await), "new");
}

#[tokio::test]
async fn only_the_judged_entry_is_replaced() {
    let cache = MemoryCache::new(100);
    filled(&cache, "a").await;
    let digest = TokenDigest::of("a");
    let overtaken = |_: &Entry| {
        // During the judgement, another client replaces the entry.
        cache.replace(&[digest], || {
            Op::Put(Value { content: Content::Session(entry("newer")), lifetime: LONG })
        });
        EntryVerdict::Stale
    };
    let found = cache.get(&[digest], &overtaken).await;
    assert!(matches!(found[..], [Lookup::DoNotFill]));
    assert_eq!(user(get(&cache, "a").await), "newer");
}

#[tokio::test]
async fn concurrent_misses_get_one_lease() {
    let cache = MemoryCache::new(1000);
    for round in 0..200 {
        let name = format!("a{round}");
        let granted: usize = std::thread::scope(|scope| {
            let misses: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let found = cache.look_up(TokenDigest::of(&name), &judge_fresh);
                        usize::from(matches!(found, Lookup::Leased(_)))
                    })
                })
                .collect();
            misses.into_iter().map(|miss| miss.join().unwrap()).sum()
        });
        assert_eq!(granted, 1);
    }
}

#[tokio::test]
async fn invalidation_wins_over_a_concurrent_fill() {
    let cache = MemoryCache::new(1000);
    for round in 0..500 {
        let name = format!("a{round}");
        let digest = TokenDigest::of(&name);
        let lease = leased(cache.look_up(digest, &judge_fresh));
        std::thread::scope(|scope| {
            scope.spawn(|| cache.put_if_leased(&lease, &entry("old"), LONG));
            scope.spawn(|| cache.replace(&[digest], || Op::Remove));
        });
        assert!(cache.values.get(&digest).is_none());
    }
}

#[tokio::test]
async fn the_probe_sets_and_gets() {
    let cache = MemoryCache::new(100);
    let probe = cache.probe().await;
    assert!(probe.connected && probe.set.is_some() && probe.get.is_some());
    assert!(cache.status().connected);
    assert_eq!(cache.status().backend, "memory");
}

#[tokio::test]
async fn every_capacity_is_allowed() {
    for (capacity, stays) in [(0, false), (u64::MAX, true)] {
        let cache = MemoryCache::new(capacity);
        let _lease = get(&cache, "a").await;
        cache.values.run_pending_tasks();
        let again = get(&cache, "a").await;
        assert_eq!(matches!(again, Lookup::DoNotFill), stays, "{capacity}: {again:?}");
    }
}
