//! A cut-over to another Postgres server leaves the old one running. A node's reads may lead to one
//! of the two, and its journal connection to the other. Every reply names the life of its server.
//!
//! One session, which is revoked on the new server, and a node with one connection for each
//! purpose.

use super::{P, SEEN, SEEN_TOO, broken};
use crate::explore::{Model, Steps};
use crate::run::{Names, Run};

/// The condition under which a read of another life than the journal's counts.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// If the journal is read again, and then has the read's life.
    Confirmed,
    /// The same, or if the journal cannot be read.
    CountsWithoutJournal,
    /// Always.
    Counts,
}

/// A cut-over to another server.
struct Servers {
    rule: Rule,
    /// The journal's new connections may lead back to the old server.
    returns: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Server {
    Old,
    New,
}

/// A journal read in progress.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Reading {
    of: Server,
    sees_revocation: bool,
    /// It began after the validation's read.
    confirms: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Validation {
    Idle,
    /// About to read. The node knew of the revocation when it started.
    Begun {
        late: bool,
    },
    /// Postgres' reply, which waits for the journal.
    Read {
        of: Server,
        valid: bool,
        late: bool,
    },
}

#[derive(Clone, Copy, Hash)]
struct State {
    cut_over: bool,
    revoked: bool,
    reads: Server,
    /// The server of the journal connection, if it has one.
    journal: Option<Server>,
    reading: Option<Reading>,
    /// The life of the last journal read.
    life: Option<Server>,
    has_left: bool,
    knows: bool,
    validation: Validation,
}

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) =
        (&[(P, "R1Δ")], &[(SEEN, "a reply from the new server"), (SEEN_TOO, "Unavailable")]);
    let run = |name, about, rule, returns| Run::new(name, about, NAMES, Servers { rule, returns });
    vec![
        run("S1", "a read counts once the journal confirms its life", Rule::Confirmed, false)
            .holds(P)
            .reaches(SEEN | SEEN_TOO),
        run("S1b", "lives are not compared", Rule::Counts, false).breaks(P),
        run("S1c", "it counts if the journal cannot be read", Rule::CountsWithoutJournal, false)
            .breaks(P),
        run("S3", "limit: the journal connection returns to the old server", Rule::Confirmed, true)
            .breaks(P),
    ]
}

impl Model for Servers {
    type State = State;

    fn start(&self) -> State {
        State {
            cut_over: false,
            revoked: false,
            reads: Server::Old,
            journal: Some(Server::Old),
            reading: None,
            life: None,
            has_left: false,
            knows: false,
            validation: Validation::Idle,
        }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        self.change(s, out);
        read_journal(s, out);
        self.validate(s, out);
    }
}

impl Servers {
    fn change(&self, s: &State, out: &mut Steps<State>) {
        if !s.cut_over {
            let mut t = *s;
            t.cut_over = true;
            out.go(t, "the new server takes over, the old one continues");
            return;
        }
        if !s.revoked {
            let t = State { revoked: true, ..*s };
            out.go(t, "the new server: a revocation, COMMIT");
        }
        if s.reads == Server::Old {
            let t = State { reads: Server::New, ..*s };
            out.go(t, "the reads' connection leads to the new server");
        }
        let mut t = *s;
        t.reading = None;
        if s.journal.is_some() {
            t.journal = None;
            out.go(t, "the journal's connection breaks").fault();
        } else {
            t.journal = Some(Server::New);
            out.go(t, "the journal's connection leads to the new server");
            if self.returns {
                t.journal = Some(Server::Old);
                out.go(t, "the journal's connection leads to the old server");
            }
        }
    }

    fn validate(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        match s.validation {
            Validation::Idle => {
                t.validation = Validation::Begun { late: s.knows };
                out.go(t, "a validation starts");
            }
            Validation::Begun { late } => {
                let of = s.reads;
                let valid = of == Server::Old || !s.revoked;
                if s.life.is_none_or(|life| life == of) || self.rule == Rule::Counts {
                    finish(s, true, valid && late, out);
                } else {
                    t.validation = Validation::Read { of, valid, late };
                    t.reading = None;
                    out.go(t, "the read is of another life than the journal");
                }
            }
            Validation::Read { valid, late, .. } if s.journal.is_none() => {
                finish(s, self.rule != Rule::Confirmed, valid && late, out);
            }
            Validation::Read { .. } => {}
        }
    }
}

fn finish(s: &State, counts: bool, is_wrong: bool, out: &mut Steps<State>) {
    let t = State { validation: Validation::Idle, ..*s };
    if counts {
        let moved = s.has_left && s.reads == Server::New;
        out.go(t, "the validation returns what it read")
            .breaks(broken(P, is_wrong))
            .reaches(if moved { SEEN } else { 0 });
    } else {
        out.go(t, "the validation returns Unavailable").reaches(SEEN_TOO);
    }
}

fn read_journal(s: &State, out: &mut Steps<State>) {
    let mut t = *s;
    let Some(reading) = s.reading else {
        if let Some(of) = s.journal {
            t.reading = Some(Reading {
                of,
                sees_revocation: of == Server::New && s.revoked,
                confirms: matches!(s.validation, Validation::Read { .. }),
            });
            out.go(t, "the node begins to read the journal");
        }
        return;
    };
    t.reading = None;
    t.has_left |= s.life == Some(Server::Old) && reading.of == Server::New;
    t.life = Some(reading.of);
    t.knows |= reading.sees_revocation;
    if let (true, Validation::Read { of, valid, late }) = (reading.confirms, s.validation) {
        finish(&t, of == reading.of, valid && late, out);
    } else {
        out.go(t, "the node has read the journal");
    }
}
