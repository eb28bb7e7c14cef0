//! The task that reads the journal of changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use crate::cache::SessionCache;
use crate::engine::freshness::Freshness;
use crate::engine::guarded_store::GuardedStore;
use crate::engine::invalidator::Invalidator;
use crate::engine::metrics::Counters;
use crate::engine::spans;
use crate::engine::tasks::Tasks;
use crate::model::error::StoreError;
use crate::store::{JournalPosition, SessionStore};

/// The least time between two reads, however often a read is requested.
const MIN_READ_INTERVAL: Duration = Duration::from_millis(20);

/// The reader of one node's journal.
#[derive(Debug)]
pub(crate) struct JournalReader<C, S> {
    pub(crate) store: Arc<GuardedStore<S>>,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) invalidator: Arc<Invalidator<C>>,
    pub(crate) counters: Arc<Counters>,
}

impl<C: SessionCache, S: SessionStore> JournalReader<C, S> {
    /// Reads the journal for as long as the engine lives: every interval, and at once on request.
    /// Reads nothing during a pause.
    pub(crate) async fn run(self, tasks: Tasks) -> Option<()> {
        let journal = Arc::clone(&self.freshness.journal);
        let interval = journal.timing().interval;
        let mut position = None;
        let mut is_failing = false;
        loop {
            if self.store.is_paused() {
                // No read is in flight that could be recorded during the pause.
                journal.forget_read();
                tasks.or_end(self.store.rest()).await?;
            }
            let began = Instant::now();
            let reading = self.read_to_the_end(&mut position, began);
            let reading = reading.instrument(spans::background("journal"));
            match tasks.or_end(reading).await? {
                Ok(()) if std::mem::take(&mut is_failing) => {
                    tracing::info!("the journal of changed sessions can be read again");
                }
                Ok(()) => {}
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "the journal of changed sessions cannot be read");
                    }
                }
            }
            journal.read_ended();
            let next = async {
                tokio::select! {
                    () = sleep_until(began + interval) => {}
                    () = journal.read_requested() => {
                        sleep_until(began + MIN_READ_INTERVAL.min(interval)).await;
                    }
                }
            };
            tasks.or_end(next).await?;
        }
    }

    /// Makes one read, page by page. A page that fails is read again by the next read, and the
    /// pages before it stay in the changed set.
    async fn read_to_the_end(
        &self,
        position: &mut Option<JournalPosition>,
        began: Instant,
    ) -> Result<(), StoreError> {
        // A read that failed half-way ends at its first page's snapshot only if its other pages
        // follow. This read has an age of its own, so it begins after the last complete one.
        if let Some(position) = position {
            position.page = None;
        }
        loop {
            let page = self.store.journal_since(position).await?;
            self.freshness.observed.journal_read(began, &page);
            let ended = self.freshness.journal.learn(began, &page);
            self.invalidator.invalidate_in_background(ended);
            let is_complete = page.is_complete();
            *position = Some(page.next);
            if is_complete {
                self.counters.journal_reads.add_one();
                self.counters.instruments.journal_read(began);
                self.freshness.pending.journal_was_read(began);
                return Ok(());
            }
        }
    }
}
