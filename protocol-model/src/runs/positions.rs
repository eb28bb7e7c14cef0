//! E1, E2, J: the journal is read without a gap, across a failover or a crash of Postgres too, a node that
//! starts believes nothing stale, and nothing from before a TRUNCATE.

use crate::beside::begin::{Begin, Load};
use crate::beside::reused::{Begins, Purge, Reused};
use crate::beside::tail::{Bound, Journal, Successor, Tail};
use crate::beside::truncated::{Ends, Truncated};
use crate::beside::{P, Q, SEEN, SEEN_TOO};
use crate::run::{Names, Run};

pub(super) fn runs() -> Vec<Run> {
    let mut runs = tailing();
    runs.extend(beginning());
    runs.extend(truncated());
    runs
}

/// E1, J1: no row of the journal is missed.
fn tailing() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[(P, "no row missed")],
        &[(SEEN, "a read"), (SEEN_TOO, "a read of the successor")],
    );
    let run = |name, about, tail, successor, bound| {
        let model = Journal {
            tail,
            successor,
            bound,
            writers: 4,
        };
        Run::new(name, about, NAMES, model)
    };
    // An ordinary checkpoint, too, may come at any time: three transactions are enough to explore.
    let three = |name, about, successor, bound| {
        let model = Journal {
            tail: Tail::Xmin,
            successor,
            bound,
            writers: 3,
        };
        Run::new(name, about, NAMES, model)
    };
    let never = |name, about, tail| run(name, about, tail, Successor::Never, Bound::Nothing);
    let xmin = |name, about, successor, bound| run(name, about, Tail::Xmin, successor, bound);
    vec![
        never(
            "E1 tail mutant",
            "id greater than the last seen",
            Tail::LastId,
        )
        .breaks(P),
        never(
            "E1b tail mutant",
            "overlapping window (2 reads)",
            Tail::Window(2),
        )
        .breaks(P),
        never(
            "E1c tail mutant",
            "from the previous snapshot's xmax",
            Tail::Xmax,
        )
        .breaks(P),
        never("E1d tail", "from the previous snapshot's xmin", Tail::Xmin)
            .holds(P)
            .reaches(SEEN),
        xmin(
            "E1e tail mutant",
            "xmin, Postgres fails over and reuses transaction ids",
            Successor::Standby,
            Bound::Nothing,
        )
        .breaks(P),
        xmin(
            "E1f tail",
            "the same, every new connection loads from the start",
            Successor::Standby,
            Bound::Connection,
        )
        .holds(P)
        .reaches(SEEN | SEEN_TOO),
        xmin(
            "J1 position",
            "a pooled connection silently leads to a promoted standby; bound to the timeline",
            Successor::Standby,
            Bound::Timeline,
        )
        .holds(P)
        .reaches(SEEN | SEEN_TOO),
        xmin(
            "J1b position limit",
            "the same: it leads to another system, restored from a dump",
            Successor::Restored,
            Bound::Timeline,
        )
        .breaks(P),
        xmin(
            "J1c position",
            "the same, bound to the system identifier as well",
            Successor::Restored,
            Bound::Both,
        )
        .holds(P)
        .reaches(SEEN | SEEN_TOO),
        xmin(
            "J1d position mutant",
            "promoted standby: bound to the system identifier alone",
            Successor::Standby,
            Bound::System,
        )
        .breaks(P),
        xmin(
            "J1e position mutant",
            "promoted standby: the timeline of its last checkpoint (pg_control_checkpoint)",
            Successor::Standby,
            Bound::LastCheckpoint,
        )
        .breaks(P),
        xmin(
            "J1f position mutant",
            "promoted standby: all that it is bound to is asked by a statement before",
            Successor::Standby,
            Bound::AskedBefore,
        )
        .breaks(P),
        three(
            "J1g position mutant",
            "Postgres crashes and hands out ids again: bound to the system and the timeline alone",
            Successor::Crash,
            Bound::Both,
        )
        .breaks(P),
        three(
            "J1h position",
            "the same, bound to the last checkpoint as well, which recovery ends with",
            Successor::Crash,
            Bound::Checkpoint,
        )
        .holds(P)
        .reaches(SEEN | SEEN_TOO),
        three(
            "J1i position",
            "as built: system, timeline and last checkpoint; a crash, a promoted standby or another \
                system",
            Successor::Any,
            Bound::Checkpoint,
        )
        .holds(P)
        .reaches(SEEN | SEEN_TOO)
        .slow(),
        xmin(
            "J1j position mutant",
            "promoted standby: its first checkpoint ends late; bound to that and the system alone",
            Successor::Standby,
            Bound::CheckpointAlone,
        )
        .breaks(P),
        three(
            "J1k position",
            "as built where Postgres does not tell: every new connection loads from the start; a \
                crash, a promoted standby or another system",
            Successor::Any,
            Bound::Connection,
        )
        .holds(P)
        .reaches(SEEN | SEEN_TOO)
        .slow(),
    ]
}

