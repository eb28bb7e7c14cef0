//! A *life* is one run of one database server. Entries, the journal's floor and positions belong to
//! one life, because transaction ids of two lives cannot be compared.
//!
//! A life records the snapshot at which it began. The journal of the life is the rows of
//! transactions that this snapshot does not show, whenever they were written. A transaction that
//! was prepared in an earlier life is among them.
//!
//! One session, an entry, a change that ends the session, a purge at any time, and a node that
//! reads the journal. Redis never loses the entry. Postgres crashes or restarts, a standby is
//! promoted, or the database is copied. A copy has its own nodes on the same Redis with the same
//! namespace. Nodes may have near caches.

use super::{P, Q, SEEN, SEEN_TOO, Snapshot, broken, letter};
use crate::explore::{Model, Step, Steps};
use crate::run::{Names, Run};

/// A third promise, and a third mark.
const APART: u32 = 4;
const LATER_LIFE: u32 = 4;
/// A fourth mark.
const NEAR: u32 = 8;

/// A rule that a mutant drops. Its run describes it.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    UnboundEntry,
    UnboundPosition,
    ForeignRows,
    UnboundFloor,
    Logged,
    Travels,
    FromNextId,
    PurgesUnread,
    NoFloor,
    UnboundNearEntry,
    NoFloorOfNearEntry,
}

/// Postgres, and what may happen to it.
struct Lives {
    /// A TRUNCATE ends the session. Its journal row rejects entries with an xmin up to its own id.
    truncates: bool,
    mistake: Mistake,
    /// How often Postgres may crash, be replaced by a standby, or restart.
    faults: u8,
    /// The database may be copied. A login then creates the session in either of the two, and no
    /// other transaction holds the snapshots' xmin back.
    copied: bool,
    /// The transaction that ends the session may be prepared, which outlives a crash.
    prepares: bool,
    near: bool,
    /// No transaction id is larger.
    most: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Session {
    #[default]
    Absent,
    Active,
    /// A transaction that ends it is open.
    Ending(u8),
    /// The same, and it is prepared.
    Prepared(u8),
    Ended,
}

/// The row of `session_life`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Life {
    id: u8,
    /// The run of the server in which it began.
    run: u8,
    floor: u8,
    begun: Snapshot,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Database {
    exists: bool,
    /// Its start time and oids, which identify a run of a server and a database.
    run: u8,
    life: Option<Life>,
    next_id: u8,
    /// Another transaction that is open.
    open: Option<u8>,
    session: Session,
    /// The transaction of the journal row.
    row: Option<u8>,
    /// Ids up to this one are on disk and on every standby.
    durable: u8,
}

impl Database {
    fn snapshot(&self) -> Snapshot {
        let ending = match self.session {
            Session::Ending(id) | Session::Prepared(id) => Some(id),
            _ => None,
        };
        Snapshot { xmax: self.next_id, open: [self.open, ending] }
    }

