//! F: a dead value (another incarnation's, expired, in the changed-set, garbage) is replaced by a lease.

use super::leases::one;
use super::{built, first};
use crate::protocol::*;
use crate::run::Run;

pub(super) fn runs() -> Vec<Run> {
    vec![
        built(
            "F1 dead",
            "as built: all faults of one server, and any copy may look dead to one node and \
                not to another",
            |c| {
                one(c);
                anything_dead(c);
            },
        )
        .holds(R1 | R3 | TAKEN)
        .reaches(HIT_AFTER | REPLACED)
        .slow(),
        built(
            "F1b dead",
            "the same without crashes, which make other incarnations only",
            |c| {
                one(c);
                anything_dead(c);
                (c.faults.crash, c.faults.save) = (0, 0);
            },
        )
        .holds(R1 | R3 | TAKEN)
        .reaches(HIT | REPLACED),
        built(
            "F2 dead changed-set",
            "what is in the changed-set is dead too: D after the COMMIT, hostile Redis",
            |c| {
                c.journal = true;
                c.bound = Bound::D;
                c.faults.evict = 1;
                c.faults.hostile = true;
                c.faults.node_restart = 1;
                c.symmetry = true;
            },
        )
        .holds(RD)
        .reaches(LATE | REPLACED)
        .slow(),
        built(
            "F3 dead update",
            "data update: what is older than the changed-set's least version is dead, and \
                refilled",
            |c| {
                c.mode = Mode::Update;
                c.journal = true;
                c.bound = Bound::D;
                c.faults.unlink_loss = true;
                c.faults.evict = 1;
                c.symmetry = true;
            },
        )
        .holds(RD | R1)
        .reaches(NEW_HIT | REPLACED),
        first(
            "F4 dead mutant",
            "no lease where something dead was: the copy takes its place by a plain SET",
            |c| {
                c.place = Place::Value;
                c.replace = Replace::NoLease;
                c.faults.looks_dead = true;
            },
        )
        .breaks(R1),
        built(
            "F5 dead mutant",
            "the lease takes the place of whatever is there by now: it takes leases and \
                copies away",
            |c| {
                c.faults.looks_dead = true;
                c.replace = Replace::Unconditional;
            },
        )
        .breaks(TAKEN),
        built(
            "F5b dead",
            "which breaks neither R1 nor R3: compare-and-set is not what they rest on",
            |c| {
                one(c);
                anything_dead(c);
                (c.faults.crash, c.faults.save) = (0, 0);
                c.replace = Replace::Unconditional;
            },
        )
        .holds(R1 | R3)
        .breaks(TAKEN),
        built(
            "F5c dead mutant",
            "but R2, where a leased validate says 'invalid' of a missing row without an \
                UNLINK",
            |c| {
                c.mode = Mode::Delete;
                c.faults.plain_sql = true;
                c.monotone = true;
                c.faults.looks_dead = true;
                c.replace = Replace::Unconditional;
            },
        )
        .breaks(R2),
    ]
}

fn anything_dead(c: &mut Config) {
    c.faults.looks_dead = true;
    c.symmetry = true;
}
