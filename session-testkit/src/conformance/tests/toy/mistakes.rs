//! The bugs of the toy.

super::super::mistakes! {
    pub(in super::super) enum Mistake = None, Panics, Hangs;
    /// Each bug with the checks that must find it.
    pub(in super::super) const MISTAKES = {
        FillStoresNothing: "miss_grants_lease_that_fills",
        LeaseIsTakenOver: "held_lease_blocks_other_fills",
        LeaseIsCheckedThenSet: "concurrent_misses_grant_one_lease",
        LeasesOfOneLookUpAreGrantedTogether: "duplicate_digest_gets_one_lease",
        LeaseLapsesEarly: "lease_lasts_exactly_its_ttl",
        LeaseNeverLapses:
            "lease_lasts_exactly_its_ttl"
            "lapsed_lease_does_not_fill"
            "dropped_lease_lapses",
        LapsedLeaseFills: "lapsed_lease_does_not_fill",
        FillIgnoresTheLease:
            "lease_lasts_exactly_its_ttl"
            "lapsed_lease_does_not_fill"
            "lost_leases_never_fill"
            "invalidate_removes_leases"
            "fence_prevents_fills",
        NonceIsAByte: "lost_leases_never_fill",
        NonceIsAlwaysTheSame: "lost_leases_never_fill",
        XminIsLost: "entry_read_back_is_identical",
        DataAreReformatted: "entry_read_back_is_identical",
        LifetimeIsIgnored: "entry_expires_after_its_lifetime",
        LifetimeIsQuartered: "entry_expires_after_its_lifetime",
        BusyAfterCancellation: "cancelled_operations_leave_cache_consistent",
        InvalidateDoesNothing: "invalidate_removes_entries",
        InvalidateTakesTheFirst: "invalidate_removes_entries",
        InvalidateLeavesTheLease: "invalidate_removes_leases",
        InvalidateLeavesTheFence: "invalidate_removes_fences",
        FillChecksThenSets: "invalidate_wins_over_concurrent_fill",
        NothingIsAnError: "empty_digest_list_is_no_error",
        FenceDoesNothing: "fence_prevents_fills",
        FenceSparesTheLease: "fence_prevents_fills",
        FenceLapsesEarly: "fence_lapses",
        FenceNeverLapses: "fence_lapses",
        JudgeIsNotCalled: "fresh_entry_is_served_and_stays",
        RejectedIsServed: "rejected_entry_is_replaced_by_lease",
        RejectedEntryStays: "rejected_entry_is_replaced_by_lease",
        RejectedIsNeverReplaced: "rejected_entry_is_replaced_by_lease",
        ForeignIsServed: "foreign_entry_is_replaced_by_lease",
        ForeignIsNeverReplaced: "foreign_entry_is_replaced_by_lease",
        UnsureIsServed: "undecided_entry_stays",
        UnsureIsReplaced: "undecided_entry_stays",
        UnsureIsRemoved: "undecided_entry_stays",
        LeaseReplacesAnything: "only_the_judged_entry_is_replaced",
        ResultsAreReversed: "results_match_the_order_of_digests",
        KeyIsAPrefix: "keys_are_independent",
        LeasesAreForTheLastKey: "lease_fills_only_its_own_key",
        BackendHasNoName: "status_is_correct",
        AvailableExceedsSize: "status_is_correct",
        ProbeFails: "probe_is_correct",
        ProbeClearsAll: "probe_is_correct",
    }
}