    fn has_ended(&self) -> bool {
        matches!(self.session, Session::Absent | Session::Ended)
    }
}

/// A node that validates against one of the databases.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    life: u8,
    position: Snapshot,
    /// Changes of lower transactions are not in the changed-set.
    begins: u8,
    /// The changed-set: the transaction of the change.
    changed: Option<u8>,
    /// The last read of the journal began after the session had ended here.
    read_after_end: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Entry {
    database: u8,
    life: u8,
    xmin: u8,
    /// Of a session that was created after the TRUNCATE.
    later_session: bool,
}

#[derive(Clone, Copy, Hash, Default)]
struct State {
    databases: [Database; 2],
    nodes: [Option<Node>; 2],
    entry: Option<Entry>,
    /// The near caches.
    near: [Option<Entry>; 2],
    faults: u8,
    lives: u8,
    runs: u8,
}

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[(P, "R1Δ"), (Q, "a fresh entry is served"), (APART, "R4: nothing of another database")],
        &[
            (SEEN, "a hit"),
            (SEEN_TOO, "a hit of a session created after the TRUNCATE"),
            (LATER_LIFE, "a hit in a later life"),
            (NEAR, "a near hit"),
        ],
    );
    const ONE: Lives = Lives {
        truncates: false,
        mistake: Mistake::None,
        faults: 1,
        copied: false,
        prepares: false,
        near: false,
        most: 5,
    };
    const COPIED: Lives = Lives { copied: true, faults: 0, most: 4, ..ONE };
    const TRUNCATED: Lives = Lives { truncates: true, ..COPIED };
    const WITH_NEAR: Lives = Lives { near: true, most: 4, ..ONE };
    const NEAR_TWICE: Lives = Lives { prepares: true, faults: 2, ..WITH_NEAR };
    let run = |name, about, model| Run::new(name, about, NAMES, model);
    let one = |name, about, mistake| run(name, about, Lives { mistake, ..ONE });
    let prepared =
        |name, about, mistake| run(name, about, Lives { mistake, prepares: true, ..ONE });
    let near = |name, about, mistake| run(name, about, Lives { mistake, ..WITH_NEAR });
    let copied = |name, about, mistake| run(name, about, Lives { mistake, ..COPIED });
    let truncated = |name, about, mistake| run(name, about, Lives { mistake, ..TRUNCATED });
    vec![
        one("J1", "a crash, promotion or restart, purges at any time", Mistake::None)
            .holds(P | Q)
            .reaches(SEEN | LATER_LIFE),
        run("J1a", "the same, two of them", Lives { faults: 2, ..ONE })
            .holds(P | Q)
            .reaches(SEEN | LATER_LIFE)
            .slow(),
        one("J1b", "entries of another life are served", Mistake::UnboundEntry).breaks(P),
        one("J1c", "a position of another life is continued", Mistake::UnboundPosition).breaks(P),
        one("J1d", "a crash keeps the life's row (a logged table)", Mistake::Logged).breaks(P),
        one("J1e", "rows of transactions open at the start are not read", Mistake::FromNextId)
            .breaks(P),
        one("J1f", "an entry's xmin is not compared with the floor", Mistake::NoFloor).breaks(P),
        one("J1g", "rows of transactions open at the start are purged", Mistake::PurgesUnread)
            .breaks(P),
        prepared("J1h", "as J1, and the change may be prepared", Mistake::None)
            .holds(P | Q)
            .reaches(SEEN | LATER_LIFE),
        prepared("J1i", "the same with the mistake of J1e", Mistake::FromNextId).breaks(P),
        copied("J2", "a copy of the database on the same Redis", Mistake::None)
            .holds(P | Q | APART)
            .reaches(SEEN | LATER_LIFE),
        run("J2a", "the same, and a crash of either", Lives { faults: 1, most: 3, ..COPIED })
            .holds(P | Q | APART)
            .reaches(SEEN | LATER_LIFE)
            .slow(),
        copied("J2b", "the life's row counts in a copy of the database", Mistake::Travels)
            .breaks(P | APART),
        copied("J2c", "entries of another life are served", Mistake::UnboundEntry)
            .breaks(P | APART),
        truncated("J3", "a TRUNCATE and a copy of the database", Mistake::None)
            .holds(P | Q | APART)
            .reaches(SEEN | SEEN_TOO | LATER_LIFE),
        truncated("J3b", "ids that this server has not reached are read", Mistake::ForeignRows)
            .breaks(Q),
        truncated("J3c", "the floor of the life before is kept", Mistake::UnboundFloor).breaks(Q),
        near("J4", "as J1, with a near cache", Mistake::None)
            .holds(P | Q)
            .reaches(SEEN | LATER_LIFE | NEAR),
        run("J4a", "the same, two of them, and the change may be prepared", NEAR_TWICE)
            .holds(P | Q)
            .reaches(SEEN | LATER_LIFE | NEAR)
            .slow(),
        near("J4b", "near entries of another life are served", Mistake::UnboundNearEntry).breaks(P),
        near("J4c", "a near entry's xmin is not compared", Mistake::NoFloorOfNearEntry).breaks(P),
    ]
}

