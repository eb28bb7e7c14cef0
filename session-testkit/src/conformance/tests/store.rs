//! A store with one bug around a correct one.

use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::error::{StoreError, StoreErrorKind};
use session_layer::store::{
    Change, Creation, JournalChange, JournalPosition, JournalRead, ReadResult, Revoked, Row,
    SessionStore, SqliteStore, Target,
};
use session_layer::store::{SessionParts, ValidatedSession};
use session_layer::{ListCursor, LoginSnapshot, Session, SessionId, SessionPage, TokenDigest};

mod mistakes;

use self::mistakes::Mistake as M;
pub(super) use self::mistakes::{MISTAKES, Mistake};

pub(super) struct Wrapped {
    pub(super) store: SqliteStore,
    pub(super) mistake: Mistake,
}

impl Wrapped {
    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    async fn is_alive(&self, digest: TokenDigest) -> Result<bool, StoreError> {
        let loaded = self.store.load(&[digest]).await?;
        Ok(matches!(loaded.rows[0], Row::Alive { .. }))
    }
}

fn error() -> StoreError {
    StoreError::new(StoreErrorKind::Unreachable, "injected error")
}

/// Returns the session with other data.
fn with_data(session: &Session, data: Box<RawValue>) -> Session {
    let parts = session.parts().clone();
    Session::from(SessionParts { data, ..parts })
}

