//! D: after healing, no entry says "valid" of what has ended (R8).

use super::{failovers::small, first, leases::one};
use crate::protocol::*;
use crate::run::Run;

pub(super) fn runs() -> Vec<Run> {
    vec![
        first(
            "D1 R8",
            "DESIGN (run_id), failover and failback, journal's UNLINK once per row",
            |c| {
                small(c);
                c.made = Made::RunId;
                r8(c);
                c.replay = false;
            },
        )
        .breaks(R8)
        .reaches(QUIET)
        .slow(),
        first(
            "D2 R8",
            "the same, replay after every connect; connections survive failover and failback",
            |c| {
                small(c);
                c.made = Made::RunId;
                r8(c);
            },
        )
        .breaks(R8)
        .reaches(QUIET)
        .slow(),
        first("D2b R8", "the same, Sentinel-like kills", |c| {
            small(c);
            c.made = Made::RunId;
            r8(c);
            c.faults.cut_on_failover = true;
            c.symmetry = true;
        })
        .holds(R8)
        .reaches(QUIET)
        .slow(),
        first(
            "D3 R8",
            "replid in the key, rechecked, replica in step, replay after every connect and \
                change of incarnation",
            |c| {
                small(c);
                r8(c);
                c.check = Check::EachSecond;
                c.faults.lag = false;
                c.symmetry = true;
            },
        )
        .holds(R8)
        .reaches(QUIET)
        .slow(),
        first(
            "D3b R8",
            "replid in the value, rechecked, replay likewise",
            |c| {
                small(c);
                r8(c);
                c.place = Place::Value;
                c.check = Check::EachSecond;
                c.symmetry = true;
            },
        )
        .holds(R8)
        .reaches(QUIET)
        .slow(),
        first("D3c R8", "replid in the value, rechecked, no replay", |c| {
            small(c);
            r8(c);
            c.replay = false;
            c.place = Place::Value;
            c.check = Check::EachSecond;
            c.symmetry = true;
        })
        .holds(R8)
        .reaches(QUIET)
        .slow(),
        first(
            "D4 R8",
            "one server, run_id, all faults, UNLINK once per row (until acknowledged)",
            |c| {
                one(c);
                r8(c);
                c.replay = false;
                c.symmetry = true;
            },
        )
        .holds(R8)
        .reaches(QUIET)
        .slow(),
    ]
}

fn r8(c: &mut Config) {
    c.journal = true;
    c.quiet = true;
}