impl Model for Lives {
    type State = State;

    fn start(&self) -> State {
        let mut start = State { runs: 1, ..State::default() };
        start.databases[0] = Database {
            exists: true,
            next_id: 1,
            session: if self.copied { Session::Absent } else { Session::Active },
            ..Database::default()
        };
        start
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        for d in 0..2 {
            if s.databases[d].exists {
                self.transactions(s, d, out);
                self.begin_life(s, d, out);
                self.read(s, d, out);
                self.purge(s, d, out);
                self.read_journal(s, d, out);
                self.hit(s, d, out);
                if s.faults < self.faults {
                    self.fault(s, d, out);
                }
            }
        }
        if self.copied && !s.databases[1].exists {
            copy(s, out);
        }
    }
}

impl Lives {
    /// Returns the row of `session_life` if it is of this run of this server and of this database.
    fn this_life(&self, database: &Database) -> Option<Life> {
        let travels = self.mistake == Mistake::Travels;
        database.life.filter(|life| travels || life.run == database.run)
    }

    fn new_life(&self, s: &State, d: usize) -> Life {
        let before = s.databases[d].life.map_or(0, |life| life.floor);
        Life {
            id: s.lives + 1,
            run: s.databases[d].run,
            floor: if self.mistake == Mistake::UnboundFloor { before } else { 0 },
            begun: s.databases[d].snapshot(),
        }
    }

    fn begin_life(&self, s: &State, d: usize, out: &mut Steps<State>) {
        if self.this_life(&s.databases[d]).is_none() {
            let mut t = *s;
            t.databases[d].life = Some(self.new_life(s, d));
            t.lives += 1;
            out.go(t, ("{s}: life {n} begins", t.lives, letter(d)));
        }
    }

    fn transactions(&self, s: &State, d: usize, out: &mut Steps<State>) {
        let database = &s.databases[d];
        let of = |id, text| (text, id, letter(d));
        let here = |text| of(database.next_id, text);
        let mut t = *s;
        if let Some(id) = database.open {
            t.databases[d].open = None;
            out.go(t, of(id, "{s}: transaction {n} ends"));
        } else if database.next_id < self.most && !self.copied {
            t.databases[d].open = Some(database.next_id);
            t.databases[d].next_id += 1;
            out.go(t, here("{s}: another transaction {n} begins"));
        }
        let mut t = *s;
        let new = &mut t.databases[d];
        match database.session {
            Session::Absent if s.databases.iter().all(|d| d.session == Session::Absent) => {
                new.session = Session::Active;
                out.go(t, here("{s}: a login: COMMIT"));
            }
            Session::Active if database.next_id < self.most => {
                new.session = Session::Ending(database.next_id);
                new.row = Some(database.next_id);
                new.next_id += 1;
                out.go(t, here("{s}: transaction {n} ends the session, writes its row"));
            }
            Session::Ending(id) | Session::Prepared(id) => {
                new.session = Session::Ended;
                new.durable = new.durable.max(id);
                out.go(t, of(id, "{s}: transaction {n}: COMMIT, its UNLINK is lost"));
                let mut t = *s;
                let rolled_back = &mut t.databases[d];
                (rolled_back.session, rolled_back.row) = (Session::Active, None);
                out.go(t, of(id, "{s}: transaction {n} rolls back"));
                if self.prepares && database.session == Session::Ending(id) {
                    let mut t = *s;
                    t.databases[d].session = Session::Prepared(id);
                    t.databases[d].durable = id;
                    out.go(t, of(id, "{s}: transaction {n} is prepared"));
                }
            }
            Session::Absent | Session::Active | Session::Ended => {}
        }
    }

