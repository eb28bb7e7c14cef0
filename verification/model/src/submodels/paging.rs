//! The journal is read in pages. Each page is a statement with its own snapshot, and has one row
//! here. Between two pages, up to four transactions commit in any order, the journal is purged, or
//! a new life begins. The changed-set may have a maximum.

use super::{P, Q, SEEN, SEEN_TOO, broken};
use crate::explore::{Model, Steps};
use crate::run::{Names, Run};

/// A third mark: the changed-set dropped rows.
const DROPPED: u32 = 4;

/// The maximum of reads.
const READS: u8 = 3;

/// A rule that a mutant drops. Its run describes it.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    AfterLastRow,
    AtXmax,
    LastSnapshot,
    AgeAfterFirstPage,
    FloorOfFirstPage,
    LifeOfLastPage,
    ForgetsEarly,
    KeepsBegins,
    BeginsAtDropped,
}

/// A node that reads the journal in pages.
struct Paging {
    mistake: Mistake,
    /// The number of transactions, at most four.
    writers: usize,
    /// The maximum of rows in the changed-set.
    most: u32,
    /// A new life may begin once. Its transaction ids start anywhere.
    second_life: bool,
    purged: bool,
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
    life: u8,
    purged: bool,
}

/// A set of transactions, as bits.
type Set = u8;

#[derive(Clone, Copy, Hash, Default)]
struct Snapshot {
    xmax: u8,
    open: Set,
}

#[derive(Clone, Copy, Hash, Default)]
struct Reading {
    life: u8,
    /// The snapshot of the first page.
    first: Snapshot,
    /// The last row that was read.
    cursor: u8,
    /// The transactions that had committed when the read began.
    committed: Set,
}

#[derive(Clone, Copy, Hash, Default)]
struct Node {
    /// The life of the last complete read. If it is 0, no entry is served.
    life: u8,
    position: Snapshot,
    begins: u8,
    changed: Set,
    /// The transactions that had committed when the last complete read began.
    vouched: Set,
}

#[derive(Clone, Copy, Hash, Default)]
struct State {
    transactions: [Transaction; 4],
    life: u8,
    next_id: u8,
    floor: u8,
    reads: u8,
    reading: Option<Reading>,
    node: Node,
}

impl State {
    fn set(&self, is_in: impl Fn(&Transaction) -> bool) -> Set {
        let here = |t: &Transaction| t.life == self.life && is_in(t);
        (0..)
            .zip(&self.transactions)
            .filter(|(_, transaction)| here(transaction))
            .fold(0, |set, (i, _)| set | 1 << i)
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { xmax: self.next_id, open: self.set(|t| t.stage == Stage::Open) }
    }

    fn xmin(&self) -> u8 {
        let open = self.transactions.iter();
        open.filter(|t| t.stage == Stage::Open).map(|t| t.id).min().unwrap_or(self.next_id)
    }

    /// Returns whether the node misses a row of a transaction that its age includes.
    fn misses(&self) -> bool {
        let vouched = (0..4).filter(|i| self.node.vouched >> i & 1 == 1);
        vouched
            .filter(|i| self.transactions[*i].life == self.node.life)
            .any(|i| self.node.changed >> i & 1 == 0 && self.transactions[i].id >= self.node.begins)
    }

    /// Returns whether the node would reject an entry that is read now, with no transaction open.
    fn rejects_what_is_new(&self) -> bool {
        let is_idle = self.transactions.iter().all(|t| t.stage != Stage::Open);
        is_idle && self.node.life == self.life && self.next_id < self.node.begins
    }
}

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[(P, "no row missed"), (Q, "a fresh entry is served")],
        &[(SEEN, "a page"), (SEEN_TOO, "a second page"), (DROPPED, "rows dropped")],
    );
    const PAGES: Paging =
        Paging { mistake: Mistake::None, writers: 4, most: 4, second_life: false, purged: false };
    const PURGED: Paging = Paging { writers: 3, most: 3, purged: true, ..PAGES };
    const LIVES: Paging = Paging { second_life: true, ..PAGES };
    const BOUNDED: Paging = Paging { most: 2, ..PAGES };
    let holds = |name, about, model| {
        Run::new(name, about, NAMES, model).holds(P | Q).reaches(SEEN | SEEN_TOO)
    };
    let mutant = |name, about, mistake, model| {
        Run::new(name, about, NAMES, Paging { mistake, ..model }).breaks(P)
    };
    let dropped = SEEN | SEEN_TOO | DROPPED;
    vec![
        holds("E1", "four transactions, the position is the first page's snapshot", PAGES),
        mutant("E1b", "the next read begins after the last row", Mistake::AfterLastRow, PAGES),
        mutant("E1c", "it begins at the snapshot's xmax alone", Mistake::AtXmax, PAGES),
        mutant("E1d", "it begins at the last page's snapshot", Mistake::LastSnapshot, PAGES),
        mutant("E1e", "the age changes with the first page", Mistake::AgeAfterFirstPage, PAGES),
        holds("E1f", "the journal is purged between pages", PURGED),
        mutant("E1g", "the same, the first page's floor", Mistake::FloorOfFirstPage, PURGED),
        holds("E1h", "a new life begins between pages: the read starts again", LIVES),
        mutant("E1i", "the same, the read continues", Mistake::LifeOfLastPage, LIVES),
        mutant("E1j", "the set is emptied before serving stops", Mistake::ForgetsEarly, LIVES),
        holds("E2", "the changed-set is full: the older half is dropped", BOUNDED).reaches(dropped),
        mutant("E2b", "the same, `begins` is not raised", Mistake::KeepsBegins, BOUNDED),
        mutant("E2c", "the same, `begins` is one too low", Mistake::BeginsAtDropped, BOUNDED),
    ]
}

