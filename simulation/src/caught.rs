//! Every mutant is caught by its check, in a schedule in which the unbroken one keeps every promise.

use session_testkit::invariants::{Invariant, Outcome, Verdict};

use crate::mutants::Mistake;
use crate::plan::Plan;
use crate::schedule::{run, seed};
use crate::schedules::{base, broken};
use crate::shrink::shrink;

/// So many schedules are tried at most.
const TRIES: u64 = 20_000;

macro_rules! caught {
    ($($name:ident: $mistake:ident by $check:ident;)*) => {$(
        #[test]
        fn $name() {
            is_caught(Mistake::$mistake, Invariant::$check);
        }
    )*};
}
caught! {
    a_fill_without_a_lease: WithoutALease by R1;
    set_nx_and_a_tombstone: TombstoneAndSetNx by R1;
    a_lease_nonce_that_is_reused: NonceReused by R1;
    values_without_incarnation: WithoutIncarnation by R1;
    a_fill_sealed_with_the_present_incarnation: SealedWithThePresent by R1;
    no_outer_deadline: NoDeadline by R9;
    unlink_before_commit_only: UnlinkBeforeCommitOnly by R1;
    no_unlink_at_all: NeverUnlinks by R1;
    joining_a_read_under_way: JoinsAReadUnderWay by R1;
    an_update_that_skips_the_unlink: UpdateSkipsUnlink by R5;
    a_rotation_that_skips_the_unlink: RotateSkipsUnlink by R1;
    row_level_security_taken_for_invalid: HiddenIsInvalid by R7;
    an_error_of_the_store_taken_for_invalid: ErrorIsInvalid by R7;
    a_row_that_stays_locked_taken_for_invalid: LockedIsInvalid by R3;
    a_journal_that_is_not_read: JournalUnread by R1Delta;
    a_journal_read_from_behind_the_last_row: JournalFromTheLastRow by R1Delta;
    a_journal_read_by_time: JournalByTime by R1Delta;
    hits_believed_before_the_first_load: BelievesBeforeTheFirstLoad by R5;
    the_age_looked_at_after_the_set: AgeAfterTheSet by R1Delta;
    a_purge_that_leaves_the_floor: PurgeLeavesTheFloor by R1Delta;
    a_purge_past_the_running: PurgesPastTheRunning by R1Delta;
}

fn is_caught(mistake: Mistake, check: Invariant) {
    let base = base();
    for number in 0..TRIES {
        let plan = Plan::of(seed(base, number));
        if run(&plan, Some(mistake), false)
            .verdicts
            .of(check)
            .outcome()
            != Outcome::Broken
        {
            continue;
        }
        assert_eq!(
            broken(&run(&plan, None, false)),
            None,
            "the unbroken one, same seed"
        );
        let least = shrink(&plan, Some(mistake), check);
        assert_eq!(
            broken(&run(&least, None, false)),
            None,
            "the unbroken one, same schedule"
        );
        let ran = run(&least, Some(mistake), true);
        let Verdict::Broken { violations, .. } = ran.verdicts.of(check) else {
            panic!("what was shrunk is not what was run");
        };
        println!(
            "{mistake:?} is caught by {check} in schedule {} (the {}th):\n\n{least}\n{}\n",
            plan.seed,
            number + 1,
            ran.trace.join("\n"),
        );
        for violation in violations {
            println!("{violation}");
        }
        return;
    }
    panic!("{mistake:?} survived {TRIES} schedules: nothing breaks {check}");
}
