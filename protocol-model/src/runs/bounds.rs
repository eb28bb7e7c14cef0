//! B: the bound D. Redis may do anything, and the journal alone keeps R1Δ.

use super::{first, leases::one};
use crate::protocol::*;
use crate::run::Run;

pub(super) fn runs() -> Vec<Run> {
    vec![
        first(
            "B1 bound",
            "fail-closed, snapshot tailing, one server, lost UNLINK and fence, crash, old \
                dump",
            |c| {
                one(c);
                bound(c);
                c.faults.evict = 1;
                c.symmetry = true;
            },
        )
        .holds(RD)
        .reaches(LATE)
        .slow(),
        first(
            "B2 bound",
            "fail-closed, snapshot tailing, hostile Redis (replays any sealed entry), node \
                restarts",
            |c| {
                bound(c);
                c.faults.evict = 255;
                c.faults.hostile = true;
                c.faults.node_restart = 2;
                c.symmetry = true;
            },
        )
        .holds(RD)
        .reaches(LATE)
        .slow(),
        first(
            "B3 bound",
            "fail-closed, hostile, no incarnation, no lease, plain SQL: D needs none of them",
            |c| {
                bound(c);
                c.faults.evict = 255;
                c.faults.hostile = true;
                c.made = Made::Constant;
                c.fill = Fill::NoLease;
                c.faults.plain_sql = true;
                c.faults.node_restart = 2;
                c.symmetry = true;
            },
        )
        .holds(RD)
        .reaches(LATE),
        first(
            "B4 bound update",
            "data update, hostile Redis, revoked-set knows the least version",
            |c| {
                bound(c);
                c.faults.evict = 255;
                c.faults.hostile = true;
                c.mode = Mode::Update;
                c.symmetry = true;
            },
        )
        .holds(RD)
        .reaches(NEW_HIT),
        first(
            "B5 available",
            "`available`, one server, R1 (immediate) without any journal help",
            |c| {
                one(c);
                c.fail_closed = false;
                c.journal = true;
                c.mistakes.time_window = true;
                c.faults.node_restart = 1;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .slow(),
    ]
}

/// Nodes read the journal, and the time comes when D has passed.
pub(super) fn bound(c: &mut Config) {
    c.journal = true;
    c.bound = Bound::D;
}
