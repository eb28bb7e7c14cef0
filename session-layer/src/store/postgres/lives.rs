//! The check that all connections lead to the server whose journal is read.
//!
//! After a cut-over that leaves the old server running, older connections still lead there, and no
//! error reveals it. Every reply therefore names its life. A connection whose reply is of another
//! life than the journal is closed, and the next one is opened to the present address. The
//! journal's own connection may lead to the old server, so it is opened anew as well.
//!
//! A change counts only if the journal is read in its life. After a restart the journal is read
//! anew within half a second, and a change waits for that.
//!
//! `Freshness::is_of_this_life` decides which reads count. This module makes connections agree.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::sync::watch;
use tokio::time::timeout;

use super::rows;
use crate::model::error::{StoreError, StoreErrorKind};
use crate::store::StoreId;

/// How long a change waits for the journal to be read in its life.
const JOURNAL_FOLLOWS: Duration = Duration::from_secs(1);

/// The lives of the replies so far.
#[derive(Debug)]
pub(super) struct Lives {
    /// The life of the last read of the journal.
    journal: watch::Sender<Option<StoreId>>,
    /// Whether a later reply was of another life.
    suspect: AtomicBool,
}

impl Default for Lives {
    fn default() -> Self {
        Self { journal: watch::Sender::new(None), suspect: AtomicBool::new(false) }
    }
}

impl Lives {
    /// Records that the journal was read in this life.
    pub(super) fn journal_is_of(&self, life: StoreId) {
        self.journal.send_replace(Some(life));
    }

    /// Returns whether this reply is of another life than the journal.
    pub(super) fn contradict(&self, reply: &[PgRow]) -> bool {
        let lives = self.journal.borrow().zip(rows::life(reply));
        let contradict = lives.is_some_and(|(journal, here)| journal != here);
        if contradict {
            self.suspect();
        }
        contradict
    }

    /// Records that the journal's connection may lead to another server than the address.
    pub(super) fn suspect(&self) {
        self.suspect.store(true, Ordering::Relaxed);
    }

    /// Returns whether the journal needs another connection, and resets that.
    pub(super) fn take_suspicion(&self) -> bool {
        self.suspect.swap(false, Ordering::Relaxed)
    }

    /// Waits until the journal is read in the life of this reply to a change.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Uncertain`] if it is not read within [`JOURNAL_FOLLOWS`]. The change may
    /// have been made on a server that no node reads any more.
    pub(super) async fn confirm_change(&self, reply: &[PgRow]) -> Result<(), StoreError> {
        self.follow(reply).await.map_err(|TwoServers| {
            StoreError::new(
                StoreErrorKind::Uncertain,
                "this change and the journal of changes are of two Postgres servers, or of two \
                 runs of one, so the change may not count: stop the old server of a cut-over, and \
                 try again",
            )
        })
    }

    /// Waits until the journal is read in the life of this reply, on which a change will be based.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::NotAuthoritative`] if it is not read within [`JOURNAL_FOLLOWS`].
    pub(super) async fn confirm_before_change(&self, reply: &[PgRow]) -> Result<(), StoreError> {
        self.follow(reply).await.map_err(|TwoServers| {
            StoreError::new(
                StoreErrorKind::NotAuthoritative,
                "this reply and the journal of changes are of two Postgres servers, or of two runs \
                 of one, and nothing was changed: stop the old server of a cut-over, and try again",
            )
        })
    }

    async fn follow(&self, reply: &[PgRow]) -> Result<(), TwoServers> {
        if !self.contradict(reply) {
            return Ok(());
        }
        let here = rows::life(reply);
        let mut journal = self.journal.subscribe();
        let followed = journal.wait_for(|journal| *journal == here);
        match timeout(JOURNAL_FOLLOWS, followed).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(TwoServers),
        }
    }
}

/// The error of a reply and a journal of two lives.
struct TwoServers;