    /// Reads Postgres, and fills the entry.
    fn read(&self, s: &State, d: usize, out: &mut Steps<State>) {
        let database = &s.databases[d];
        let Some(life) = self.this_life(database) else {
            return;
        };
        let later_session = database.session == Session::Ended && self.truncates;
        if database.has_ended() && !later_session {
            return;
        }
        let mut t = *s;
        let entry = Entry {
            database: number(d),
            life: life.id,
            xmin: database.snapshot().xmin(),
            later_session,
        };
        t.entry = Some(entry);
        let text = if later_session {
            "{s}: a read of a new session, xmin {n}, and its fill"
        } else {
            "{s}: a read returns valid, xmin {n}, and its fill"
        };
        out.go(t, (text, entry.xmin, letter(d)));
        if self.near && s.nodes[d].is_some_and(|node| node.life == life.id) {
            let mut t = *s;
            t.near[d] = Some(entry);
            let text = "{s}: a read returns valid, xmin {n}, into the near cache";
            out.go(t, (text, entry.xmin, letter(d)));
        }
    }

    fn purge(&self, s: &State, d: usize, out: &mut Steps<State>) {
        let database = &s.databases[d];
        let Some(life) = self.this_life(database) else {
            return;
        };
        let mut t = *s;
        let now = database.snapshot();
        let mut floor = life.floor;
        if let Some(id) = database.row {
            let is_visible = database.session == Session::Ended;
            let is_of_before = match self.mistake {
                Mistake::PurgesUnread => id < life.begun.xmax,
                _ => id < life.begun.xmin(),
            };
            if is_visible && (is_of_before || id >= now.xmax) {
                t.databases[d].row = None;
            } else if id < now.xmin() {
                t.databases[d].row = None;
                floor = floor.max(now.xmin());
            }
        }
        if t.databases[d].row != database.row {
            t.databases[d].life = Some(Life { floor, ..life });
            out.go(t, ("{s}: the journal is purged, its floor is {n}", floor, letter(d)));
        }
    }

    fn read_journal(&self, s: &State, d: usize, out: &mut Steps<State>) {
        let database = &s.databases[d];
        let Some(life) = self.this_life(database) else {
            return;
        };
        let known = s.nodes[d]
            .filter(|node| node.life == life.id || self.mistake == Mistake::UnboundPosition);
        let snapshot = database.snapshot();
        let from = match known {
            Some(node) => node.position,
            None if self.mistake == Mistake::FromNextId => {
                Snapshot { open: [None; 2], ..life.begun }
            }
            None => life.begun,
        };
        let row = database.row.filter(|id| {
            let is_ours = *id < snapshot.xmax || self.mistake == Mistake::ForeignRows;
            is_ours && !from.sees(*id) && database.session == Session::Ended
        });
        let begins = known.map_or(0, |node| node.begins).max(life.floor);
        let mut t = *s;
        t.nodes[d] = Some(Node {
            life: life.id,
            position: snapshot,
            begins,
            changed: row
                .or(known.and_then(|node| node.changed))
                .filter(|id| *id >= begins || self.mistake == Mistake::NoFloor),
            read_after_end: database.session == Session::Ended,
        });
        out.go(t, ("{s}: the node reads the journal of life {n}", life.id, letter(d)));
    }

