//! K: the protocol as it is built, all of it together.

use super::bounds::bound;
use super::built;
use super::leases::one;
use crate::protocol::*;
use crate::run::Run;

pub(super) fn runs() -> Vec<Run> {
    vec![
        built(
            "K1 built",
            "all faults of one server; GET and its reply are two steps",
            |c| {
                one(c);
                c.late_replies = true;
                c.symmetry = true;
            },
        )
        .holds(R1 | R3)
        .reaches(HIT_AFTER | PROPAGATED | COMMITTED | INVALID | REPLACED),
        built(
            "K2 built R2",
            "one server whose UNLINKs are acknowledged: any eviction, late fence, crash, \
                old dump",
            |c| {
                one(c);
                c.faults.unlink_loss = false;
                c.monotone = true;
                c.symmetry = true;
            },
        )
        .holds(R1 | R2 | R3)
        .reaches(HIT_AFTER | INVALID),
        built(
            "K3 built bound",
            "with the journal, fail-closed: D after the COMMIT, UNLINK lost, a node \
                restarts, late replies",
            |c| {
                bound(c);
                c.late_replies = true;
                c.faults.unlink_loss = true;
                c.faults.node_restart = 1;
                c.symmetry = true;
            },
        )
        .holds(RD)
        .reaches(LATE | COMMITTED)
        .slow(),
        built(
            "K4 built create",
            "absent, then valid, then revoked: all faults of one server, R2 as in K2",
            |c| {
                one(c);
                c.mode = Mode::Create;
                c.faults.unlink_loss = false;
                c.monotone = true;
                c.symmetry = true;
            },
        )
        .holds(R1 | R2 | R3)
        .reaches(HIT_AFTER | INVALID)
        .slow(),
        built(
            "K5 built update",
            "R5: a data update, all faults of one server",
            |c| {
                one(c);
                c.mode = Mode::Update;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .reaches(NEW_HIT | COMMITTED),
    ]
}
