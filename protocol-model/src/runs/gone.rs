//! G: a row deleted by plain SQL, and what a validate has to remove before it says "invalid" (R2).

use super::built;
use super::leases::one;
use crate::protocol::*;
use crate::run::Run;

pub(super) fn runs() -> Vec<Run> {
    vec![
        built(
            "G1 gone mutant",
            "row deleted by plain SQL, nothing removed where the row is missing",
            |c| {
                deleted(c);
                c.gone = Gone::Nothing;
            },
        )
        .breaks(R2),
        built(
            "G2 gone",
            "as built: UNLINK unless the validate was granted a lease; no lease is lost",
            deleted,
        )
        .holds(R2 | R3)
        .reaches(INVALID | HIT),
        built(
            "G3 gone limit",
            "as built: the lease is lost (FLUSHALL, eviction), and nobody notices",
            |c| {
                deleted(c);
                c.faults.evict = 1;
            },
        )
        .breaks(R2),
        built(
            "G4 gone",
            "UNLINK always: any eviction, crash, old dump",
            |c| {
                deleted(c);
                one(c);
                c.gone = Gone::Unlink;
                (c.faults.fence_loss, c.faults.unlink_loss) = (false, false);
                c.symmetry = true;
            },
        )
        .holds(R2 | R3)
        .reaches(INVALID | HIT_AFTER),
        built(
            "G5 gone",
            "the same where something dead is replaced by a lease",
            |c| {
                deleted(c);
                c.faults.evict = 255;
                c.faults.looks_dead = true;
                c.gone = Gone::Unlink;
                c.symmetry = true;
            },
        )
        .holds(R2 | R3 | TAKEN)
        .reaches(INVALID | REPLACED),
    ]
}

fn deleted(c: &mut Config) {
    c.mode = Mode::Delete;
    c.faults.plain_sql = true;
    c.monotone = true;
}
