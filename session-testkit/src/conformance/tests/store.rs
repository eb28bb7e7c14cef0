//! A store with one bug around a correct one. It may be down, and report it except for one false
//! reply.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::cache::CacheId;
use session_layer::error::{StoreError, StoreErrorKind};
use session_layer::store::{
    Change, Creation, JournalChange, JournalPosition, JournalRead, NodeRegistration, ReadResult,
    RegistrationId, RevocationNote, Revoked, Row, SessionParts, SessionStore, SqliteStore, StoreId,
    Target, UserSweep, ValidatedSession,
};
use session_layer::{ListCursor, LoginSnapshot, Session, SessionId, SessionPage, TokenDigest};

use self::Mistake as M;

super::mistakes! {
    pub(super) enum Mistake = None;
    /// Each bug with the checks that must find it.
    pub(super) const MISTAKES = {
        StoreIdChanges: "created_session_is_loaded",
        IdleTimeoutIsCut: "created_session_is_loaded",
        PersistenceIsForgotten: "created_session_is_loaded",
        DataAreCut: "largest_session_is_kept",
        LabelIsCut: "largest_session_is_kept" "list_has_active_sessions_newest_first",
        RowsAreReversed: "results_match_the_order_of_digests",
        RowsAreUnique: "results_match_the_order_of_digests",
        UsedDigestIsAccepted: "used_digest_is_refused",
        LoginsRace: "concurrent_logins_create_one_session",
        ListIsOldestFirst: "list_has_active_sessions_newest_first",
        ListIgnoresTheCursor: "list_is_paginated",
        ListHasNoLimit: "list_is_paginated",
        LifetimeIsLonger: "expired_session_is_absent",
        LifetimeIsShorter: "expired_session_is_absent",
        IdleTimeoutIsIgnored: "idle_session_is_absent_after_its_timeout",
        ProbeFails: "working_store_probes_without_error",
        VersionIsNotCompared:
            "update_compares_the_version"
            "concurrent_updates_apply_one",
        SameDataIsNoChange: "update_with_same_data_raises_version",
        RotationForgetsTheOldDigest: "rotated_token_is_valid_for_its_grace",
        GraceIsLonger: "rotated_token_is_valid_for_its_grace",
        GraceIsNeverZero: "rotation_without_grace_ends_old_token",
        RotatedTwice: "second_rotation_of_a_token_conflicts" "concurrent_rotations_apply_one",
        OlderDigestIsForgotten: "second_rotation_ends_first_token",
        TouchDoesNothing: "touch_respects_its_granularity",
        TouchIsAlwaysMade: "touch_respects_its_granularity",
        RevokedAreAbsent: "session_is_revoked_by_token_id_or_owner",
        InactiveConflicts: "inactive_session_is_not_changed",
        RevokeDoesNothing: "session_is_revoked_by_token_id_or_owner",
        OwnerIsNotCompared: "session_is_revoked_by_token_id_or_owner",
        SecondRevokeFindsNothing: "second_revoke_finds_and_ends_nothing",
        NothingIsAnError: "revoking_unknown_session_is_no_error",
        PreviousTokenFindsNothing: "previous_token_revokes_within_its_grace",
        KeptSessionIsEnded: "revoke_all_can_keep_one_session",
        LoginAfterRevokeAllIsRefused: "login_after_revoke_all_is_active",
        LoginStartIsIgnored: "login_from_before_revoke_all_is_superseded",
        DigestsOfActiveOnly: "digests_include_ended_sessions",
        JournalForgetsDigests: "changes_are_journaled_with_old_digests",
        LastIdIsForgotten: "several_sessions_are_revoked_by_their_ids",
        TouchIsAnUpdate: "touch_is_not_journaled",
        JournalSkips: "next_read_misses_no_change",
        OtherLifeIsIgnored: "position_of_another_life_reads_everything",
        SweepTakesAll: "sweep_keeps_recently_ended_sessions",
        PurgeTakesAll: "purge_keeps_recent_changes",
        SweptUsersLoseTheirEpoch: "swept_users_keep_their_revoke_all",
        ErasureTakesActive: "erasure_deletes_ended_sessions_of_one_user",
        ErasureTakesOthers: "erasure_deletes_ended_sessions_of_one_user",
        ErasureHasNoLimit: "erasure_deletes_ended_sessions_of_one_user",
        ErasedUserLosesTheEpoch: "erased_user_keeps_their_revoke_all",
        OneCacheIsAssumed: "node_with_another_cache_is_counted",
        RenewalIsForgotten: "node_with_another_cache_is_counted",
        ForgetTakesAllNodes: "forgotten_node_takes_no_other_with_it",
    }
    /// False replies of a store that is down, each with the check that must find it.
    pub(super) const LIES = {
        AbsentWhileDown: "reads_return_errors",
        NoSessionsWhileDown: "reads_return_errors",
        NothingToRevokeWhileDown: "changes_return_errors",
        ReadyWhileDown: "store_reports_that_it_is_down",
    }
}

