//! The bugs of the store.

super::super::mistakes! {
    pub(in super::super) enum Mistake = None;
    /// Each bug with the checks that must find it.
    pub(in super::super) const MISTAKES = {
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
        TouchIsAnUpdate: "touch_is_not_journaled",
        JournalSkips: "next_read_misses_no_change",
        OtherLifeIsIgnored: "position_of_another_life_reads_everything",
        SweepTakesAll: "sweep_keeps_recently_ended_sessions",
        PurgeTakesAll: "purge_keeps_recent_changes",
    }
}
