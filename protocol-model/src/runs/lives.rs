//! E4, E5, N, O: how long a session lives, and a copy of it.

use crate::beside::l1::L1;
use crate::beside::own_ttl::OwnTtl;
use crate::beside::touch::{Touch, Writes};
use crate::beside::touched::{Fills, Touched};
use crate::beside::{P, Q, SEEN};
use crate::run::{Names, Run};

pub(super) fn runs() -> Vec<Run> {
    let mut runs = touches();
    runs.extend(touched());
    runs.extend(lives());
    runs
}

/// E4: a late touch.
fn touches() -> Vec<Run> {
    const NAMES: (Names, Names) = (&[(P, "R2"), (Q, "R3")], &[(SEEN, "a valid answer")]);
    let run = |name, about, writes, before_answer, copy_says_invalid| {
        let model = Touch {
            writes,
            delay: 2,
            before_answer,
            copy_says_invalid,
        };
        Run::new(name, about, NAMES, model)
    };
    vec![
        run(
            "E4 touch mutant",
            "a late touch is written always",
            Writes::Always,
            false,
            false,
        )
        .breaks(P),
        run(
            "E4b touch mutant",
            "if the session was alive when the request came",
            Writes::AliveThen,
            false,
            false,
        )
        .breaks(P),
        run(
            "E4c touch",
            "if alive now: R2, but users are cut off whose touch came late",
            Writes::AliveNow,
            false,
            false,
        )
        .holds(P)
        .breaks(Q)
        .reaches(SEEN),
        run(
            "E4d touch",
            "and near the end of its life the touch comes before the answer, copies aren't \
                believed",
            Writes::AliveNow,
            true,
            false,
        )
        .holds(P | Q)
        .reaches(SEEN),
        run(
            "E4e touch mutant",
            "the same, an idle-expired copy says Invalid",
            Writes::AliveNow,
            true,
            true,
        )
        .breaks(Q),
    ]
}

/// N: a touch between the read and the fill.
fn touched() -> Vec<Run> {
    const NAMES: (Names, Names) = (&[(P, "R1\u{394}")], &[(SEEN, "a hit")]);
    let run = |name, about, fills| Run::new(name, about, NAMES, Touched { fills });
    vec![
        run(
            "N1 touch mutant",
            "what was touched is filled, though it was rotated since it was read",
            Fills::WhatWasTouched,
        )
        .breaks(P),
        run(
            "N2 touch",
            "nothing is filled where the version is not the one that was read",
            Fills::OnlyWhatWasRead,
        )
        .holds(P)
        .reaches(SEEN),
    ]
}

/// E5, O: how long a copy lives.
fn lives() -> Vec<Run> {
    const NAMES: (Names, Names) = (&[(P, "L1 bound = life")], &[(SEEN, "a hit")]);
    const OWN: (Names, Names) = (
        &[
            (P, "at_most on the node that stated it"),
            (Q, "at_most on every node"),
        ],
        &[(SEEN, "a hit")],
    );
    let l1 = |name, about, from_start| {
        Run::new(
            name,
            about,
            NAMES,
            L1 {
                life: 2,
                from_start,
            },
        )
    };
    let own = |name, about, ttl, counts_own, clock_behind| {
        let model = OwnTtl {
            ttl,
            lease: 1,
            counts_own,
            clock_behind,
        };
        Run::new(name, about, OWN, model)
    };
    vec![
        l1("E5 L1 mutant", "life counted from insertion", false).breaks(P),
        l1("E5b L1", "life counted from the validate's start", true)
            .holds(P)
            .reaches(SEEN),
        own(
            "O1 own TTL",
            "TTL 2 here and 5 elsewhere: each node counts its own from read_at",
            [2, 5],
            true,
            0,
        )
        .holds(P)
        .breaks(Q)
        .reaches(SEEN),
        own(
            "O1b own TTL",
            "where no node's TTL is longer than the revoker's, at_most holds on every node",
            [5, 2],
            true,
            0,
        )
        .holds(P | Q)
        .reaches(SEEN),
        own(
            "O2 own TTL mutant",
            "not_after alone decides: the TTL of whoever filled",
            [2, 5],
            false,
            0,
        )
        .breaks(P),
        own(
            "O3 own TTL",
            "a node's idea of Postgres' clock is behind by no more than the lease",
            [2, 5],
            true,
            1,
        )
        .holds(P)
        .reaches(SEEN),
        own(
            "O4 own TTL mutant",
            "it is behind by more: carried on from Postgres' answer, not from the question",
            [2, 5],
            true,
            3,
        )
        .breaks(P),
    ]
}
