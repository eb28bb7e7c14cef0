//! What is done wrong elsewhere. Each must be caught.

use super::{bounds::bound, first};
use crate::protocol::*;
use crate::run::Run;

pub(super) fn runs() -> Vec<Run> {
    vec![
        first("mutant 1", "get, else set: no lease", |c| {
            c.fill = Fill::NoLease;
        })
        .breaks(R1),
        first("mutant 2", "tombstone + SET NX, tombstone lost", |c| {
            c.fill = Fill::Tombstone;
            c.faults.evict = 255;
        })
        .breaks(R1),
        first("mutant 3", "UNLINK before COMMIT only", |c| {
            c.mistakes.unlink_before_only = true;
        })
        .breaks(R1),
        first("mutant 4", "join a Postgres read in flight", |c| {
            c.mistakes.join_in_flight = true;
        })
        .breaks(R1),
        first("mutant 5", "no incarnation, old dump", |c| {
            c.made = Made::Constant;
            (c.faults.crash, c.faults.save) = (1, 1);
        })
        .breaks(R1),
        first("mutant 6", "lease, but the fill is a plain SET", |c| {
            c.fill = Fill::PlainSet;
        })
        .breaks(R1),
        first("mutant 7", "lease nonce reused", |c| {
            c.mistakes.reuse_nonce = true;
        })
        .breaks(R1),
        first(
            "mutant 8",
            "node starts with an empty revoked-set and trusts hits",
            |c| {
                bound(c);
                (c.faults.fence_loss, c.faults.unlink_loss) = (true, true);
                c.mistakes.trust_at_start = true;
                c.faults.node_restart = 1;
            },
        )
        .breaks(RD),
        first(
            "mutant 9",
            "Postgres read begins before the lease is granted",
            |c| c.mistakes.read_before_lease = true,
        )
        .breaks(R1),
        first(
            "mutant 10",
            "a second revoke says Propagated without UNLINK",
            |c| {
                c.faults.fence_loss = true;
                c.revokers = 2;
                c.mistakes.no_unlink_if_already = true;
            },
        )
        .breaks(R1),
        first("mutant 11", "negative caching", |c| {
            c.mode = Mode::Create;
            c.mistakes.negative = true;
        })
        .breaks(R3),
        first(
            "mutant 12",
            "client library reconnects by itself, incarnation kept; old dump",
            |c| {
                c.mistakes.silent_reconnect = true;
                (c.faults.crash, c.faults.save) = (1, 1);
            },
        )
        .breaks(R1),
        first(
            "mutant 13",
            "incarnation in the value, fill sealed with the incarnation at fill time, other \
                connection",
            |c| {
                c.place = Place::Value;
                c.fill_link = FillLink::OtherNewSeal;
                (c.faults.crash, c.faults.save) = (1, 1);
            },
        )
        .breaks(R1),
        first("mutant 14", "time-window tailing, row commits late", |c| {
            bound(c);
            (c.faults.fence_loss, c.faults.unlink_loss) = (true, true);
            c.mistakes.time_window = true;
        })
        .breaks(RD),
        first(
            "mutant 15",
            "journal's age counted from the end of the read",
            |c| {
                bound(c);
                (c.faults.fence_loss, c.faults.unlink_loss) = (true, true);
                c.mistakes.age_from_end = true;
            },
        )
        .breaks(RD),
        first("mutant 16", "policy `available`: bound D", |c| {
            bound(c);
            (c.faults.fence_loss, c.faults.unlink_loss) = (true, true);
            c.fail_closed = false;
        })
        .breaks(RD),
        first("mutant 17", "update: SET NX fill with tombstone", |c| {
            c.mode = Mode::Update;
            c.fill = Fill::Tombstone;
            c.faults.evict = 255;
        })
        .breaks(R1),
        first(
            "mutant 18",
            "revoked-set looked at before, the journal's age after",
            |c| {
                bound(c);
                (c.faults.fence_loss, c.faults.unlink_loss) = (true, true);
                c.mistakes.set_before_age = true;
            },
        )
        .breaks(RD),
    ]
}
