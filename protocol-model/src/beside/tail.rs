//! The journal is read on from where the last read ended: up to four transactions append a row each and
//! commit in any order, while a node reads.

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
    /// Both, and where the last checkpoint is, as it is built: a crash recovery ends with a new one before
    /// anybody is let in.
    Checkpoint,
    /// The system identifier and the last checkpoint.
    CheckpointAlone,
    /// Both, the timeline as of the last checkpoint (`pg_control_checkpoint()`).
    LastCheckpoint,
    /// All three, asked by a statement before the one that returns the rows.
    AskedBefore,
}

/// What may take the place of the server that was read last.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Successor {
    Never,
    /// The same system after a crash, on the same timeline: transaction ids of which no log was flushed are
    /// handed out again.
    Crash,
    /// A standby that is promoted: the same system, the next timeline, and transaction ids that were not
    /// replicated are handed out again.
    Standby,
    /// Another system that was filled from a dump: its first timeline, and ids of its own.
    Restored,
    /// Any of these.
    Any,
}

/// Reading the journal.
pub(crate) struct Journal {
    pub(crate) tail: Tail,
    pub(crate) successor: Successor,
    pub(crate) bound: Bound,
    /// How many transactions there are: four at most.
    pub(crate) writers: usize,
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

/// Who answers: which system, on which timeline, and where its last checkpoint is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Identity {
    system: u8,
    timeline: u8,
    checkpoint: u8,
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
    checkpoint_timeline: u8,
    /// An ordinary checkpoint has ended: the ids before this one are not handed out again.
    flushed: Option<u8>,
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
        self.transactions(s, out);
        self.read(s, out);
        self.checkpoint(s, out);
        if !s.succeeded {
            for successor in [Successor::Crash, Successor::Standby, Successor::Restored] {
                if self.may_be(successor) {
                    self.succeed(s, successor, out);
                }
            }
        }
    }
}

impl Journal {
    fn transactions(&self, s: &State, out: &mut Steps<State>) {
        for (i, a) in (0..self.writers).zip(1..) {
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
                system: s.server.system,
                ..Identity::default()
            },
            Bound::Timeline => Identity {
                timeline: s.server.timeline,
                ..Identity::default()
            },
            Bound::Both => Identity {
                checkpoint: 0,
                ..s.server
            },
            Bound::Checkpoint => s.server,
            Bound::CheckpointAlone => Identity {
                timeline: 0,
                ..s.server
            },
            Bound::LastCheckpoint => Identity {
                timeline: s.checkpoint_timeline,
                checkpoint: 0,
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

    fn may_be(&self, successor: Successor) -> bool {
        self.successor == successor || self.successor == Successor::Any
    }

    fn checkpoint(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        t.server.checkpoint += 1;
        if s.checkpoint_timeline != s.server.timeline {
            t.checkpoint_timeline = s.server.timeline;
            out.go(t, say("the first checkpoint after the promotion ends"));
        } else if s.flushed.is_none() && self.may_be(Successor::Crash) {
            t.flushed = Some(s.next_id);
            out.go(t, say("an ordinary checkpoint ends"));
        }
    }

    /// What was committed is on the successor too (synchronous commit); what was open is not.
    fn succeed(&self, s: &State, successor: Successor, out: &mut Steps<State>) {
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
        let committed = s.transactions.iter();
        let last = committed
            .filter(|row| row.stage == Stage::Committed)
            .map(|row| row.id)
            .max();
        let after_last = last.unwrap_or(0) + 1;
        let (least, label) = match successor {
            Successor::Crash => {
                t.server.checkpoint += 1;
                let label = say("Postgres crashes, and recovers; its next transaction id is {n}");
                (after_last.max(s.flushed.unwrap_or(0)), label)
            }
            Successor::Standby => {
                t.server.timeline += 1;
                let label = say("a promoted standby answers; its next transaction id is {n}");
                (after_last, label)
            }
            Successor::Restored => {
                t.server.system += 1;
                let label = say("another system answers; its next transaction id is {n}");
                (1, label)
            }
            Successor::Never | Successor::Any => return,
        };
        for next_id in least..=s.next_id {
            t.next_id = next_id;
            out.go(t, label.n(next_id));
        }
    }
}