/// E2, J2: a node that starts believes nothing stale.
fn beginning() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[
            (P, "no stale hit after a node's start"),
            (Q, "what was read just now is believed"),
        ],
        &[(SEEN, "a hit"), (SEEN_TOO, "a hit after the failover")],
    );
    let load = |name, about, longest, load| {
        let model = Begin {
            ttl: 4,
            lease: 2,
            longest,
            load,
        };
        Run::new(name, about, NAMES, model)
    };
    let reused = |name, about, model: Reused| Run::new(name, about, NAMES, model);
    let built = || Reused {
        begins: Begins::Floor,
        purge: Purge::OfAge,
        successor: Successor::Standby,
        floor_bound: false,
        timeline_in_copy: false,
        compares: true,
    };
    vec![
        load(
            "E2 load mutant",
            "a start loads the last TTL (TTL 4, lease 2, transactions instant)",
            0,
            Load::Window(4),
        )
        .breaks(P),
        load(
            "E2b load",
            "TTL + lease, transactions instant",
            0,
            Load::Window(6),
        )
        .holds(P)
        .reaches(SEEN),
        load(
            "E2c load mutant",
            "TTL + lease, transactions up to 3",
            3,
            Load::Window(6),
        )
        .breaks(P),
        load(
            "E2d load",
            "TTL + lease + 3, transactions up to 3",
            3,
            Load::Window(9),
        )
        .holds(P)
        .reaches(SEEN),
        load(
            "E2e load",
            "by position: V carries its snapshot's xmin; nothing loaded; any transaction",
            12,
            Load::ByPosition,
        )
        .holds(P)
        .reaches(SEEN),
        reused(
            "J2 xmin",
            "V's xmin against the floor, purged at any time; no failover",
            Reused {
                purge: Purge::Any,
                successor: Successor::Never,
                ..built()
            },
        )
        .holds(P | Q)
        .reaches(SEEN),
        reused(
            "J2b xmin mutant",
            "the same, the xmin is not looked at",
            Reused {
                purge: Purge::Any,
                successor: Successor::Never,
                compares: false,
                ..built()
            },
        )
        .breaks(P),
        reused(
            "J2c xmin mutant",
            "Postgres fails over and reuses ids, rows are purged at any time",
            Reused {
                purge: Purge::Any,
                ..built()
            },
        )
        .breaks(P),
        reused(
            "J2d xmin",
            "the same, rows are kept until every older copy is dead of age (DESIGN: 2 × \
                at_most)",
            built(),
        )
        .holds(P | Q)
        .reaches(SEEN | SEEN_TOO),
        reused(
            "J2e xmin mutant",
            "rows kept, but a start loads nothing and begins at the present snapshot",
            Reused {
                begins: Begins::Present,
                ..built()
            },
        )
        .breaks(P),
        reused(
            "J2f xmin",
            "the timeline in V as well: neither age nor load is needed",
            Reused {
                begins: Begins::Present,
                purge: Purge::Any,
                timeline_in_copy: true,
                ..built()
            },
        )
        .holds(P)
        .reaches(SEEN),
        reused(
            "J2g xmin",
            "as J2d, but Postgres crashes and hands out ids again",
            Reused {
                successor: Successor::Crash,
                ..built()
            },
        )
        .holds(P | Q)
        .reaches(SEEN | SEEN_TOO),
        reused(
            "J2h xmin mutant",
            "as J2f, but Postgres crashes: the timeline in V is still the same",
            Reused {
                begins: Begins::Present,
                purge: Purge::Any,
                successor: Successor::Crash,
                timeline_in_copy: true,
                ..built()
            },
        )
        .breaks(P),
        reused(
            "J3 floor limit",
            "as built: another system restored from a dump keeps the floor, and hands out lower ids",
            Reused {
                successor: Successor::Restored,
                ..built()
            },
        )
        .breaks(P | Q),
        reused(
            "J3b floor",
            "the floor is bound to the system too: on another one nothing was purged yet",
            Reused {
                successor: Successor::Restored,
                floor_bound: true,
                ..built()
            },
        )
        .holds(P | Q)
        .reaches(SEEN | SEEN_TOO),
    ]
}

/// J4: a TRUNCATE ends every copy that was read before it.
fn truncated() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[
            (P, "no hit of what was read before a TRUNCATE"),
            (Q, "what was read long after is believed"),
        ],
        &[
            (SEEN, "a hit"),
            (SEEN_TOO, "a hit of what was read after the TRUNCATE"),
        ],
    );
    let run = |name, about, ends| Run::new(name, about, NAMES, Truncated { ends });
    vec![
        run(
            "J4 truncate mutant",
            "Postgres crashes and hands out ids again: V's xmin against the row's transaction alone",
            Ends::Xmin,
        )
        .breaks(P),
        run(
            "J4b truncate",
            "as built: the same, V ends also where it was not read after the row's time",
            Ends::XminAndTime,
        )
        .holds(P | Q)
        .reaches(SEEN | SEEN_TOO),
        run(
            "J4c truncate mutant",
            "the same, V lives on where it was read at the row's very moment",
            Ends::XminAndEarlier,
        )
        .breaks(P),
        run(
            "J4d truncate mutant",
            "the row's time alone, which is when its transaction began",
            Ends::Time,
        )
        .breaks(P),
    ]
}