pub(super) struct Wrapped {
    pub(super) store: SqliteStore,
    pub(super) mistake: Mistake,
    pub(super) down: bool,
    /// Whether the epochs of users are lost.
    pub(super) lost_epochs: AtomicBool,
    /// The registered nodes. `SqliteStore` records none, because only one process uses it.
    pub(super) nodes: Mutex<HashMap<RegistrationId, CacheId>>,
}

impl Wrapped {
    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    /// Fails if the store is down, except with this false reply.
    fn up_or(&self, lie: Mistake) -> Result<(), StoreError> {
        if self.down && self.mistake != lie { Err(error()) } else { Ok(()) }
    }

    fn up(&self) -> Result<(), StoreError> {
        if self.down { Err(error()) } else { Ok(()) }
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<RegistrationId, CacheId>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn is_alive(&self, digest: TokenDigest) -> Result<bool, StoreError> {
        let loaded = self.store.load(&[digest]).await?;
        Ok(matches!(loaded.rows[0], Row::Alive { .. }))
    }
}

fn error() -> StoreError {
    StoreError::new(StoreErrorKind::Unreachable, "injected error")
}

fn with_data(session: &Session, data: Box<RawValue>) -> Session {
    let parts = session.parts();
    Session::from(SessionParts { data, ..parts })
}

impl SessionStore for Wrapped {
    async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        self.up_or(M::AbsentWhileDown)?;
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
        self.up()?;
        self.store.login_snapshot().await
    }

    async fn create(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
    ) -> Result<Creation, StoreError> {
        self.up()?;
        let mut new = new.clone();
        match self.mistake {
            M::IdleTimeoutIsCut => {
                let secs = |idle: Duration| Duration::from_secs(idle.as_secs());
                new.idle_timeout = new.idle_timeout.map(secs);
            }
            M::IdleTimeoutIsIgnored => new.idle_timeout = None,
            M::PersistenceIsForgotten => new.persistent = false,
            M::LoginStartIsIgnored => new.begun = None,
            M::SweptUsersLoseTheirEpoch | M::ErasedUserLosesTheEpoch => {
                new.begun = new.begun.filter(|_| !self.lost_epochs.load(Relaxed));
            }
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
        self.up()?;
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

    async fn revoke(&self, target: &Target, note: &RevocationNote) -> Result<Revoked, StoreError> {
        self.up_or(M::NothingToRevokeWhileDown)?;
        let target = match (self.mistake, target.clone()) {
            (M::OwnerIsNotCompared, Target::OwnedBy(id, _)) => Target::Id(id),
            (M::LastIdIsForgotten, Target::Ids(ids)) => Target::Ids(ids[..ids.len() - 1].to_vec()),
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
        self.store.revoke(&target, note).await
    }

    async fn update(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> Result<Change, StoreError> {
        self.up()?;
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
        self.up()?;
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
        self.up()?;
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
        self.up_or(M::NoSessionsWhileDown)?;
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
        self.up()?;
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

    async fn sweep_users(
        &self,
        retention: Duration,
        after: Option<&str>,
        most: u32,
    ) -> Result<UserSweep, StoreError> {
        self.lost_epochs.store(self.has(M::SweptUsersLoseTheirEpoch), Relaxed);
        self.store.sweep_users(retention, after, most).await
    }

    async fn erase_sessions(&self, user_id: &str, most: u32) -> Result<u64, StoreError> {
        self.lost_epochs.store(self.has(M::ErasedUserLosesTheEpoch), Relaxed);
        match self.mistake {
            M::ErasureTakesActive => {
                let all = Target::User { user_id: user_id.to_owned(), keep: None };
                self.store.revoke(&all, &"erased".into()).await?;
            }
            M::ErasureTakesOthers => {
                let erased = self.store.erase_sessions(user_id, most).await?;
                self.store.sweep(Duration::ZERO, 1_000).await?;
                return Ok(erased);
            }
            _ => {}
        }
        let most = if self.has(M::ErasureHasNoLimit) { u32::MAX } else { most };
        self.store.erase_sessions(user_id, most).await
    }

    async fn register_node(&self, node: &NodeRegistration) -> Result<Option<StoreId>, StoreError> {
        let known = self.nodes().insert(node.id, node.cache);
        if known.is_some() && self.has(M::RenewalIsForgotten) {
            self.nodes().remove(&node.id);
        }
        Ok(None)
    }

    async fn forget_node(&self, id: RegistrationId) -> Result<(), StoreError> {
        let all = self.has(M::ForgetTakesAllNodes);
        self.nodes().retain(|other, _| !all && *other != id);
        Ok(())
    }

    async fn is_one_cache(&self, cache: &CacheId) -> Result<bool, StoreError> {
        let is_one = self.nodes().values().all(|other| other == cache);
        Ok(is_one || self.has(M::OneCacheIsAssumed))
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
        self.up_or(M::ReadyWhileDown)?;
        if self.has(M::ProbeFails) {
            return Err(error());
        }
        self.store.probe().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
