//! The journal is read on from where the last read ended: four transactions append a row each and commit
//! in any order, while a node reads.

use super::{P, SEEN, SEEN_TOO, broken};
use crate::explore::{Model, Steps, say};

/// From where the next read begins.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Tail {
    /// The row after the last one seen.
    LastId,
    /// Rows created since so many reads ago.
    Window(u8),
    /// The xmin of the last read's snapshot, as it is built.
    Xmin,
    /// Its xmax.
    Xmax,
}

/// What a position is bound to: one of something else is worth nothing, and the read loads from the start.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    Nothing,
    /// The connection, which is to notice that the server is another.
    Connection,
    /// The system identifier, returned with the rows.
    System,
    /// The timeline, returned with the rows.
    Timeline,
    /// Both.
    Both,
    /// Both, the timeline as of the last checkpoint (`pg_control_checkpoint()`).
    LastCheckpoint,
    /// Both, asked by a statement before the one that returns the rows.
    AskedBefore,
}

/// What may take the place of the server that was read last.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Successor {
    Never,
    /// A standby that is promoted: the same system, the next timeline, and transaction ids that were not
    /// replicated are handed out again.
    Standby,
    /// Another system that was filled from a dump: its first timeline, and ids of its own.
    Restored,
}

/// Reading the journal.
pub(crate) struct Journal {
    pub(crate) tail: Tail,
    pub(crate) successor: Successor,
    pub(crate) bound: Bound,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Stage {
    #[default]
    NotBegun,
    Open,
    Committed,
    RolledBack,
}

#[derive(Clone, Copy, Hash, Default)]
struct Transaction {
    stage: Stage,
    id: u8,
    /// How many reads there were when it wrote its row.
    created: u8,
}

/// Who answers: which system, and on which timeline.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Identity {
    system: u8,
    timeline: u8,
}

#[derive(Clone, Copy, Hash, Default)]
pub(crate) struct State {
    transactions: [Transaction; 4],
    next_id: u8,
    reads: u8,
    position: u8,
    position_of: Identity,
    seen: [bool; 4],
    server: Identity,
    /// The timeline in the last checkpoint.
    checkpoint: u8,
    /// Asked by a statement of its own.
    asked: Option<Identity>,
    succeeded: bool,
}

impl Model for Journal {
    type State = State;

    fn start(&self) -> State {
        State {
            next_id: 1,
            ..State::default()
        }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        transactions(s, out);
        self.read(s, out);
        if s.checkpoint != s.server.timeline {
            let mut t = *s;
            t.checkpoint = s.server.timeline;
            out.go(t, say("the first checkpoint after the promotion ends"));
        }
        if !s.succeeded {
            self.succeed(s, out);
        }
    }
}

fn transactions(s: &State, out: &mut Steps<State>) {
    for (i, a) in (0..4).zip(1..) {
        match s.transactions[i].stage {
            Stage::NotBegun if i == 0 || s.transactions[i - 1].stage != Stage::NotBegun => {
                let mut t = *s;
                t.transactions[i] = Transaction {
                    stage: Stage::Open,
                    id: s.next_id,
                    created: s.reads,
                };
                t.next_id += 1;
                out.go(t, say("transaction {n} writes its journal row").n(a));
            }
            Stage::Open => {
                let mut t = *s;
                t.transactions[i].stage = Stage::Committed;
                out.go(t, say("transaction {n} COMMITs").n(a));
                t.transactions[i].stage = Stage::RolledBack;
                out.go(t, say("transaction {n} rolls back").n(a));
            }
            Stage::NotBegun | Stage::Committed | Stage::RolledBack => {}
        }
    }
}

impl Journal {
    fn read(&self, s: &State, out: &mut Steps<State>) {
        if s.reads == 5 {
            return;
        }
        if self.bound == Bound::AskedBefore && s.asked.is_none() {
            let mut t = *s;
            t.asked = Some(s.server);
            out.go(t, say("journal read: who are you?"));
            return;
        }
        let who = match self.bound {
            Bound::Nothing | Bound::Connection => Identity::default(),
            Bound::System => Identity {
                timeline: 0,
                ..s.server
            },
            Bound::Timeline => Identity {
                system: 0,
                ..s.server
            },
            Bound::Both => s.server,
            Bound::LastCheckpoint => Identity {
                timeline: s.checkpoint,
                ..s.server
            },
            Bound::AskedBefore => s.asked.unwrap_or_default(),
        };
        // A read on from a position that turns out to be another server's is done again from the start.
        let from = if who == s.position_of { s.position } else { 0 };
        let mut t = *s;
        t.reads += 1;
        t.asked = None;
        for (seen, row) in t.seen.iter_mut().zip(&s.transactions) {
            let wanted = match self.tail {
                Tail::Window(reads) => row.created + reads >= s.reads,
                Tail::LastId | Tail::Xmin | Tail::Xmax => row.id >= from,
            };
            *seen |= wanted && row.stage == Stage::Committed;
        }
        t.position = self.next_position(&t);
        t.position_of = who;
        let missed = (t.seen.iter().zip(&t.transactions))
            .any(|(seen, row)| row.stage == Stage::Committed && !seen);
        let after = if s.succeeded { SEEN_TOO } else { 0 };
        out.go(t, say("journal read"))
            .breaks(broken(P, missed))
            .reaches(SEEN | after);
    }

    fn next_position(&self, s: &State) -> u8 {
        let all = s.transactions.iter().zip(s.seen);
        match self.tail {
            Tail::LastId => all
                .filter(|(_, seen)| *seen)
                .map(|(row, _)| row.id + 1)
                .max()
                .unwrap_or(0),
            Tail::Xmin => all
                .filter(|(row, _)| row.stage == Stage::Open)
                .map(|(row, _)| row.id)
                .min()
                .unwrap_or(s.next_id),
            Tail::Xmax => s.next_id,
            Tail::Window(_) => 0,
        }
    }

    /// What was committed is on the successor too (synchronous commit); what was open is not.
    fn succeed(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        t.succeeded = true;
        for row in &mut t.transactions {
            if row.stage == Stage::Open {
                row.stage = Stage::RolledBack;
            }
        }
        if self.bound == Bound::Connection {
            t.position = 0;
        }
        let least = match self.successor {
            Successor::Never => return,
            Successor::Standby => {
                t.server.timeline += 1;
                let committed = s.transactions.iter();
                let last = committed
                    .filter(|row| row.stage == Stage::Committed)
                    .map(|row| row.id)
                    .max();
                last.unwrap_or(0) + 1
            }
            Successor::Restored => {
                t.server.system += 1;
                1
            }
        };
        for next_id in least..=s.next_id {
            t.next_id = next_id;
            let label = say("another Postgres answers; its next transaction id is {n}");
            out.go(t, label.n(next_id));
        }
    }
}
