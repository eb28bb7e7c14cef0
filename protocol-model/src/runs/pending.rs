//! H: what a node changed and Redis has not acknowledged is held back: that node believes no copy of it. And, H7 and on,
//! what it changed at all, until it has read of it.

use super::built;
use crate::protocol::*;
use crate::run::Run;

pub(super) fn runs() -> Vec<Run> {
    vec![
        built(
            "H1 pending",
            "looked up when GET's reply is there; GET and its reply are one step",
            |c| {
                own_change(c);
                c.late_replies = false;
            },
        )
        .holds(R1 | OWN)
        .reaches(HIT | RETRIED | COMMITTED),
        built(
            "H2 pending mutant",
            "kept and tried again, but a copy of it is believed meanwhile",
            |c| {
                own_change(c);
                c.pending = Pending::Believed;
            },
        )
        .breaks(OWN),
        built(
            "H3 pending limit",
            "as built: looked up when GET's reply is there, which may be later than the \
                acknowledgement",
            own_change,
        )
        .breaks(OWN),
        built(
            "H4 pending",
            "looked up before the GET goes out, and when its reply is there",
            |c| {
                own_change(c);
                c.pending = Pending::BeforeAndAtReply;
            },
        )
        .holds(R1 | OWN)
        .reaches(HIT | RETRIED | COMMITTED),
        built(
            "H5 pending",
            "and forgotten once every old copy has died of age",
            |c| {
                own_change(c);
                c.pending = Pending::BeforeAndAtReply;
                c.forget = Forget::OfAge;
            },
        )
        .holds(R1 | OWN)
        .reaches(FORGOTTEN | RETRIED),
        built(
            "H5b pending",
            "the same, and Redis crashes and comes back with an old dump",
            |c| {
                own_change(c);
                c.pending = Pending::BeforeAndAtReply;
                c.forget = Forget::OfAge;
                (c.faults.crash, c.faults.save) = (1, 1);
            },
        )
        .holds(R1 | OWN)
        .reaches(FORGOTTEN | RETRIED | HIT_AFTER)
        .slow(),
        built("H6 pending mutant", "forgotten before that", |c| {
            own_change(c);
            c.pending = Pending::BeforeAndAtReply;
            c.forget = Forget::Early;
        })
        .breaks(OWN),
        built(
            "H7 pending",
            "what a node changed is held back until it has read of it: no old entry that a hostile Redis \
                replays is served there, also where it is cut off from Postgres",
            hostile,
        )
        .holds(OWN)
        .reaches(HIT | PROPAGATED),
        built(
            "H7b pending",
            "a data update: of the new version copies are believed",
            |c| {
                hostile(c);
                c.mode = Mode::Update;
            },
        )
        .holds(OWN)
        .reaches(NEW_HIT),
        built("H8 pending limit", "it is not", |c| {
            hostile(c);
            c.hold = Hold::No;
        })
        .breaks(OWN),
        built(
            "H9 pending mutant",
            "until any read of the journal ends, one that began before the COMMIT, too",
            |c| {
                hostile(c);
                c.hold = Hold::UntilAnyRead;
            },
        )
        .breaks(OWN),
    ]
}

/// The revoker runs on N1, whose journal may be stale; Redis returns what it likes.
fn hostile(c: &mut Config) {
    own_change(c);
    c.pending = Pending::BeforeAndAtReply;
    c.hold = Hold::UntilRead;
    c.journal = true;
    c.fail_closed = false;
    c.late_replies = false;
    c.faults.unlink_loss = false;
    c.faults.evict = 0;
    c.faults.hostile = true;
}

/// The revoker runs on N1. UNLINKs and their replies are lost, Redis forgets.
fn own_change(c: &mut Config) {
    c.own_change = true;
    c.late_replies = true;
    c.faults.unlink_loss = true;
    c.faults.evict = 1;
}
