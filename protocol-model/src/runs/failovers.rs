//! C: two servers. What holds at once, and what only after a bound.

use super::{bounds::bound, first, leases::one};
use crate::protocol::*;
use crate::run::Run;

pub(super) fn runs() -> Vec<Run> {
    vec![
        first(
            "C1 design",
            "planned failover, connections survive it, run_id at connect",
            |c| {
                two(c);
                c.faults.promote = 1;
                c.faults.evict = 0;
                c.faults.link_loss = false;
                (c.faults.fence_loss, c.faults.unlink_loss) = (false, false);
            },
        )
        .breaks(R1),
        first(
            "C1b design",
            "Sentinel-like (connections killed, no split): run_id at connect, failover and \
                failback",
            |c| {
                two(c);
                c.faults.cut_on_failover = true;
            },
        )
        .breaks(R1),
        first(
            "C1c design",
            "the same as C1, replica always in step",
            |c| {
                two(c);
                (c.faults.promote, c.faults.evict) = (1, 0);
                (
                    c.faults.link_loss,
                    c.faults.fence_loss,
                    c.faults.unlink_loss,
                    c.faults.lag,
                ) = (false, false, false, false);
            },
        )
        .breaks(R1),
        first(
            "C1d design",
            "the same as C1b, replica always in step",
            |c| {
                two(c);
                c.faults.lag = false;
                c.faults.cut_on_failover = true;
            },
        )
        .breaks(R1),
        first(
            "C1e run_id value",
            "C1d with the incarnation in the value",
            |c| {
                two(c);
                c.faults.lag = false;
                c.place = Place::Value;
                c.faults.cut_on_failover = true;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .reaches(HIT_AFTER),
        first(
            "C2 replid",
            "Sentinel-like, replid in the key, at connect",
            |c| {
                two(c);
                c.made = Made::Replid;
                c.faults.cut_on_failover = true;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .reaches(HIT_AFTER)
        .slow(),
        first(
            "C2b run_id value",
            "Sentinel-like, run_id in the value",
            |c| {
                two(c);
                c.place = Place::Value;
                c.faults.cut_on_failover = true;
            },
        )
        .breaks(R1),
        first(
            "C2c replid value",
            "Sentinel-like, replid in the value",
            |c| {
                two(c);
                c.made = Made::Replid;
                c.place = Place::Value;
                c.faults.cut_on_failover = true;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .reaches(HIT_AFTER)
        .slow(),
        first(
            "C3 replid",
            "connections survive, no split, replid in the key, rechecked each second",
            |c| {
                two(c);
                c.made = Made::Replid;
                c.check = Check::EachSecond;
            },
        )
        .breaks(R1),
        first(
            "C3b replid",
            "replica in step (no lost UNLINK), revoker's incarnation stale: Propagated + \
                recheck period",
            |c| {
                small(c);
                c.faults.lag = false;
                c.check = Check::EachSecond;
                c.bound = Bound::Recheck;
            },
        )
        .breaks(RD),
        first(
            "C3c replid",
            "the same, Propagated only if UNLINK's reply shows role and incarnation unchanged",
            |c| {
                small(c);
                c.faults.lag = false;
                c.check = Check::EachSecond;
                c.proof = Proof::Verified;
                c.bound = Bound::Recheck;
                c.symmetry = true;
            },
        )
        .holds(RD)
        .reaches(LATE)
        .slow(),
        first(
            "C3d replid value",
            "the same, incarnation in the value, Propagated on the reply",
            |c| {
                small(c);
                c.faults.lag = false;
                c.place = Place::Value;
                c.check = Check::EachSecond;
                c.bound = Bound::Recheck;
                c.symmetry = true;
            },
        )
        .holds(R1 | RD)
        .reaches(LATE),
        first(
            "C3e replid",
            "C3c with a lagging replica: a later failover brings V back to a connection not \
                yet rechecked",
            |c| {
                small(c);
                c.check = Check::EachSecond;
                c.proof = Proof::Verified;
                c.bound = Bound::Recheck;
            },
        )
        .breaks(RD),
        first(
            "C4 atomic",
            "role and incarnation checked with every command, no split, replid in the key",
            |c| {
                small(c);
                c.check = Check::EachCommand;
                c.faults.evict = 1;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .reaches(HIT_AFTER)
        .slow(),
        first(
            "C4b atomic value",
            "the same, incarnation in the value",
            |c| {
                small(c);
                c.check = Check::EachCommand;
                c.place = Place::Value;
                c.faults.evict = 1;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .reaches(HIT_AFTER)
        .slow(),
        first("C5 split", "the same under split brain", |c| {
            two(c);
            c.made = Made::Replid;
            c.check = Check::EachCommand;
            c.faults.split = true;
        })
        .breaks(R1)
        .slow(),
        first(
            "C5b split",
            "Sentinel-like kills, replid at connect, split brain",
            |c| {
                two(c);
                c.made = Made::Replid;
                c.faults.cut_on_failover = true;
                c.faults.split = true;
            },
        )
        .breaks(R1)
        .slow(),
        first(
            "C6 bound",
            "two servers, split brain, failback, DESIGN's run_id: D after COMMIT, fail-closed",
            |c| {
                small(c);
                c.made = Made::RunId;
                bound(c);
                c.faults.split = true;
                c.faults.promote = 1;
                c.symmetry = true;
            },
        )
        .holds(RD)
        .reaches(LATE)
        .slow(),
        first(
            "C8 crash",
            "Sentinel-like, replid in the key, one promotion, one crash, restart empty, \
                resynced or from an old dump",
            |c| {
                small(c);
                (c.faults.promote, c.faults.crash, c.faults.save) = (1, 1, 1);
                c.faults.cut_on_failover = true;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .reaches(HIT_AFTER)
        .slow(),
        first("C8b crash", "the same, incarnation in the value", |c| {
            small(c);
            (c.faults.promote, c.faults.crash, c.faults.save) = (1, 1, 1);
            c.place = Place::Value;
            c.faults.cut_on_failover = true;
            c.symmetry = true;
        })
        .holds(R1)
        .reaches(HIT_AFTER)
        .slow(),
        first(
            "C7 backlog",
            "one server whose replid changes by itself (backlog freed), replid in the key, \
                rechecked",
            |c| {
                c.made = Made::Replid;
                c.check = Check::EachSecond;
                c.faults.rekey = 2;
            },
        )
        .breaks(R1),
        first(
            "C7b backlog",
            "the same, Propagated + recheck period",
            |c| {
                c.made = Made::Replid;
                c.check = Check::EachSecond;
                c.faults.rekey = 2;
                c.bound = Bound::Recheck;
            },
        )
        .breaks(RD),
        first(
            "C7c backlog value",
            "the same with the incarnation in the value: R1 at once, all faults of one server",
            |c| {
                one(c);
                c.made = Made::Replid;
                c.place = Place::Value;
                c.check = Check::EachSecond;
                c.faults.rekey = 2;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .reaches(HIT)
        .slow(),
        first(
            "C7d backlog",
            "the same with the run_id in the key: a stable run_id is immune",
            |c| {
                one(c);
                c.check = Check::EachSecond;
                c.faults.rekey = 2;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .reaches(HIT),
    ]
}

/// Two servers. Evictions are few, to keep the space small: a failover that missed a write loses it too.
fn two(c: &mut Config) {
    c.servers = 2;
    c.faults.promote = 2;
    c.faults.evict = 1;
    c.faults.fence_loss = true;
    c.faults.unlink_loss = true;
    c.faults.link_loss = true;
}

/// Two servers, and messages lost only by failovers and with their links.
pub(super) fn small(c: &mut Config) {
    c.servers = 2;
    c.made = Made::Replid;
    c.faults.promote = 2;
}
