//! A rotation with grace: for some ticks a session has two tokens, and therefore two keys. Two
//! nodes validate, one client rotates twice, and one revokes. No fence arrives, and no node reads
//! the journal. Time passes in ticks.

use super::{P, Q, SEEN, SEEN_TOO, broken};
use crate::explore::{Model, Steps};
use crate::run::{Names, Run};

const TTL: u8 = 4;
const GRACE: u8 = 2;

/// The digests whose keys a change unlinks.
#[derive(Clone, Copy, PartialEq)]
enum Unlinks {
    /// All that the session ever had. The row keeps the last sixteen.
    Ever,
    /// The current and the previous one, before and after the change.
    Two,
    /// Those read before the change.
    Before,
    /// Those in the row after the change.
    After,
    Current,
    /// None for a rotation.
    RotateNone,
}

/// A session that is rotated.
struct Rotate {
    unlinks: Unlinks,
    /// An entry under the old token ends with its grace.
    within_grace: bool,
}

/// The session's row. Tokens are numbers: the next one is one more.
#[derive(Clone, Copy, Hash, Default)]
struct Row {
    token: u8,
    previous: Option<u8>,
    previous_until: u8,
    revoked: bool,
}

#[derive(Clone, Copy, PartialEq, Hash, Default)]
enum Value {
    #[default]
    Nothing,
    Lease(u8),
    /// It ends at this tick.
    Entry(u8),
}

#[derive(Clone, Copy, Hash, Default)]
enum Reader {
    #[default]
    Idle,
    Leased(u8),
    /// Its fill is in the network.
    Filling {
        token: u8,
        not_after: u8,
    },
}

/// A change in progress, with the tokens whose keys it unlinks.
#[derive(Clone, Copy, Hash, Default)]
enum Change {
    #[default]
    Idle,
    Known([bool; 3]),
    Committed([bool; 3]),
    Returned,
}

#[derive(Clone, Copy, Hash, Default)]
struct State {
    now: u8,
    row: Row,
    keys: [Value; 3],
    readers: [Reader; 2],
    rotation: Change,
    /// How many rotations have returned.
    rotated: u8,
    revocation: Change,
}

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[(P, "R1 under every token"), (Q, "no token outlives its grace")],
        &[(SEEN, "a hit"), (SEEN_TOO, "a hit within the grace")],
    );
    let run = |name, about, unlinks, within_grace| {
        Run::new(name, about, NAMES, Rotate { unlinks, within_grace })
    };
    vec![
        run("T1d", "two rotations and a revocation, every digest unlinked", Unlinks::Ever, true)
            .holds(P | Q)
            .reaches(SEEN | SEEN_TOO),
        run("T1b", "two rotations within a grace, former digests dropped", Unlinks::Two, true)
            .breaks(P),
        run("T2", "only the current digest's key is unlinked", Unlinks::Current, true).breaks(P),
        run("T3", "only digests read before the change", Unlinks::Before, true).breaks(P),
        run("T4", "only digests in the row after the change", Unlinks::After, true).breaks(Q),
        run("T5", "an entry under the old token has a full TTL", Unlinks::Ever, false).breaks(Q),
        run("T6", "a rotation unlinks nothing", Unlinks::RotateNone, true).breaks(Q),
    ]
}

impl Model for Rotate {
    type State = State;

    fn start(&self) -> State {
        State { now: 1, ..State::default() }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        if s.now < 8 {
            let mut t = *s;
            t.now += 1;
            out.go(t, ("tick {n}", t.now));
        }
        for reader in 0..2 {
            self.read(s, reader, out);
        }
        self.rotate(s, out);
        self.revoke(s, out);
        for token in 0..=s.row.token {
            hit(s, token, out);
        }
    }
}

/// Returns whether the row has the token, and its grace is not over.
fn is_valid(s: &State, token: u8) -> bool {
    let row = s.row;
    token == row.token || row.previous == Some(token) && s.now < row.previous_until
}

fn hit(s: &State, token: u8, out: &mut Steps<State>) {
    let Value::Entry(not_after) = s.keys[usize::from(token)] else {
        return;
    };
    if s.now >= not_after {
        return;
    }
    let revoked = matches!(s.revocation, Change::Returned);
    let over = !is_valid(s, token) && s.rotated == s.row.token;
    let in_grace = token != s.row.token && is_valid(s, token);
    out.go(*s, ("a hit with token {n}: VALID", token))
        .breaks(broken(P, revoked) | broken(Q, over))
        .reaches(SEEN | if in_grace { SEEN_TOO } else { 0 });
}

