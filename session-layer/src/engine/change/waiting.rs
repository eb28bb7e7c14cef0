//! Revocations that wait until every node that reaches Postgres honors them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Applied, Changes, Visibility, unknown_outcome};
use crate::cache::SessionCache;
use crate::engine::spans;
use crate::model::clock::FOR_EVER;
use crate::model::error::{Error, StoreError, StoreErrorKind};
use crate::store::{RevocationNote, Row, SessionStore, Target};

/// How long a revocation that waits pauses between two attempts.
const ATTEMPT_EVERY: Duration = Duration::from_millis(250);

impl<C: SessionCache, S: SessionStore> Changes<C, S> {
    /// Ends sessions, and waits until every node that reaches Postgres honors it, or until
    /// `deadline` has passed. What fails is tried again meanwhile.
    ///
    /// A revocation of one session is also repeated after a success, until the cache acknowledges
    /// it. That of a user's sessions is not: each attempt also ends the logins that came after the
    /// last.
    pub(crate) async fn revoke_and_wait(
        self: Arc<Self>,
        mut target: Target,
        note: RevocationNote,
        deadline: Duration,
    ) -> Result<Applied<u64>, Error> {
        let deadline = Instant::now() + deadline.min(FOR_EVER);
        let is_user = matches!(target, Target::User { .. });
        let mut best: Option<BestAttempt> = None;
        let mut uncertain = false;
        loop {
            let attempt = Arc::clone(&self).attempt(target.clone(), note.clone());
            let attempt = self.tasks.spawn(spans::in_current(attempt));
            let ended = timeout_at(deadline, attempt).await;
            let now = Instant::now();
            let last = match ended {
                Ok(Ok((named, last))) => {
                    target = named;
                    last
                }
                Ok(Err(stopped)) => Err(unknown_outcome(stopped)),
                Err(_elapsed) => Err(still_under_way()),
            };
            match last {
                Ok(mut last) => {
                    // An attempt of unknown outcome may have ended sessions whose rows are gone.
                    if uncertain && (is_user || last.visibility == Visibility::Nothing) {
                        last.visibility = self.journal_bounds();
                    }
                    if is_user {
                        return Ok(wait_for_journals(last, now, deadline).await);
                    }
                    let all = BestAttempt::with(&mut best, &last, now);
                    if now >= deadline || !all.visibility.is_awaited() {
                        return Ok(all);
                    }
                }
                Err(error) if !error.is_outage() => return Err(error),
                Err(outage) if now >= deadline => {
                    return best.map_or(Err(outage), |best| Ok(best.result_at(now)));
                }
                Err(outage) => uncertain |= matches!(outage, Error::Unknown(_)),
            }
            tokio::time::sleep_until(deadline.min(now + ATTEMPT_EVERY)).await;
        }
    }

    /// Makes one attempt, to its end. Returns also how the next attempt names the session.
    async fn attempt(
        self: Arc<Self>,
        mut target: Target,
        note: RevocationNote,
    ) -> (Target, Result<Applied<u64>, Error>) {
        self.name_by_id(&mut target).await;
        let revoked = self.revoke(target.clone(), note).await;
        (target, revoked)
    }

    /// Names a session by its id if its token still finds it. A rotation between two attempts
    /// replaces the token.
    async fn name_by_id(&self, target: &mut Target) {
        let Target::Token(digest) = target else {
            return;
        };
        if let Ok(read) = self.store.load_before_change(*digest).await
            && let Some(Row::Alive { session, .. }) = read.rows.first()
        {
            *target = Target::Id(session.id());
        }
    }
}

/// Waits until every node that reaches Postgres has read of a change that was committed by `at`.
async fn wait_for_journals<T>(applied: Applied<T>, at: Instant, deadline: Instant) -> Applied<T> {
    if let Visibility::Committed { within, .. } = applied.visibility {
        tokio::time::sleep_until(deadline.min(at + within)).await;
    }
    Applied { visibility: applied.visibility.after(at.elapsed()), ..applied }
}

/// The attempt that ended the most sessions, from whose time the bounds count.
struct BestAttempt {
    at: Instant,
    applied: Applied<u64>,
}

impl BestAttempt {
    /// Takes the last attempt, which is at `now`. Returns the result of all attempts.
    fn with(best: &mut Option<Self>, last: &Applied<u64>, now: Instant) -> Applied<u64> {
        let best = best.get_or_insert_with(|| Self { at: now, applied: last.clone() });
        if last.value > best.applied.value {
            *best = Self { at: now, applied: last.clone() };
        }
        let before = best.applied.visibility;
        let visibility = before.after_another_attempt(now - best.at, last.visibility);
        Applied { visibility, ..best.applied }
    }

    /// Returns the result as of `now`, after further attempts that failed.
    fn result_at(self, now: Instant) -> Applied<u64> {
        Applied { visibility: self.applied.visibility.after(now - self.at), ..self.applied }
    }
}

/// Returns the error of a revocation that continues after the deadline of its caller.
fn still_under_way() -> Error {
    let why = "the revocation was still under way at the deadline, and continues in the background";
    Error::Unknown(StoreError::new(StoreErrorKind::Uncertain, why))
}
