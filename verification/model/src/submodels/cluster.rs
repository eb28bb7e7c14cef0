//! A Redis Cluster: one key, whose slot moves between two shards, and a shard that fails over.
//!
//! Each node has a map that may be old. It sends a command to the server that its map names, and
//! follows no redirection of a look-up. A server redirects (MOVED) if it does not serve the slot.
//! If the slot is being moved away, it redirects for a missing key (ASK). MIGRATE moves the key,
//! and leaves it in both places if its reply is lost. Server A has a replica, which may lag.

use super::{P, Q, broken};
use crate::explore::{Model, Steps};
use crate::run::{Names, Run};

/// An entry is served by the server that it was filled on.
const IN_PLACE: u32 = 4;

const HIT: u32 = 1;
const HIT_AFTER: u32 = 2;
const MOVED: u32 = 4;
const ASK: u32 = 8;
const REFUSED: u32 = 16;
const LATE: u32 = 32;
const ACKNOWLEDGED: u32 = 64;

/// A rule that a mutant drops.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    /// A change returns `Propagated` once a server has acknowledged its UNLINK.
    Propagates,
    /// All shards have one incarnation.
    SharedIncarnation,
    /// Nodes do not read the journal.
    NoJournal,
}

/// A cluster, and how often its parts change.
struct Cluster {
    mistake: Option<Mistake>,
    moves: u8,
    failovers: u8,
}

/// The value under the key. An entry names the server that it was filled on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Value {
    Lease(u8),
    Entry(u8),
}

/// The servers: the master of the first shard, that of the second, and the replica of the first.
const REPLICA: usize = 2;

#[derive(Clone, Copy, Hash, Default)]
struct Server {
    value: Option<Value>,
    /// The server takes itself for the owner of the slot.
    serves: bool,
}

/// The next step of a validation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Op {
    #[default]
    Idle,
    Get,
    /// Read Postgres, and fill if this server has granted the lease.
    Read(Option<u8>),
    Fill(u8),
}

#[derive(Clone, Copy, Hash, Default)]
struct Node {
    op: Op,
    /// The owner of the slot, by the node's map.
    map: u8,
    /// The changed-set contains the revocation.
    knows: bool,
    /// The age is above D.
    stale: bool,
    /// `Propagated` had been returned, and the bound had passed, when the validation started.
    since: (bool, bool),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Change {
    #[default]
    Idle,
    Committed,
    Returned,
}

#[derive(Clone, Copy, Hash, Default)]
struct State {
    servers: [Server; 3],
    owner: u8,
    /// The server that the slot is being moved to.
    target: Option<u8>,
    moves: u8,
    failovers: u8,
    promoted: bool,
    nodes: [Node; 2],
    map_of_change: u8,
    change: Change,
    propagated: bool,
    elapsed: bool,
}

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[(P, "R1Δ"), (Q, "R1"), (IN_PLACE, "entries are served where they were filled")],
        &[
            (HIT, "a hit"),
            (HIT_AFTER, "a hit after a move or a failover"),
            (MOVED, "MOVED"),
            (ASK, "ASK"),
            (REFUSED, "a fill whose slot has moved"),
            (LATE, "a validation after the bound"),
            (ACKNOWLEDGED, "an acknowledged UNLINK"),
        ],
    );
    const REACHED: u32 = HIT | HIT_AFTER | MOVED | REFUSED | LATE | ACKNOWLEDGED;
    let run = |name, about, mistake, moves, failovers| {
        Run::new(name, about, NAMES, Cluster { mistake, moves, failovers })
    };
    let (moves, fails_over) = ("the slot moves there and back", "a shard fails over and lags");
    vec![
        run("M1", moves, None, 2, 0).holds(P | IN_PLACE).reaches(REACHED | ASK).heals(HIT).slow(),
        run("M1b", "the same, Propagated once it is acknowledged", Some(Mistake::Propagates), 2, 0)
            .breaks(Q),
        run("M1c", "shards share an incarnation", Some(Mistake::SharedIncarnation), 2, 0)
            .breaks(IN_PLACE),
        run("M1d", "the journal is not read", Some(Mistake::NoJournal), 2, 0).breaks(P),
        run("M2", fails_over, None, 0, 1).holds(P | IN_PLACE).reaches(REACHED).heals(HIT),
        run("M2b", "the same, Propagated once it is acknowledged", Some(Mistake::Propagates), 0, 1)
            .breaks(Q),
        run("M3", "a move and a failover", None, 1, 1)
            .holds(P | IN_PLACE)
            .reaches(REACHED | ASK)
            .heals(HIT)
            .slow(),
    ]
}

