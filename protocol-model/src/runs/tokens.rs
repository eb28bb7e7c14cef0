//! T: a rotated session has two tokens for a while.

use crate::beside::rotate::{Rotate, Unlinks};
use crate::beside::{P, Q, SEEN, SEEN_TOO};
use crate::run::{Names, Run};

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[
            (P, "R1 under every token"),
            (Q, "no token outlives its grace"),
        ],
        &[(SEEN, "a hit"), (SEEN_TOO, "a hit within the grace")],
    );
    let run = |name, about, model: Rotate| Run::new(name, about, NAMES, model);
    let built = || Rotate {
        unlinks: Unlinks::All,
        within_grace: true,
        fences: true,
        one_grace: false,
    };
    let mutant = |name, about, unlinks| {
        let model = Rotate {
            unlinks,
            fences: false,
            ..built()
        };
        run(name, about, model)
    };
    vec![
        run(
            "T1 rotate",
            "as built: two rotations and a revocation, all digests unlinked, entries end \
                with the grace",
            built(),
        )
        .holds(P | Q)
        .reaches(SEEN | SEEN_TOO)
        .slow(),
        run(
            "T1b rotate limit",
            "as built, fences lost: of two rotations within one grace, the second has not \
                unlinked yet",
            Rotate {
                fences: false,
                ..built()
            },
        )
        .breaks(P),
        run(
            "T1c rotate",
            "fences lost, and no second rotation within the grace of the first",
            Rotate {
                fences: false,
                one_grace: true,
                ..built()
            },
        )
        .holds(P | Q)
        .reaches(SEEN | SEEN_TOO)
        .slow(),
        run(
            "T1d rotate",
            "fences lost, and every digest that the session ever had is unlinked",
            Rotate {
                fences: false,
                unlinks: Unlinks::Ever,
                ..built()
            },
        )
        .holds(P | Q)
        .reaches(SEEN | SEEN_TOO)
        .slow(),
        mutant(
            "T2 rotate mutant",
            "only the current digest's key is unlinked",
            Unlinks::Current,
        )
        .breaks(P),
        mutant(
            "T3 rotate mutant",
            "only digests read before the change: a rotation lies between",
            Unlinks::Before,
        )
        .breaks(P),
        mutant(
            "T4 rotate mutant",
            "only digests in the row after the change: the one before the previous is \
                forgotten",
            Unlinks::After,
        )
        .breaks(Q),
        run(
            "T5 rotate mutant",
            "an entry under the old token has a full TTL",
            Rotate {
                within_grace: false,
                ..built()
            },
        )
        .breaks(Q),
        mutant(
            "T6 rotate mutant",
            "a rotation unlinks nothing",
            Unlinks::RotateNone,
        )
        .breaks(Q),
    ]
}
