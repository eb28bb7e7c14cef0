//! A2: once "invalid" was answered, no validate says "valid" again (R2).

use super::{first, leases::one};
use crate::protocol::*;
use crate::run::Run;

pub(super) fn runs() -> Vec<Run> {
    vec![
        first("A2 R2", "DESIGN, only a lost fence", |c| {
            c.faults.fence_loss = true;
            c.monotone = true;
        })
        .holds(R1)
        .breaks(R2),
        first(
            "A2b R2",
            "DESIGN, only T expired or evicted before COMMIT",
            |c| {
                c.faults.evict = 255;
                c.monotone = true;
            },
        )
        .holds(R1)
        .breaks(R2),
        first("A2c R2", "DESIGN, revoked by plain SQL, no fault", |c| {
            c.faults.plain_sql = true;
            c.monotone = true;
        })
        .breaks(R2),
        first(
            "A2d R2",
            "fix: revoked -> UNLINK before Invalid, best effort; all faults",
            |c| {
                one(c);
                c.cleanup = Cleanup::BestEffort;
                c.monotone = true;
                c.symmetry = true;
            },
        )
        .holds(R1)
        .breaks(R2),
        first(
            "A2e R2",
            "fix: the same, Unavailable if UNLINK isn't acknowledged; all faults",
            |c| {
                one(c);
                c.cleanup = Cleanup::OrUnavailable;
                c.monotone = true;
                c.symmetry = true;
            },
        )
        .holds(R1 | R2 | R3)
        .reaches(INVALID),
        first(
            "A2f R2",
            "the same, two revokers, one of them plain SQL",
            |c| {
                one(c);
                c.cleanup = Cleanup::OrUnavailable;
                c.faults.plain_sql = true;
                c.revokers = 2;
                c.monotone = true;
                c.symmetry = true;
            },
        )
        .holds(R1 | R2 | R3)
        .reaches(INVALID)
        .slow(),
    ]
}
