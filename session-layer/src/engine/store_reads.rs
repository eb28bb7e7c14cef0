//! Misses: validations that the cache did not answer are read from the store.
//!
//! The callers wait in a [`Queue`]. Each of its readers reads the tokens that have gathered in one
//! statement. Each row is then answered on its own: the session may be touched first, and an entry
//! may be filled after the response.
//!
//! A read continues when its callers leave. Cancelling it would cost the store a connection, and
//! the entry that it brings is of use for the next request. A token whose callers all left before
//! its read began is not read.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, Span};

use crate::cache::{Entry, SessionCache};
use crate::engine::coalescing::Callers;
use crate::engine::diagnostics::Diagnostics;
use crate::engine::freshness::Freshness;
use crate::engine::guarded_cache::GuardedCache;
use crate::engine::guarded_store::{GuardedStore, shed_read};
use crate::engine::invalidator::{Invalid, Invalidator};
use crate::engine::lifetime::{lifetime, renewal_is_due, touch_granularity};
use crate::engine::metrics::Counters;
use crate::engine::near_cache::{NearCache, Ticket};
use crate::engine::queue::{Gauges, Queue, Slot};
use crate::engine::settings::Settings;
use crate::engine::spans;
use crate::engine::tasks::{KeepLoops, Tasks};
use crate::engine::touch::{Touched, Toucher};
use crate::engine::validation::Validation;
use crate::model::clock::Timestamp;
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::session::SessionId;
use crate::model::token::TokenDigest;
use crate::store::{ReadResult, Row, SessionStore, StoreId};

/// A digest that the cache did not answer.
#[derive(Debug)]
pub(crate) struct Miss<L> {
    /// Its place among the digests of the look-up.
    pub(crate) at: usize,
    pub(crate) digest: TokenDigest,
    pub(crate) lease: Option<L>,
    /// The ticket for the near cache, if there is one.
    pub(crate) ticket: Option<Ticket>,
    /// Whether the cache failed, which took its time.
    pub(crate) cache_failed: bool,
}

/// The store's answer on one digest.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) validation: Validation,
    /// Whether the session's cookie is to be renewed.
    pub(crate) renews_cookie: bool,
}

/// A caller that waits for a token's row.
#[derive(Debug)]
pub(crate) struct Caller<L> {
    /// A lease that was granted before the caller joined, and so before the read began.
    lease: Option<L>,
    /// The same for the near cache.
    ticket: Option<Ticket>,
    cache_failed: bool,
    /// The span of its wait.
    span: Span,
    /// Closed if the caller has left.
    reply: oneshot::Sender<Answer>,
}

/// The reads of misses from the store, with the fills of the cache that follow.
pub(crate) struct StoreReads<C: SessionCache, S> {
    pub(crate) queue: Arc<ReadQueue<C>>,
    pub(crate) cache: Arc<GuardedCache<C>>,
    pub(crate) near: Option<Arc<NearCache>>,
    pub(crate) store: Arc<GuardedStore<S>>,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) invalidator: Arc<Invalidator<C>>,
    pub(crate) toucher: Arc<Toucher<S>>,
    pub(crate) settings: Settings,
    pub(crate) tasks: Tasks,
    pub(crate) counters: Arc<Counters>,
    pub(crate) diagnostics: Arc<Diagnostics>,
    /// A read that no caller waits for any more still needs the journal.
    pub(crate) _keep_loops: KeepLoops,
}

/// The callers that wait for a read.
pub(crate) type ReadQueue<C> = Queue<TokenDigest, Caller<<C as SessionCache>::Lease>>;

/// The facts of one read of the store that hold for all of its rows.
#[derive(Debug, Clone, Copy)]
struct ReadContext {
    now: Timestamp,
    store_id: StoreId,
    xmin: u64,
}

impl ReadContext {
    fn of(read: &ReadResult) -> Self {
        Self { now: read.now, store_id: read.store_id, xmin: read.xmin }
    }
}

/// The work that follows the response.
struct Background<L> {
    fill: Option<Fill<L>>,
    touch: Option<(SessionId, Duration)>,
}

/// The permissions to store the row of one read: a lease in the cache, a ticket in the near cache.
struct Rights<L> {
    lease: Option<L>,
    ticket: Option<Ticket>,
}

