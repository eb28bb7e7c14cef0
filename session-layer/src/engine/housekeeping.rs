//! Housekeeping: old rows leave the store, a few at a time, for as long as the engine lives.
//!
//! No promise depends on it. After a failure the next minute tries again. A paused node does
//! nothing. Several nodes do no more work than one, because the store lets only one of them work at
//! a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::Instrument as _;

use crate::engine::guarded_store::GuardedStore;
use crate::engine::settings::Settings;
use crate::engine::spans;
use crate::engine::tasks::Tasks;
use crate::store::SessionStore;

/// How long ended sessions stay in the store by default: a week, in which an operator may still ask
/// who ended them.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often there is housekeeping.
const EVERY: Duration = Duration::from_secs(60);
/// How many sessions are deleted at once: about 10 ms, in which no request waits for their locks.
const SESSIONS_AT_ONCE: u32 = 500;
/// A store purges at least this many journal rows at once, if there are that many.
const JOURNAL_ROWS_AT_ONCE: u64 = 10_000;
/// How many users are examined at once: about 10 ms.
const USERS_AT_ONCE: u32 = 1_000;
/// How many batches of users a round examines. The next round continues after them, so a million
/// users take about an hour and a half.
const USER_BATCHES: u32 = 10;
/// The pause between two batches.
const BETWEEN_BATCHES: Duration = Duration::from_millis(100);
/// Journal rows are kept for the longest life of an entry, times this. An entry from before a
/// purged row is never served, so this only avoids misses: no such entry is left by then.
const JOURNAL_LIVES: u32 = 2;

/// Cleans up for as long as the engine lives.
pub(crate) async fn keep_house<S: SessionStore>(
    store: Arc<GuardedStore<S>>,
    settings: Settings,
    tasks: Tasks,
) -> Option<()> {
    let mut users_after = None;
    loop {
        tasks.pause(EVERY).await?;
        tasks.or_end(store.rest()).await?;
        let round = clean_up(&store, &settings, &mut users_after);
        tasks.or_end(round.instrument(spans::background("housekeeping"))).await?;
    }
}

/// Makes one round. A part that fails does not stop the others.
async fn clean_up<S: SessionStore>(
    store: &GuardedStore<S>,
    settings: &Settings,
    users_after: &mut Option<String>,
) {
    let keep = settings.longest_entry_life() * JOURNAL_LIVES;
    while store.purge_journal(keep).await.is_some_and(|rows| rows >= JOURNAL_ROWS_AT_ONCE) {
        between_batches(store).await;
    }
    let Some(retention) = settings.retention else {
        return;
    };
    let full = u64::from(SESSIONS_AT_ONCE);
    while store.sweep(retention, SESSIONS_AT_ONCE).await.is_some_and(|rows| rows >= full) {
        between_batches(store).await;
    }
    for _ in 0..USER_BATCHES {
        let swept = store.sweep_users(retention, users_after.as_deref(), USERS_AT_ONCE);
        let Some(last) = swept.await else { return };
        *users_after = last;
        if users_after.is_none() {
            return;
        }
        between_batches(store).await;
    }
}

/// Pauses between two batches. The round continues after a pause of the node.
async fn between_batches<S: SessionStore>(store: &GuardedStore<S>) {
    sleep(BETWEEN_BATCHES).await;
    store.rest().await;
}