impl SessionStore for Wrapped {
    async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        let mut loaded = self.store.load(digests).await?;
        match self.mistake {
            M::StoreIdChanges => loaded.store_id = *uuid::Uuid::new_v4().as_bytes(),
            M::RowsAreReversed => loaded.rows.reverse(),
            M::RowsAreUnique if digests.len() > 20 => drop(loaded.rows.pop()),
            M::RevokedAreAbsent => {
                for row in &mut loaded.rows {
                    if matches!(row, Row::Revoked) {
                        *row = Row::Absent;
                    }
                }
            }
            M::DataAreCut => {
                for row in &mut loaded.rows {
                    if let Row::Alive { session, .. } = row
                        && session.data_json().len() > 60_000
                    {
                        *session = with_data(session, RawValue::NULL.to_owned());
                    }
                }
            }
            _ => {}
        }
        Ok(loaded)
    }

    async fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        self.store.login_snapshot().await
    }

    async fn create(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
    ) -> Result<Creation, StoreError> {
        let mut new = new.clone();
        match self.mistake {
            M::IdleTimeoutIsCut => {
                let secs = |idle: Duration| Duration::from_secs(idle.as_secs());
                new.idle_timeout = new.idle_timeout.map(secs);
            }
            M::IdleTimeoutIsIgnored => new.idle_timeout = None,
            M::PersistenceIsForgotten => new.persistent = false,
            M::LoginStartIsIgnored => new.begun = None,
            M::LabelIsCut => new.label = None,
            M::LifetimeIsLonger => new.lifetime *= 100,
            M::LifetimeIsShorter => new.lifetime /= 10,
            M::LoginAfterRevokeAllIsRefused => {
                let id = new.user_id.clone();
                let all = Target::User { user_id: id, keep: None };
                let known = self.store.digests(&all).await?;
                if !known.is_empty() && !self.is_alive(known[0]).await? {
                    return Ok(Creation::Superseded);
                }
            }
            M::UsedDigestIsAccepted | M::LoginsRace => {
                let created = self.store.create(digest, &new).await?;
                if !matches!(created, Creation::AlreadyExists) {
                    return Ok(created);
                }
                // Creates a second session, like an index that is not unique.
                let other = TokenDigest::of(&uuid::Uuid::new_v4().to_string());
                return self.store.create(other, &new).await;
            }
            _ => {}
        }
        self.store.create(digest, &new).await
    }

    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        let mut digests = self.store.digests(target).await?;
        if self.has(M::DigestsOfActiveOnly) {
            let mut active = Vec::new();
            for digest in digests {
                if self.is_alive(digest).await? {
                    active.push(digest);
                }
            }
            digests = active;
        }
        Ok(digests)
    }

    async fn revoke(&self, target: &Target, reason: &str) -> Result<Revoked, StoreError> {
        let target = match (self.mistake, target.clone()) {
            (M::OwnerIsNotCompared, Target::OwnedBy(id, _)) => Target::Id(id),
            (M::KeptSessionIsEnded, Target::User { user_id, .. }) => {
                Target::User { user_id, keep: None }
            }
            (_, target) => target,
        };
        let digests = self.store.digests(&target).await?;
        match (self.mistake, &target) {
            (M::RevokeDoesNothing, _) => {
                let mut revoked = Revoked::nothing();
                (revoked.ended, revoked.found) = (1, 1);
                revoked.digests = digests;
                return Ok(revoked);
            }
            (M::SecondRevokeFindsNothing, _)
                if !digests.is_empty() && !self.is_alive(digests[0]).await? =>
            {
                return Ok(Revoked::nothing());
            }
            (M::NothingIsAnError, _) if digests.is_empty() => return Err(error()),
            (M::PreviousTokenFindsNothing, Target::Token(digest)) if digests.len() > 1 => {
                let loaded = self.store.load(&[*digest]).await?;
                if let Row::Alive { previous_until: Some(_), .. } = loaded.rows[0] {
                    return Ok(Revoked::nothing());
                }
            }
            _ => {}
        }
        self.store.revoke(&target, reason).await
    }

    async fn update(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> Result<Change, StoreError> {
        match self.mistake {
            M::VersionIsNotCompared => {
                for version in 1..20 {
                    let change = self.store.update(id, version, data).await?;
                    if !matches!(change, Change::Conflict) {
                        return Ok(change);
                    }
                }
            }
            M::SameDataIsNoChange => return self.store.touch(id, Duration::MAX).await,
            _ => {}
        }
        let change = self.store.update(id, version, data).await?;
        Ok(match change {
            Change::NoSession if self.has(M::InactiveConflicts) => Change::Conflict,
            other => other,
        })
    }

    async fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        let grace = match self.mistake {
            M::GraceIsLonger => grace * 100,
            M::GraceIsNeverZero => grace.max(Duration::from_secs(5)),
            _ => grace,
        };
        let mut change = self.store.rotate(old, new, grace).await?;
        match &mut change {
            Change::Conflict if self.has(M::RotatedTwice) => {
                let loaded = self.store.load(&[old]).await?;
                if let Row::Alive { session, .. } = &loaded.rows[0] {
                    change = Change::Made { session: session.clone(), digests: vec![old, new] };
                }
            }
            Change::Made { digests, .. } if self.has(M::RotationForgetsTheOldDigest) => {
                digests.retain(|digest| *digest != old);
            }
            Change::Made { digests, .. } if self.has(M::OlderDigestIsForgotten) => {
                digests.truncate(2);
            }
            _ => {}
        }
        Ok(change)
    }

    async fn touch(&self, id: SessionId, granularity: Duration) -> Result<Change, StoreError> {
        if self.has(M::TouchIsAnUpdate) {
            for version in 1..20 {
                self.store.update(id, version, RawValue::NULL).await?;
            }
        }
        let granularity = match self.mistake {
            M::TouchDoesNothing => Duration::MAX,
            M::TouchIsAlwaysMade => Duration::ZERO,
            _ => granularity,
        };
        self.store.touch(id, granularity).await
    }

    async fn list(
        &self,
        user_id: &str,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<SessionPage, StoreError> {
        let after = after.filter(|_| !self.has(M::ListIgnoresTheCursor));
        let limit = if self.has(M::ListHasNoLimit) { usize::MAX } else { limit };
        let mut listed = self.store.list(user_id, after, limit).await?;
        if self.has(M::ListIsOldestFirst) {
            listed.sessions.reverse();
        }
        Ok(listed)
    }

    async fn journal_since(
        &self,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let mut read = self.store.journal_since(position).await?;
        match self.mistake {
            M::OtherLifeIsIgnored if position.is_some_and(|at| at.store_id != read.store_id) => {
                read.rows.clear();
            }
            M::JournalSkips if position.is_some() => read.rows.truncate(1),
            M::JournalForgetsDigests => {
                for row in &mut read.rows {
                    if let JournalChange::Session { digests, .. } = &mut row.change {
                        digests.truncate(1);
                    }
                }
            }
            _ => {}
        }
        Ok(read)
    }

    async fn purge_journal(&self, keep: Duration) -> Result<u64, StoreError> {
        let keep = if self.has(M::PurgeTakesAll) { Duration::ZERO } else { keep };
        self.store.purge_journal(keep).await
    }

    async fn sweep(&self, retention: Duration, most: u32) -> Result<u64, StoreError> {
        let retention = if self.has(M::SweepTakesAll) { Duration::ZERO } else { retention };
        self.store.sweep(retention, most).await
    }

    fn max_concurrent_reads(&self) -> usize {
        self.store.max_concurrent_reads()
    }

    fn is_exclusive(&self) -> bool {
        self.store.is_exclusive()
    }

    fn backend(&self) -> &'static str {
        self.store.backend()
    }

    async fn probe(&self) -> Result<(), StoreError> {
        if self.has(M::ProbeFails) {
            return Err(error());
        }
        self.store.probe().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