struct Fill<L> {
    lease: L,
    entry: Entry,
    lifetime: Duration,
}

impl<C: SessionCache, S: SessionStore> StoreReads<C, S> {
    /// Reads misses from the store. Returns its answers, each with the place of its digest in the
    /// look-up. A digest without an answer could not be read by `deadline`.
    pub(crate) async fn read(
        self: &Arc<Self>,
        misses: SmallVec<[Miss<C::Lease>; 1]>,
        deadline: Instant,
    ) -> SmallVec<[(usize, Answer); 1]> {
        let span = spans::read(misses.len());
        let mut callers = Callers::with_capacity(misses.len());
        let mut replies = SmallVec::<[_; 1]>::with_capacity(misses.len());
        for Miss { at, digest, lease, ticket, cache_failed } in misses {
            let (reply, replied) = oneshot::channel();
            let span = span.clone();
            callers.push((digest, Caller { lease, ticket, cache_failed, span, reply }));
            replies.push((at, replied));
        }
        let Some(joined) = self.queue.join(callers, Instant::now(), deadline) else {
            self.counters.shed.add_one();
            spans::failed(&span, StoreErrorKind::Shed.as_str());
            self.diagnostics.read_failed(&shed_read());
            return SmallVec::new();
        };
        self.counters.coalesced.add(joined.shared);
        if let Some(reader) = joined.reader {
            let reads = Arc::clone(self);
            reader.start(&self.tasks, move |slot| Arc::clone(&reads).read_for_waiting(slot));
        }
        let mut answers = SmallVec::with_capacity(replies.len());
        for (at, reply) in replies {
            match timeout_at(deadline, reply).await {
                Ok(Ok(answer)) => answers.push((at, answer)),
                // The read failed, and its failure was recorded.
                Ok(Err(_)) => spans::failed(&span, "unavailable"),
                Err(_elapsed) => {
                    spans::failed(&span, StoreErrorKind::TimedOut.as_str());
                    self.diagnostics.no_reply_in_time();
                }
            }
        }
        answers
    }

    /// Returns the figures of the reads.
    pub(crate) fn gauges(&self) -> Gauges {
        self.queue.gauges()
    }

    /// Makes reads until no caller waits.
    async fn read_for_waiting(self: Arc<Self>, mut slot: Slot<TokenDigest, Caller<C::Lease>>) {
        while let Some(read) = slot.next(Instant::now(), |caller| !caller.reply.is_closed()) {
            let (digests, callers): (Vec<_>, Vec<_>) = read.into_iter().unzip();
            let span = spans::for_callers(callers.iter().flatten().map(|caller| &caller.span));
            let read = self.store.load(&digests).instrument(span.clone()).await;
            slot.ended(Instant::now());
            // Without a row the callers are dropped, which closes their channels.
            let Ok(read) = read else { continue };
            let deadline = Instant::now() + self.settings.validation_timeout;
            if !self.freshness.is_of_this_life(read.store_id, deadline).await {
                self.diagnostics.read_failed(&of_another_life());
                continue;
            }
            let context = ReadContext::of(&read);
            for ((digest, callers), row) in digests.into_iter().zip(callers).zip(read.rows) {
                // A row that waits for something has a task of its own. A session that must be
                // touched, or invalidated in a cache that hangs, delays neither the other answers
                // nor the next read. Encoding an entry would also delay them.
                let fills = callers.iter().any(|caller| caller.lease.is_some());
                let answer = Arc::clone(&self).answer(context, digest, row, callers, span.clone());
                let mut answer = AssertUnwindSafe(answer).catch_unwind().boxed();
                if fills || answer.as_mut().now_or_never().is_none() {
                    self.tasks.spawn(answer);
                }
            }
        }
    }

