//! Housekeeping: what is old leaves the store, a little at a time, for as long as the driver lives.
//!
//! Nothing rests on it. A failure is noted, and the next minute tries again; several nodes are as good as
//! one, since the store lets only one do it at a time.

use std::sync::Weak;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cache::SessionCache;
use crate::deadline::{self, LONGEST};
use crate::driver::Driver;
use crate::store::SessionStore;

/// How long sessions that ended stay in the store, unless set otherwise: a week, in which somebody may
/// still ask who ended them.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often there is housekeeping.
const EVERY: Duration = Duration::from_secs(60);
/// How many sessions are deleted at a time: some 10 ms, in which nobody waits for a lock of theirs.
const BATCH: u32 = 500;
/// So many rows of the journal a store removes at least, if there are that many.
const JOURNAL_BATCH: u64 = 10_000;
/// Between two batches.
const PAUSE: Duration = Duration::from_millis(100);
/// Journal rows are kept for the longest life of a copy, times this. A copy from before a purged row is not
/// believed; that no such copy is alive any more makes purging cost no hit, and keeps it safe where a Postgres
/// failover uses transaction ids again.
const JOURNAL_LIVES: u32 = 2;

impl<C: SessionCache, S: SessionStore> Driver<C, S> {
    pub(crate) async fn keep_house(driver: Weak<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = stop.cancelled() => return,
            }
            let Some(driver) = driver.upgrade() else {
                return;
            };
            tokio::select! {
                () = driver.clean_up() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One round. Neither half needs the other.
    async fn clean_up(&self) {
        let keep = self.longest_life() * JOURNAL_LIVES;
        loop {
            match deadline::question(LONGEST, self.store.purge_journal(keep)).await {
                Ok(purged) if purged < JOURNAL_BATCH => break,
                Ok(_more) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    self.note_while("purging the journal", &error);
                    break;
                }
            }
        }
        let Some(retention) = self.settings.retention else {
            return;
        };
        loop {
            match deadline::question(LONGEST, self.store.sweep(retention, BATCH)).await {
                Ok(swept) if swept < u64::from(BATCH) => return,
                Ok(_more) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    self.note_while("sweeping ended sessions", &error);
                    return;
                }
            }
        }
    }
}