impl Model for Cluster {
    type State = State;

    fn start(&self) -> State {
        let mut s = State { moves: self.moves, failovers: self.failovers, ..State::default() };
        s.servers[0].serves = true;
        s
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        move_slot(s, out);
        fail_over(s, out);
        for at in 0..s.servers.len() {
            if let Some(Value::Lease(_)) = s.servers[at].value {
                let mut t = *s;
                t.servers[at].value = None;
                out.go(t, ("server {s}: the lease expires", letter(at)));
            }
        }
        for n in 0..s.nodes.len() {
            self.validate(s, n, out);
            self.read_journal(s, n, out);
            if s.nodes[n].map != s.owner {
                let mut t = *s;
                t.nodes[n].map = s.owner;
                out.go(t, ("N{n} reads the map", number(n)));
            }
        }
        self.change(s, out);
    }

    fn must_heal(&self, s: &State) -> bool {
        s.change == Change::Idle
    }
}

/// Moves the slot: it is marked, its key is migrated, and both servers are told its new owner.
fn move_slot(s: &State, out: &mut Steps<State>) {
    let from = usize::from(s.owner);
    let Some(to) = s.target else {
        if s.moves > 0 {
            let mut t = *s;
            let target = if s.owner == 1 { u8::from(s.promoted) * 2 } else { 1 };
            (t.moves, t.target) = (s.moves - 1, Some(target));
            out.go(t, "the slot begins to move").fault();
        }
        // The former owner learns that it serves the slot no longer.
        for at in 0..s.servers.len() {
            if at != from && s.servers[at].serves {
                let mut t = *s;
                t.servers[at].serves = false;
                out.go(t, ("server {s} learns that it has lost the slot", letter(at)));
            }
        }
        return;
    };
    if s.servers[from].value.is_some() {
        let mut t = *s;
        t.servers[usize::from(to)].value = s.servers[from].value;
        out.go(t, "MIGRATE, whose reply is lost: both servers have the key").fault();
        t.servers[from].value = None;
        out.go(t, "MIGRATE: the key is moved");
    }
    let mut t = *s;
    (t.owner, t.target) = (to, None);
    t.servers[usize::from(to)].serves = true;
    out.go(t, ("the slot has moved to server {s}", letter(usize::from(to))));
}

fn fail_over(s: &State, out: &mut Steps<State>) {
    if s.promoted {
        return;
    }
    let (master, replica) = (s.servers[0], s.servers[REPLICA]);
    if master.value != replica.value {
        let mut t = *s;
        t.servers[REPLICA].value = master.value;
        out.go(t, "the replica of A catches up");
    }
    if s.failovers > 0 && s.target.is_none() {
        let mut t = *s;
        (t.failovers, t.promoted) = (s.failovers - 1, true);
        if s.owner == 0 {
            t.owner = 2;
            t.servers[REPLICA].serves = true;
        }
        out.go(t, "the replica of A is promoted, A does not notice").fault();
    }
}

impl Cluster {
    fn validate(&self, s: &State, n: usize, out: &mut Steps<State>) {
        let mut t = *s;
        match s.nodes[n].op {
            Op::Idle => {
                t.nodes[n].op = Op::Get;
                t.nodes[n].since = (s.propagated, s.elapsed);
                let late = if s.elapsed { LATE } else { 0 };
                out.go(t, ("N{n}: a validation starts", number(n))).reaches(late);
            }
            Op::Get => self.get(s, n, out),
            Op::Read(lease) => {
                // Postgres decides, so the reply is right.
                let fills = lease.filter(|_| s.change == Change::Idle);
                t.nodes[n].op = fills.map_or(Op::Idle, Op::Fill);
                out.go(t, ("N{n}: reads Postgres", number(n)));
            }
            Op::Fill(at) => {
                let here = usize::from(at);
                t.nodes[n].op = Op::Idle;
                let holds = s.servers[here].value == Some(Value::Lease(index(n)));
                out.go(t, ("N{n}: its fill is lost", number(n))).fault();
                let refused = if s.servers[here].serves { 0 } else { REFUSED };
                if holds && refused == 0 {
                    t.servers[here].value = Some(Value::Entry(at));
                }
                let label = ("N{n}: its fill, on server {s}", number(n), letter(here));
                out.go(t, label).reaches(refused);
            }
        }
    }