impl Model for Paging {
    type State = State;

    fn start(&self) -> State {
        State { life: 1, next_id: 1, ..State::default() }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        self.transactions(s, out);
        self.page(s, out);
        if self.purged {
            purge(s, out);
        }
        if self.second_life && s.life == 1 {
            begin_life(s, out);
        }
        for step in out.all_mut() {
            step.broken |= broken(P, step.to.misses()) | broken(Q, step.to.rejects_what_is_new());
        }
    }
}

impl Paging {
    fn transactions(&self, s: &State, out: &mut Steps<State>) {
        for (i, a) in (0..self.writers).zip(1..) {
            match s.transactions[i].stage {
                Stage::NotBegun if i == 0 || s.transactions[i - 1].stage != Stage::NotBegun => {
                    let mut t = *s;
                    let (id, life) = (s.next_id, s.life);
                    t.transactions[i] = Transaction { stage: Stage::Open, id, life, purged: false };
                    t.next_id += 1;
                    out.go(t, ("transaction {n} writes its journal row", a));
                }
                Stage::Open => {
                    let mut t = *s;
                    t.transactions[i].stage = Stage::Committed;
                    out.go(t, ("transaction {n} COMMITs", a));
                    t.transactions[i].stage = Stage::RolledBack;
                    out.go(t, ("transaction {n} rolls back", a));
                }
                Stage::NotBegun | Stage::Committed | Stage::RolledBack => {}
            }
        }
    }

    fn page(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        let is_first = s.reading.is_none();
        let mut reading = s.reading.unwrap_or(Reading {
            life: s.life,
            first: s.snapshot(),
            cursor: 0,
            committed: s.set(|t| t.stage == Stage::Committed),
        });
        if is_first {
            if s.reads == READS {
                return;
            }
            t.reads += 1;
            if reading.life != s.node.life {
                t.node = if self.mistake == Mistake::ForgetsEarly {
                    Node { life: s.node.life, vouched: s.node.vouched, ..Node::default() }
                } else {
                    Node::default()
                };
            }
        } else if reading.life != s.life && self.mistake != Mistake::LifeOfLastPage {
            t.reading = None;
            out.go(t, "a page of another life: the read fails");
            return;
        }
        let position = t.node.position;
        let is_new =
            |i: usize, row: &Transaction| row.id >= position.xmax || position.open >> i & 1 == 1;
        let row = (0..)
            .zip(&s.transactions)
            .filter(|(_, row)| row.life == s.life && row.stage == Stage::Committed && !row.purged)
            .filter(|(i, row)| row.id > reading.cursor && is_new(*i, row))
            .min_by_key(|(_, row)| row.id)
            .map(|(i, row)| (i, row.id));
        if is_first || self.mistake != Mistake::FloorOfFirstPage {
            t.node.begins = t.node.begins.max(s.floor);
        }
        if is_first && self.mistake == Mistake::AgeAfterFirstPage {
            t.node.life = reading.life;
            t.node.vouched = reading.committed;
        }
        let mut reached = SEEN;
        if let Some((i, id)) = row {
            reading.cursor = id;
            t.reading = Some(reading);
            t.node.changed |= 1 << i;
            if t.node.changed.count_ones() > self.most {
                self.drop_older_half(&mut t);
                reached |= DROPPED;
            }
            if !is_first {
                reached |= SEEN_TOO;
            }
            let number = u8::try_from(i + 1).unwrap_or(0);
            out.go(t, ("a page: the row of transaction {n}", number)).reaches(reached);
            return;
        }
        t.reading = None;
        t.node.life = if self.mistake == Mistake::LifeOfLastPage { s.life } else { reading.life };
        t.node.vouched = reading.committed;
        t.node.position = match self.mistake {
            Mistake::AfterLastRow => {
                Snapshot { xmax: s.node.position.xmax.max(reading.cursor + 1), open: 0 }
            }
            Mistake::AtXmax => Snapshot { xmax: reading.first.xmax, open: 0 },
            Mistake::LastSnapshot => s.snapshot(),
            _ => reading.first,
        };
        out.go(t, "the last page: the age is published").reaches(reached);
    }

    fn drop_older_half(&self, t: &mut State) {
        let mut held: Vec<usize> = (0..4).filter(|i| t.node.changed >> i & 1 == 1).collect();
        held.sort_by_key(|i| t.transactions[*i].id);
        for i in &held[..held.len().div_ceil(2)] {
            t.node.changed &= !(1 << i);
            let begins = match self.mistake {
                Mistake::KeepsBegins => 0,
                Mistake::BeginsAtDropped => t.transactions[*i].id,
                _ => t.transactions[*i].id + 1,
            };
            t.node.begins = t.node.begins.max(begins);
        }
    }
}

fn purge(s: &State, out: &mut Steps<State>) {
    let mut t = *s;
    let xmin = s.xmin();
    for row in &mut t.transactions {
        row.purged |= row.stage == Stage::Committed && row.life == s.life && row.id < xmin;
    }
    t.floor = xmin;
    if s.floor < xmin && s.set(|row| row.purged) != t.set(|row| row.purged) {
        out.go(t, ("the journal is purged, its floor is {n}", xmin));
    }
}

fn begin_life(s: &State, out: &mut Steps<State>) {
    let mut t = *s;
    t.life = 2;
    t.floor = 0;
    for row in &mut t.transactions {
        if row.stage == Stage::Open {
            row.stage = Stage::RolledBack;
        }
    }
    for next_id in 1..=s.next_id {
        t.next_id = next_id;
        out.go(t, ("Postgres crashes, the next transaction id is {n}", next_id)).fault();
    }
}
