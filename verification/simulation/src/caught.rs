//! Every mutant is caught by its check, in a schedule in which the correct code keeps every
//! promise. A schedule that breaks a promise is shrunk.

use session_testkit::invariants::{Invariant, Outcome, Verdict};

use crate::mutants::Mistake;
use crate::plan::Plan;
use crate::schedule::{run, seed};
use crate::schedules::{base, broken};

/// The maximum of schedules for one mutant.
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
    fill_without_lease: WithoutALease by R1;
    set_nx_and_tombstone: TombstoneAndSetNx by R1;
    lease_nonce_reused: NonceReused by R1;
    values_without_incarnation: WithoutIncarnation by R1;
    fill_sealed_with_present_incarnation: SealedWithThePresent by R1;
    no_outer_deadline: NoDeadline by R9;
    unlink_before_commit_only: UnlinkBeforeCommitOnly by R1;
    no_unlink: NeverUnlinks by R1;
    joins_read_in_flight: JoinsAReadUnderWay by R1;
    update_skips_unlink: UpdateSkipsUnlink by R5;
    rotation_skips_unlink: RotateSkipsUnlink by R1;
    row_level_security_is_invalid: HiddenIsInvalid by R7;
    error_of_store_is_invalid: ErrorIsInvalid by R7;
    locked_row_is_invalid: LockedIsInvalid by R3;
    journal_not_read: JournalUnread by R1Delta;
    journal_read_from_last_row: JournalFromTheLastRow by R1Delta;
    journal_read_by_time: JournalByTime by R1Delta;
    serves_before_first_journal_read: BelievesBeforeTheFirstLoad by R5;
    serves_after_a_pause_before_a_read: BelievesAfterAPause by R1Delta;
    age_read_after_changed_set: AgeAfterTheSet by R1Delta;
    purge_leaves_floor: PurgeLeavesTheFloor by R1Delta;
    purge_past_running_transaction: PurgesPastTheRunning by R1Delta;
}

/// A near hit that the changed-set does not judge. Only nodes with near caches are examined.
#[test]
fn near_cache_without_the_changed_set() {
    is_caught_in(Mistake::JournalUnread, Invariant::R1Delta, |plan| plan.near_caches);
}

fn is_caught(mistake: Mistake, check: Invariant) {
    is_caught_in(mistake, check, |_| true);
}

fn is_caught_in(mistake: Mistake, check: Invariant, counts: impl Fn(&Plan) -> bool) {
    let base = base();
    for number in 0..TRIES {
        let plan = Plan::of(seed(base, number));
        if !counts(&plan) || !breaks(&plan, Some(mistake), check) {
            continue;
        }
        assert_eq!(broken(&run(&plan, None, false)), None, "the correct code, same seed");
        let least = shrink(&plan, Some(mistake), check);
        assert_eq!(broken(&run(&least, None, false)), None, "the correct code, same schedule");
        let ran = run(&least, Some(mistake), true);
        let Verdict::Broken { violations, .. } = ran.verdicts.of(check) else {
            panic!("the shrunk schedule does not break {check}");
        };
        let (seed, trace) = (plan.seed, ran.trace.join("\n"));
        println!("{check} catches {mistake:?} in schedule {seed}, number {number}:\n\n{least}");
        println!("{trace}\n");
        violations.iter().for_each(|violation| println!("{violation}"));
        return;
    }
    panic!("{mistake:?} survived {TRIES} schedules: nothing breaks {check}");
}

fn breaks(plan: &Plan, mistake: Option<Mistake>, check: Invariant) -> bool {
    run(plan, mistake, false).verdicts.of(check).outcome() == Outcome::Broken
}

/// Removes operations and faults for as long as the promise stays broken.
pub(crate) fn shrink(plan: &Plan, mistake: Option<Mistake>, check: Invariant) -> Plan {
    let mut least = plan.clone();
    loop {
        let before = least.operations.len() + least.faults.len();
        for at in (0..before).rev() {
            let mut less = least.clone();
            match at.checked_sub(less.faults.len()) {
                Some(at) => drop(less.operations.remove(at)),
                None => drop(less.faults.remove(at)),
            }
            if breaks(&less, mistake, check) {
                least = less;
            }
        }
        if least.operations.len() + least.faults.len() == before {
            return least;
        }
    }
}
