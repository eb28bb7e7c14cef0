//! The mistakes that the store can make.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Mistake {
    None,
    StoreIdIsMadeUp,
    IdleTimeoutIsCut,
    PersistenceIsForgotten,
    DataAreCut,
    LabelIsCut,
    RowsAreReversed,
    RowsAreUnique,
    TakenIsOverlooked,
    LoginsRace,
    ListIsOldestFirst,
    LifetimeIsLonger,
    LifetimeIsShorter,
    IdleTimeoutIsIgnored,
    ProbeFails,
    VersionIsNotCompared,
    SameDataIsNoChange,
    RotationForgetsTheOldDigest,
    GraceIsLonger,
    GraceIsNeverZero,
    RotatedTwice,
    OldTokenGoesOnCounting,
    TouchDoesNothing,
    TouchIsAlwaysMade,
    TheDeadAreNotFound,
    TheDeadConflict,
    RevokeDoesNothing,
    OwnerIsNotCompared,
    TheEndedAreNotFound,
    NothingIsAnError,
    PreviousTokenFindsNothing,
    TheKeptOneIsEnded,
    LoginAfterRevokeAllIsRefused,
    WhenTheLoginBeganIsIgnored,
    DigestsOfTheLivingOnly,
    JournalForgetsDigests,
    TouchIsAnUpdate,
    JournalSkips,
    OtherLifeIsIgnored,
    SweepTakesAll,
    PurgeTakesAll,
}

use Mistake as M;

/// Each with the check that must catch it.
pub(in super::super) const MISTAKES: &[(Mistake, &str)] = &[
    (M::StoreIdIsMadeUp, "what_was_created_is_loaded"),
    (M::IdleTimeoutIsCut, "what_was_created_is_loaded"),
    (M::PersistenceIsForgotten, "what_was_created_is_loaded"),
    (M::DataAreCut, "the_largest_session_is_kept"),
    (M::LabelIsCut, "the_largest_session_is_kept"),
    (
        M::RowsAreReversed,
        "answers_come_in_the_order_of_the_digests",
    ),
    (M::RowsAreUnique, "answers_come_in_the_order_of_the_digests"),
    (M::TakenIsOverlooked, "a_digest_is_taken_once"),
    (M::LoginsRace, "of_many_logins_at_once_one_is_created"),
    (
        M::ListIsOldestFirst,
        "the_list_shows_the_living_newest_first",
    ),
    (M::LabelIsCut, "the_list_shows_the_living_newest_first"),
    (M::LifetimeIsLonger, "a_session_past_its_time_is_absent"),
    (M::LifetimeIsShorter, "a_session_past_its_time_is_absent"),
    (
        M::IdleTimeoutIsIgnored,
        "an_unused_session_is_absent_after_its_idle_timeout",
    ),
    (M::ProbeFails, "it_says_that_it_works"),
    (M::VersionIsNotCompared, "an_update_compares_the_version"),
    (
        M::SameDataIsNoChange,
        "an_update_with_the_same_data_is_a_change",
    ),
    (
        M::VersionIsNotCompared,
        "of_many_updates_at_once_one_is_made",
    ),
    (
        M::RotationForgetsTheOldDigest,
        "a_rotated_token_counts_for_its_grace",
    ),
    (M::GraceIsLonger, "a_rotated_token_counts_for_its_grace"),
    (M::GraceIsNeverZero, "without_grace_the_old_token_is_gone"),
    (M::RotatedTwice, "a_token_is_rotated_once"),
    (M::RotatedTwice, "of_many_rotations_at_once_one_is_made"),
    (
        M::OldTokenGoesOnCounting,
        "the_token_before_the_last_rotation_is_gone",
    ),
    (M::TouchDoesNothing, "a_touch_moves_in_steps"),
    (M::TouchIsAlwaysMade, "a_touch_moves_in_steps"),
    (M::TheDeadConflict, "the_dead_are_not_changed"),
    (
        M::RevokeDoesNothing,
        "a_session_is_revoked_by_token_id_and_owner",
    ),
    (
        M::OwnerIsNotCompared,
        "a_session_is_revoked_by_token_id_and_owner",
    ),
    (
        M::TheDeadAreNotFound,
        "a_session_is_revoked_by_token_id_and_owner",
    ),
    (
        M::TheEndedAreNotFound,
        "revoking_twice_finds_it_and_ends_nothing",
    ),
    (M::NothingIsAnError, "revoking_nothing_is_no_error"),
    (
        M::PreviousTokenFindsNothing,
        "the_previous_token_revokes_within_its_grace",
    ),
    (M::TheKeptOneIsEnded, "all_of_a_user_but_one"),
    (
        M::LoginAfterRevokeAllIsRefused,
        "a_login_after_revoke_all_is_new",
    ),
    (
        M::WhenTheLoginBeganIsIgnored,
        "a_login_from_before_revoke_all_is_superseded",
    ),
    (
        M::DigestsOfTheLivingOnly,
        "digests_are_those_of_dead_and_living",
    ),
    (
        M::JournalForgetsDigests,
        "changes_are_in_the_journal_with_what_was_before",
    ),
    (M::TouchIsAnUpdate, "a_touch_is_not_in_the_journal"),
    (
        M::OtherLifeIsIgnored,
        "a_position_of_another_life_means_nothing",
    ),
    (
        M::SweepTakesAll,
        "a_sweep_spares_what_has_not_ended_long_ago",
    ),
    (M::PurgeTakesAll, "a_purge_spares_what_is_not_old"),
    (M::JournalSkips, "a_read_goes_on_where_the_last_one_ended"),
];
