//! A whole round of the cache: lease, fill, hit, removal. The application does the same.

use std::time::Duration;

use session_layer::cache::{
    Entry, EntryVerdict, Filled, Lookup, RedisCache, RedisLease, SessionCache as _,
};
use session_layer::server_url::ServerUrl;
use session_layer::store::SessionParts;
use session_layer::{Session, SessionId, Timestamp, TokenDigest};
use tokio::time::{Instant, sleep};

use super::{FULL, Finding, PROXY, Problem, Target, cache};

/// The life of the entry, in case its removal is lost.
const LIFE: Duration = Duration::from_secs(10);
/// How long a cache may need to connect. The step as a whole has a longer deadline.
const PATIENCE: Duration = Duration::from_millis(1_500);
const TICK: Duration = Duration::from_millis(20);

/// Fills an entry of its own and reads it back, with the application's deadline. A round that is
/// late on a busy machine is tried again.
pub(super) async fn cached(target: &Target, url: &ServerUrl) -> Result<Finding, Problem> {
    let cache = cache(target, url)?.build()?;
    let end = Instant::now() + PATIENCE;
    let why = loop {
        let digest = TokenDigest::of(&uuid::Uuid::new_v4().to_string());
        let found = round(&cache, digest, end).await;
        // It is best effort: the entry has a short life.
        let _removed = cache.invalidate(&[digest]).await;
        match found {
            Ok(()) => return Ok(Finding::ok("An entry was filled and read back")),
            Err(why) if Instant::now() >= end => break why,
            Err(_late) => sleep(TICK).await,
        }
    };
    let help = if why.contains("OOM") { FULL } else { PROXY };
    Ok(Finding::failed("Nothing will be cached", why, help))
}

async fn round(cache: &RedisCache, digest: TokenDigest, end: Instant) -> Result<(), String> {
    let lease = look_up(cache, digest, end, |found| match found {
        Lookup::Leased(lease) => Some(lease),
        _ => None,
    });
    let lease = lease.await.map_err(|why| format!("no lease was granted: {why}"))?;
    match cache.fill(lease, &entry(), LIFE).await {
        Ok(Filled::Stored) => {}
        Ok(_) => return Err("the fill was refused, although its lease stands".to_owned()),
        Err(error) => return Err(format!("the fill failed: {error}")),
    }
    let hit = look_up(cache, digest, end, |found| matches!(found, Lookup::Hit(_)).then_some(()));
    hit.await.map_err(|why| format!("the entry was not found: {why}"))
}

/// Looks up until the answer is wanted.
async fn look_up<T>(
    cache: &RedisCache,
    digest: TokenDigest,
    end: Instant,
    wanted: impl Fn(Lookup<RedisLease>) -> Option<T>,
) -> Result<T, String> {
    loop {
        let found = cache.get(&[digest], &|_| EntryVerdict::Fresh).await.pop();
        let why = match &found {
            Some(Lookup::Failed(error) | Lookup::Refused(error)) => error.to_string(),
            _ => "each look-up reports that another client fills it".to_owned(),
        };
        if let Some(wanted) = found.and_then(&wanted) {
            return Ok(wanted);
        }
        if Instant::now() >= end {
            return Err(why);
        }
        sleep(TICK).await;
    }
}

/// Returns an entry of no session.
fn entry() -> Entry {
    let at = Timestamp::from_micros(1_700_000_000_000_000);
    let parts = SessionParts::new(SessionId::from_bytes([7; 16]), "sessionctl check", at);
    Entry {
        not_after: parts.expires_at,
        session: Session::from(parts),
        user_epoch: 0,
        store_id: [9; 16],
        xmin: 42,
        read_at: at,
    }
}
