//! A: one server, every fault of it, no help from the journal. Leases and incarnation alone keep R1.

use super::{first, three};
use crate::protocol::*;
use crate::run::Run;

pub(super) fn runs() -> Vec<Run> {
    vec![
        first("A0 design", "one server, no faults", |c| c.monotone = true)
            .holds(R1 | R2 | R3)
            .reaches(HIT | PROPAGATED | INVALID),
        first(
            "A1 design",
            "one server: any eviction/expiry/FLUSHALL, fence late or lost, UNLINK lost, \
                crash, old dump",
            |c| {
                one(c);
                c.symmetry = true;
            },
        )
        .holds(R1 | R3)
        .reaches(HIT | HIT_AFTER | PROPAGATED | COMMITTED | INVALID),
        three("A0t three", "three validating nodes, no faults", |c| {
            c.monotone = true;
            c.symmetry = true;
        })
        .holds(R1 | R2 | R3)
        .reaches(HIT | PROPAGATED | INVALID),
        three(
            "A1t three",
            "three validating nodes, all faults of one server",
            |c| {
                one(c);
                c.symmetry = true;
            },
        )
        .holds(R1 | R3)
        .reaches(HIT_AFTER)
        .slow(),
        first("A1b design", "the same, two crashes, two dumps", |c| {
            one(c);
            (c.faults.crash, c.faults.save) = (2, 2);
            c.symmetry = true;
        })
        .holds(R1 | R3)
        .reaches(HIT_AFTER)
        .slow(),
        first(
            "A1c design",
            "AG EF: from every state before the revoke, without further faults, a hit",
            one,
        )
        .holds(R1 | R3)
        .reaches(HIT_AFTER)
        .heals(HIT),
        first(
            "A3 design",
            "two revokers at once, all faults of one server",
            |c| {
                one(c);
                c.revokers = 2;
                c.symmetry = true;
            },
        )
        .holds(R1 | R3)
        .reaches(PROPAGATED)
        .slow(),
        first(
            "A4 value",
            "incarnation in the value, constant key, run_id; all faults of one server",
            |c| {
                one(c);
                c.place = Place::Value;
                (c.faults.crash, c.faults.save) = (2, 2);
                c.symmetry = true;
            },
        )
        .holds(R1 | R3)
        .reaches(HIT_AFTER),
        first("A4c value", "AG EF for it", |c| {
            one(c);
            c.place = Place::Value;
        })
        .holds(R1 | R3)
        .reaches(HIT_AFTER)
        .heals(HIT),
        first(
            "A5 create",
            "absent -> valid -> revoked, all faults of one server",
            |c| {
                one(c);
                c.mode = Mode::Create;
                c.symmetry = true;
            },
        )
        .holds(R1 | R3)
        .reaches(INVALID),
        first(
            "A6 update",
            "R5: data update by fence/COMMIT/UNLINK (R1 = stale data after Propagated)",
            |c| {
                one(c);
                c.mode = Mode::Update;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .reaches(NEW_HIT),
        first(
            "A7 fillconn",
            "fill may go out on another connection, with the lease's key",
            |c| {
                one(c);
                c.fill_link = FillLink::OtherSameSeal;
                c.symmetry = true;
            },
        )
        .holds(R1),
        first(
            "A7b fillconn value",
            "the same with the incarnation in the value, sealed with the lease's incarnation",
            |c| {
                one(c);
                c.place = Place::Value;
                c.fill_link = FillLink::OtherSameSeal;
                c.symmetry = true;
            },
        )
        .holds(R1),
    ]
}

/// Every fault of one server.
pub(super) fn one(c: &mut Config) {
    c.faults.evict = 255;
    c.faults.fence_loss = true;
    c.faults.unlink_loss = true;
    c.faults.crash = 1;
    c.faults.save = 1;
}
