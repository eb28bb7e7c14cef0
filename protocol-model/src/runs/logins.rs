//! E3, L: a revoke-all ends every session whose login began before it (R13).

use crate::beside::login::{Login, Notes, REFUSED};
use crate::beside::{P, Q, SEEN, SEEN_TOO};
use crate::run::{Names, Run};

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[
            (P, "R13 at once"),
            (Q, "R13 after D"),
            (REFUSED, "no login refused without cause"),
        ],
        &[(SEEN, "a hit before"), (SEEN_TOO, "a login refused")],
    );
    let run = |name, about, model: Login| Run::new(name, about, NAMES, model);
    let by_epoch = || Login {
        notes: Notes::Epoch,
        compares: true,
        epoch_first: true,
        locks: true,
        epoch_in_journal: false,
        new_user: false,
        notes_again: false,
        crash: false,
    };
    let built = || Login {
        notes: Notes::SnapshotAndClock,
        ..by_epoch()
    };
    let crash = |notes| Login {
        notes,
        crash: true,
        ..by_epoch()
    };
    vec![
        run(
            "E3 epoch mutant",
            "no epoch: rows only",
            Login {
                notes: Notes::Nothing,
                compares: false,
                locks: false,
                ..by_epoch()
            },
        )
        .breaks(P | Q),
        run(
            "E3b epoch mutant",
            "epoch compared at each Postgres read, not in the cache, no lock",
            Login {
                locks: false,
                ..by_epoch()
            },
        )
        .breaks(P | Q),
        run(
            "E3c epoch",
            "and a journal row for the user, entries carry their epoch",
            Login {
                locks: false,
                epoch_in_journal: true,
                ..by_epoch()
            },
        )
        .holds(Q)
        .breaks(P)
        .reaches(SEEN),
        run(
            "E3d epoch",
            "epoch noted at the login's begin and raised first, create locks the user FOR \
                SHARE",
            by_epoch(),
        )
        .holds(P | Q | REFUSED)
        .reaches(SEEN | SEEN_TOO),
        run(
            "E3e epoch mutant",
            "the same, rows first, epoch second",
            Login {
                epoch_first: false,
                ..by_epoch()
            },
        )
        .breaks(P),
        run(
            "E3f epoch mutant",
            "the same as d, epoch read inside create",
            Login {
                notes: Notes::Nothing,
                ..by_epoch()
            },
        )
        .breaks(P),
        run(
            "L1 login",
            "as built: Postgres' snapshot and clock noted, two revoke-alls",
            built(),
        )
        .holds(P | Q | REFUSED)
        .reaches(SEEN | SEEN_TOO),
        run(
            "L1b login",
            "the same, a user who never logged in before",
            Login {
                new_user: true,
                ..built()
            },
        )
        .holds(P | Q | REFUSED)
        .reaches(SEEN | SEEN_TOO),
        run(
            "L2 login mutant",
            "the next transaction id noted instead: a revoke-all that had begun counts as \
                seen",
            Login {
                notes: Notes::NextId,
                ..built()
            },
        )
        .breaks(P),
        run(
            "L3 login mutant",
            "a new user: what is noted is noted again when his row is there",
            Login {
                new_user: true,
                notes_again: true,
                ..built()
            },
        )
        .breaks(P),
        run(
            "L4 login mutant",
            "create does not lock the user's row",
            Login {
                locks: false,
                ..built()
            },
        )
        .breaks(P),
        run(
            "L5 login mutant",
            "rows are revoked first, the epoch is raised second",
            Login {
                epoch_first: false,
                ..built()
            },
        )
        .breaks(P),
        run(
            "L6 login mutant",
            "Postgres crashes and hands out ids again: refused where the revoke-all is not visible \
                in the snapshot alone",
            crash(Notes::Snapshot),
        )
        .breaks(P),
        run(
            "L6b login",
            "as built: the same, refused also where it began at the login's moment or later",
            crash(Notes::SnapshotAndClock),
        )
        .holds(P | Q | REFUSED)
        .reaches(SEEN | SEEN_TOO),
        run(
            "L6c login",
            "the same, a user who never logged in before",
            Login {
                new_user: true,
                ..crash(Notes::SnapshotAndClock)
            },
        )
        .holds(P | Q | REFUSED)
        .reaches(SEEN | SEEN_TOO)
        .slow(),
        run(
            "L6d login mutant",
            "the same, refused only where it began later",
            crash(Notes::SnapshotAndLater),
        )
        .breaks(P),
        run(
            "L6e login mutant",
            "the clock alone: a revoke-all that had begun counts as seen",
            crash(Notes::Clock),
        )
        .breaks(P),
    ]
}