    /// Answers every caller that waits for a row, and does the work that follows the response.
    async fn answer(
        self: Arc<Self>,
        read: ReadContext,
        digest: TokenDigest,
        row: Row,
        callers: Callers<Caller<C::Lease>>,
        span: Span,
    ) {
        let (mut rights, mut cache_failed) = (Rights { lease: None, ticket: None }, false);
        let (mut replies, mut waits) =
            (Callers::with_capacity(callers.len()), Callers::with_capacity(callers.len()));
        for caller in callers {
            // Each lease was granted before the read, so each may fill. If there are several, the
            // cache lost the earlier ones, and only the last can still be valid.
            rights.lease = caller.lease.or(rights.lease);
            // Each ticket was taken before the read.
            rights.ticket = caller.ticket.or(rights.ticket);
            cache_failed |= caller.cache_failed;
            replies.push(caller.reply);
            waits.push(caller.span);
        }
        // The row may have one caller, also if the read has several.
        let span = if let [wait] = &waits[..] { wait.clone() } else { span };
        let answering = self.answer_row(read, digest, row, rights, cache_failed);
        let (answer, background) = answering.instrument(span).await;
        for reply in replies {
            let _ = reply.send(answer.clone());
        }
        let Some(Background { fill, touch }) = background else { return };
        if let Some(Fill { lease, entry, lifetime }) = fill {
            let span = spans::after_response("fill", &waits);
            self.cache.fill(lease, &entry, lifetime).instrument(span).await;
        }
        if let Some((id, granularity)) = touch {
            let span = spans::after_response("touch", &waits);
            self.toucher.touch_in_background(id, granularity).instrument(span).await;
        }
    }

    /// Decides what a row means. A session with an idle timeout may be touched first, and the entry
    /// of an invalid token is removed first.
    async fn answer_row(
        &self,
        read: ReadContext,
        digest: TokenDigest,
        row: Row,
        rights: Rights<C::Lease>,
        cache_failed: bool,
    ) -> (Answer, Option<Background<C::Lease>>) {
        let invalid = async |why| {
            self.invalidator.before_invalid(digest, why, cache_failed).await;
            (Validation::Invalid.into(), None)
        };
        let (mut session, user_epoch, previous_until) = match row {
            Row::Alive { session, user_epoch, previous_until } => {
                (session, user_epoch, previous_until)
            }
            Row::Absent => return invalid(Invalid::Unknown).await,
            Row::Revoked => return invalid(Invalid::Ended).await,
            Row::Unreadable(row) => {
                self.diagnostics.row_unreadable(&row);
                return (Validation::Unavailable.into(), None);
            }
        };
        let granularity = touch_granularity(session.idle_timeout());
        let touch_is_due = read.now.since(session.last_seen_at()) >= granularity;
        let mut is_touched = true;
        if touch_is_due && session.idle_timeout().is_some() {
            match self.toucher.touch(session.id(), granularity).await {
                // The session was changed after it was read. Only another read shows what the
                // change means for this token (a rotation may have replaced it), and an entry with
                // the new version would be served.
                Touched::Recorded(touched) if touched.version() != session.version() => {
                    return (Validation::Valid(session).into(), None);
                }
                Touched::Recorded(touched) => session = touched,
                Touched::Ended => return invalid(Invalid::Ended).await,
                Touched::NotYet => is_touched = false,
            }
        }
        let late_touch = touch_is_due && session.idle_timeout().is_none();
        // The browser must not keep a token that a rotation has replaced for longer.
        let renews_cookie = previous_until.is_none() && renewal_is_due(read.now, &session);
        let ttl = self.settings.ttl;
        let lifetime = lifetime(read.now, ttl, digest, &session, previous_until, is_touched);
        let entry = lifetime.map(|lifetime| Entry {
            session: session.clone(),
            user_epoch,
            store_id: read.store_id,
            xmin: read.xmin,
            read_at: read.now,
            not_after: read.now.after(lifetime),
        });
        if let (Some(near), Some(ticket), Some(entry)) = (&self.near, rights.ticket, &entry) {
            near.insert(&digest, ticket, entry);
        }
        let fill = rights.lease.zip(entry.zip(lifetime));
        let background = Background {
            touch: late_touch.then_some((session.id(), granularity)),
            fill: fill.map(|(lease, (entry, lifetime))| Fill { lease, entry, lifetime }),
        };
        (Answer { validation: Validation::Valid(session), renews_cookie }, Some(background))
    }
}

impl From<Validation> for Answer {
    fn from(validation: Validation) -> Self {
        Self { validation, renews_cookie: false }
    }
}

fn of_another_life() -> StoreError {
    StoreError::new(
        StoreErrorKind::NotAuthoritative,
        "this answer and the journal of changes come from two Postgres servers, or from two runs \
         of one, so neither proves anything: is the old server still reachable after a cut-over? \
         can the journal be read?",
    )
}