    fn hit(&self, s: &State, d: usize, out: &mut Steps<State>) {
        let Some(node) = s.nodes[d] else {
            return;
        };
        let is_served = |entry: &Entry, unbound, no_floor| {
            let is_rejected = node.changed.is_some_and(|id| !self.truncates || entry.xmin <= id);
            let is_of_this_life = entry.life == node.life || self.mistake == unbound;
            let is_in_journal = entry.xmin >= node.begins || self.mistake == no_floor;
            is_of_this_life && is_in_journal && !is_rejected
        };
        if let Some(entry) = s.near[d]
            && is_served(&entry, Mistake::UnboundNearEntry, Mistake::NoFloorOfNearEntry)
        {
            serve(s, d, entry, (*s, "{s}: a near hit, VALID"), out).reaches(NEAR);
        }
        let Some(entry) = s.entry else {
            return;
        };
        if is_served(&entry, Mistake::UnboundEntry, Mistake::NoFloor) {
            let mut t = *s;
            t.near[d] = if self.near { Some(entry) } else { None };
            serve(s, d, entry, (t, "{s}: a hit, VALID"), out).reaches(SEEN);
            return;
        }
        let database = &s.databases[d];
        let this_life = self.this_life(database).map(|life| life.id);
        let is_true = database.session == Session::Active || entry.later_session;
        let is_fresh = is_true
            && usize::from(entry.database) == d
            && database.open.is_none()
            && entry.xmin == database.next_id
            && this_life == Some(entry.life)
            && this_life == Some(node.life);
        if is_fresh {
            out.go(*s, ("{s}: the node rejects an entry that was read just now", letter(d)))
                .breaks(Q);
        }
    }

    /// Restarts Postgres. Open transactions are rolled back, except prepared ones. Ids that were
    /// not flushed or replicated are used again, except after a clean restart.
    fn fault(&self, s: &State, d: usize, out: &mut Steps<State>) {
        let mut t = *s;
        t.faults += 1;
        let database = &mut t.databases[d];
        roll_back(database);
        database.open = None;
        let mut restarted = t;
        restarted.databases[d].run = s.runs + 1;
        restarted.runs += 1;
        out.go(restarted, ("{s}: Postgres restarts", letter(d))).fault();
        let crash = "{s}: Postgres crashes, its next transaction id is {n}";
        let promotion = "{s}: a standby is promoted, its next transaction id is {n}";
        for (mut t, label) in [(t, crash), (restarted, promotion)] {
            let database = &mut t.databases[d];
            if self.mistake != Mistake::Logged {
                database.life = None;
            }
            for next_id in database.durable + 1..=s.databases[d].next_id {
                t.databases[d].next_id = next_id;
                out.go(t, (label, next_id, letter(d))).fault();
            }
        }
    }
}

/// Serves an entry, and judges it.
fn serve<'o>(
    s: &State,
    d: usize,
    entry: Entry,
    (t, text): (State, &'static str),
    out: &'o mut Steps<State>,
) -> &'o mut Step<State> {
    let read_after_end = s.nodes[d].is_some_and(|node| node.read_after_end);
    let is_from_elsewhere = usize::from(entry.database) != d;
    let is_wrong = s.databases[d].has_ended() && !entry.later_session;
    out.go(t, (text, letter(d)))
        .breaks(broken(P, read_after_end && !entry.later_session))
        .breaks(broken(APART, is_wrong && is_from_elsewhere))
        .reaches(if entry.later_session { SEEN_TOO } else { 0 })
        .reaches(if entry.life > 1 { LATER_LIFE } else { 0 })
}

fn roll_back(database: &mut Database) {
    if let Session::Ending(_) = database.session {
        database.session = Session::Active;
        database.row = None;
    }
}

/// Copies the database with its life's row, without prepared transactions. Transaction ids of the
/// copy start anywhere.
fn copy(s: &State, out: &mut Steps<State>) {
    let mut t = *s;
    t.runs += 1;
    let mut copied = s.databases[0];
    if matches!(copied.session, Session::Prepared(_)) {
        return;
    }
    roll_back(&mut copied);
    copied.open = None;
    copied.run = t.runs;
    copied.durable = 0;
    for next_id in 1..=3 {
        t.databases[1] = Database { next_id, ..copied };
        out.go(t, ("A is copied to B, whose next transaction id is {n}", next_id)).fault();
    }
}

fn number(d: usize) -> u8 {
    u8::from(d != 0)
}