impl Rotate {
    fn read(&self, s: &State, reader: u8, out: &mut Steps<State>) {
        let at = usize::from(reader);
        match s.readers[at] {
            Reader::Idle => {
                for token in 0..=s.row.token {
                    let free = match s.keys[usize::from(token)] {
                        Value::Nothing => true,
                        Value::Lease(_) => false,
                        Value::Entry(not_after) => s.now >= not_after,
                    };
                    if free {
                        let mut t = *s;
                        t.keys[usize::from(token)] = Value::Lease(reader);
                        t.readers[at] = Reader::Leased(token);
                        out.go(t, ("a validation with token {n} has the lease", token));
                    }
                }
            }
            Reader::Leased(token) => {
                let mut t = *s;
                if s.row.revoked || !is_valid(s, token) {
                    t.readers[at] = Reader::Idle;
                    if t.keys[usize::from(token)] == Value::Lease(reader) {
                        t.keys[usize::from(token)] = Value::Nothing;
                    }
                    out.go(t, ("its read finds nothing for token {n}", token));
                    return;
                }
                let mut not_after = s.now + TTL;
                if self.within_grace && token != s.row.token {
                    not_after = not_after.min(s.row.previous_until);
                }
                t.readers[at] = Reader::Filling { token, not_after };
                out.go(t, ("its read returns valid for token {n}", token));
            }
            Reader::Filling { token, not_after } => {
                let mut t = *s;
                t.readers[at] = Reader::Idle;
                let key = &mut t.keys[usize::from(token)];
                if *key == Value::Lease(reader) {
                    *key = Value::Entry(not_after);
                    out.go(t, ("its fill for token {n} is executed", token));
                } else {
                    out.go(t, ("its fill for token {n} is refused", token));
                }
            }
        }
    }

    /// Returns the digests that a change reads from the row before it.
    fn known(&self, row: Row) -> [bool; 3] {
        match self.unlinks {
            Unlinks::Ever | Unlinks::RotateNone => [0, 1, 2].map(|token| token <= row.token),
            Unlinks::Two | Unlinks::Before => set(row),
            Unlinks::After | Unlinks::Current => [false; 3],
        }
    }

    /// Returns the digests that a change returns from the row after it.
    fn returned(&self, row: Row) -> [bool; 3] {
        match self.unlinks {
            Unlinks::Ever | Unlinks::RotateNone => [0, 1, 2].map(|token| token <= row.token),
            Unlinks::Two | Unlinks::After => set(row),
            Unlinks::Before => [false; 3],
            Unlinks::Current => [0, 1, 2].map(|token| token == row.token),
        }
    }

    fn rotate(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        match s.rotation {
            Change::Idle if s.row.token < 2 => {
                t.rotation = Change::Known(self.known(s.row));
                out.go(t, "rotate reads the digests");
            }
            Change::Known(known) => {
                if s.row.revoked {
                    t.rotation = Change::Returned;
                    unlink(&mut t, known);
                    out.go(t, "rotate: no such session, UNLINK");
                    return;
                }
                t.row = Row {
                    token: s.row.token + 1,
                    previous: Some(s.row.token),
                    previous_until: s.now + GRACE,
                    revoked: false,
                };
                t.rotation = Change::Committed(both(known, self.returned(t.row)));
                out.go(t, ("rotate: COMMIT, token {n} is new", t.row.token));
            }
            Change::Committed(tokens) => {
                if self.unlinks != Unlinks::RotateNone {
                    unlink(&mut t, tokens);
                }
                t.rotation = Change::Idle;
                t.rotated += 1;
                out.go(t, "rotate: UNLINK, returns PROPAGATED");
            }
            Change::Idle | Change::Returned => {}
        }
    }

    fn revoke(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        match s.revocation {
            Change::Idle => {
                t.revocation = Change::Known(self.known(s.row));
                out.go(t, "revoke reads the digests");
            }
            Change::Known(known) => {
                t.row.revoked = true;
                t.revocation = Change::Committed(both(known, self.returned(s.row)));
                out.go(t, "revoke: COMMIT");
            }
            Change::Committed(tokens) => {
                unlink(&mut t, tokens);
                t.revocation = Change::Returned;
                out.go(t, "revoke: UNLINK, returns PROPAGATED");
            }
            Change::Returned => {}
        }
    }
}

/// Returns the current and the previous token.
fn set(row: Row) -> [bool; 3] {
    [0, 1, 2].map(|token| token == row.token || Some(token) == row.previous)
}

fn both(a: [bool; 3], b: [bool; 3]) -> [bool; 3] {
    [0, 1, 2].map(|token| a[token] || b[token])
}

fn unlink(s: &mut State, tokens: [bool; 3]) {
    for (key, gone) in s.keys.iter_mut().zip(tokens) {
        if gone {
            *key = Value::Nothing;
        }
    }
}