    fn get(&self, s: &State, n: usize, out: &mut Steps<State>) {
        let node = s.nodes[n];
        let at = usize::from(node.map);
        let server = s.servers[at];
        let here = |text| (text, number(n), letter(at));
        let mut t = *s;
        t.nodes[n].op = Op::Read(None);
        out.go(t, ("N{n}: GET fails", number(n))).fault();
        if !server.serves {
            t.nodes[n].map = s.owner;
            out.go(t, here("N{n}: GET on {s} -> MOVED")).reaches(MOVED);
            return;
        }
        match server.value {
            None if s.target.is_some() && node.map == s.owner => {
                out.go(t, here("N{n}: GET on {s} -> ASK")).reaches(ASK);
            }
            Some(Value::Entry(of)) if self.opens(of, node.map) && !node.knows && !node.stale => {
                t.nodes[n].op = Op::Idle;
                let (propagated, elapsed) = node.since;
                let after = s.moves < self.moves || s.failovers < self.failovers;
                let before = s.change == Change::Idle;
                out.go(t, here("N{n}: GET on {s} -> VALID (hit)"))
                    .breaks(broken(Q, propagated) | broken(P, elapsed))
                    .breaks(broken(IN_PLACE, of != node.map))
                    .reaches(if before { HIT } else { 0 })
                    .reaches(if before && after { HIT_AFTER } else { 0 });
            }
            Some(Value::Entry(of)) if self.opens(of, node.map) && node.stale => {
                out.go(t, here("N{n}: GET on {s} -> an entry not served"));
            }
            Some(Value::Lease(_)) => {
                out.go(t, here("N{n}: GET on {s} -> another lease"));
            }
            // Compare-and-set replaces a rejected entry.
            None | Some(Value::Entry(_)) => {
                t.servers[at].value = Some(Value::Lease(index(n)));
                t.nodes[n].op = Op::Read(Some(node.map));
                out.go(t, here("N{n}: GET on {s} -> a miss, N{n} has the lease"));
            }
        }
    }

    /// Returns whether the incarnation of an entry is that of the server.
    fn opens(&self, filled_on: u8, at: u8) -> bool {
        filled_on == at || self.mistake == Some(Mistake::SharedIncarnation)
    }

    fn read_journal(&self, s: &State, n: usize, out: &mut Steps<State>) {
        if s.change == Change::Idle || s.nodes[n].knows || self.mistake == Some(Mistake::NoJournal)
        {
            return;
        }
        let mut t = *s;
        (t.nodes[n].knows, t.nodes[n].stale) = (true, false);
        out.go(t, ("N{n} reads the journal", number(n)));
    }

    fn change(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        match s.change {
            Change::Idle => {
                t.change = Change::Committed;
                out.go(t, "a revocation: COMMIT");
            }
            Change::Committed => self.unlink(s, out),
            Change::Returned => {}
        }
        if s.change != Change::Idle && !s.elapsed {
            let mut t = *s;
            t.elapsed = true;
            if self.mistake != Some(Mistake::NoJournal) {
                t.nodes.iter_mut().for_each(|node| node.stale = !node.knows);
            }
            out.go(t, "D has passed since the COMMIT");
        }
    }

    fn unlink(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        if s.map_of_change != s.owner {
            t.map_of_change = s.owner;
            out.go(t, "the revoker reads the map");
        }
        let mut t = *s;
        t.change = Change::Returned;
        out.go(t, "its UNLINK is not acknowledged: COMMITTED").fault();
        let server = &mut t.servers[usize::from(s.map_of_change)];
        let is_asked = s.target.is_some() && s.map_of_change == s.owner && server.value.is_none();
        if server.serves && !is_asked {
            server.value = None;
            t.propagated = self.mistake == Some(Mistake::Propagates);
            out.go(t, ("UNLINK on server {s}", letter(usize::from(s.map_of_change))))
                .reaches(ACKNOWLEDGED);
        }
    }
}

fn letter(at: usize) -> char {
    ['A', 'B', 'R'][at]
}

fn number(n: usize) -> u8 {
    index(n) + 1
}

fn index(n: usize) -> u8 {
    u8::from(n == 1)
}
