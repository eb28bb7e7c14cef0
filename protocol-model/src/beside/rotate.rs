//! rotate with grace: for some ticks a session has two digests, and so two keys. Two readers, one that
//! rotates (twice), one that revokes. Time in ticks.
//!
//! Validating nodes do not see the journal here: it makes good within D what these runs show.

use super::{P, Q, SEEN, SEEN_TOO, broken};
use crate::explore::{Model, Steps, say};

const TTL: u8 = 4;
const GRACE: u8 = 2;

/// Which keys a change unlinks.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Unlinks {
    /// Of every digest that was read before the change or that the change returns, as it is built.
    All,
    /// Of those read before the change.
    Before,
    /// Of those that the row has after it.
    After,
    /// Of the current digest alone.
    Current,
    /// None, by a rotation; all, by a revocation.
    RotateNone,
    /// Of every digest that the session ever had (the journal keeps them).
    Ever,
}

/// Rotating.
pub(crate) struct Rotate {
    pub(crate) unlinks: Unlinks,
    /// An entry under the old token lives no longer than its grace.
    pub(crate) within_grace: bool,
    /// A change's fence arrives, and stands until its UNLINK.
    pub(crate) fences: bool,
    /// A token is rotated only after the grace of the one before it.
    pub(crate) one_grace: bool,
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
    Fence,
    Lease(u8),
    Copy {
        not_after: u8,
    },
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

/// A change under way, with the tokens whose keys it is going to unlink.
#[derive(Clone, Copy, Hash, Default)]
enum Change {
    #[default]
    Idle,
    Known([bool; 3]),
    Committed([bool; 3]),
    Answered,
}

#[derive(Clone, Copy, Hash, Default)]
pub(crate) struct State {
    now: u8,
    row: Row,
    keys: [Value; 3],
    readers: [Reader; 2],
    rotation: Change,
    /// How many rotations were answered.
    rotated: u8,
    revocation: Change,
}

impl Model for Rotate {
    type State = State;

    fn start(&self) -> State {
        State {
            now: 1,
            ..State::default()
        }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        if s.now < 8 {
            let mut t = *s;
            t.now += 1;
            out.go(t, say("tick {n}").n(t.now));
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

/// Is the token in the row, and its grace not over?
fn counts(s: &State, token: u8) -> bool {
    let row = s.row;
    token == row.token || row.previous == Some(token) && s.now < row.previous_until
}

fn hit(s: &State, token: u8, out: &mut Steps<State>) {
    let Value::Copy { not_after } = s.keys[usize::from(token)] else {
        return;
    };
    if s.now >= not_after {
        return;
    }
    let revoked = matches!(s.revocation, Change::Answered);
    let over = !counts(s, token) && s.rotated == s.row.token;
    let in_grace = token != s.row.token && counts(s, token);
    out.go(*s, say("a validate with token {n} hits V: VALID").n(token))
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
                        Value::Fence | Value::Lease(_) => false,
                        Value::Copy { not_after } => s.now >= not_after,
                    };
                    if free {
                        let mut t = *s;
                        t.keys[usize::from(token)] = Value::Lease(reader);
                        t.readers[at] = Reader::Leased(token);
                        out.go(t, say("a validate with token {n} has the lease").n(token));
                    }
                }
            }
            Reader::Leased(token) => {
                let mut t = *s;
                if s.row.revoked || !counts(s, token) {
                    t.readers[at] = Reader::Idle;
                    if t.keys[usize::from(token)] == Value::Lease(reader) {
                        t.keys[usize::from(token)] = Value::Nothing;
                    }
                    out.go(t, say("its read finds nothing for token {n}").n(token));
                    return;
                }
                let mut not_after = s.now + TTL;
                if self.within_grace && token != s.row.token {
                    not_after = not_after.min(s.row.previous_until);
                }
                t.readers[at] = Reader::Filling { token, not_after };
                out.go(t, say("its read says valid for token {n}").n(token));
            }
            Reader::Filling { token, not_after } => {
                let mut t = *s;
                t.readers[at] = Reader::Idle;
                let key = &mut t.keys[usize::from(token)];
                if *key == Value::Lease(reader) {
                    *key = Value::Copy { not_after };
                    out.go(t, say("its fill for token {n}: V").n(token));
                } else {
                    out.go(t, say("its fill for token {n} is refused").n(token));
                }
            }
        }
    }

    /// The digests are read, and their keys fenced.
    fn begin(&self, t: &mut State) -> Change {
        let known = self.known(t.row);
        for (key, fenced) in t.keys.iter_mut().zip(known) {
            if self.fences && fenced {
                *key = Value::Fence;
            }
        }
        Change::Known(known)
    }

    /// The digests that are read before a change.
    fn known(&self, row: Row) -> [bool; 3] {
        match self.unlinks {
            Unlinks::All | Unlinks::Before | Unlinks::RotateNone => {
                set([Some(row.token), row.previous])
            }
            Unlinks::Ever => [0, 1, 2].map(|token| token <= row.token),
            Unlinks::After | Unlinks::Current => [false; 3],
        }
    }

    /// And those that it returns.
    fn returned(&self, row: Row) -> [bool; 3] {
        match self.unlinks {
            Unlinks::All | Unlinks::After | Unlinks::RotateNone => {
                set([Some(row.token), row.previous])
            }
            Unlinks::Ever => [0, 1, 2].map(|token| token <= row.token),
            Unlinks::Before => [false; 3],
            Unlinks::Current => set([Some(row.token), None]),
        }
    }

    fn rotate(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        match s.rotation {
            Change::Idle if s.row.token < 2 => {
                t.rotation = self.begin(&mut t);
                out.go(t, say("rotate reads the digests, puts the fence"));
            }
            Change::Known(known) => {
                if s.row.revoked {
                    t.rotation = Change::Answered;
                    unlink(&mut t, known);
                    out.go(t, say("rotate: no such session; UNLINK"));
                    return;
                }
                let in_grace = s.row.previous.is_some() && s.now < s.row.previous_until;
                if self.one_grace && in_grace {
                    t.rotation = Change::Idle;
                    unlink(&mut t, known);
                    out.go(t, say("rotate: too early; UNLINK"));
                    return;
                }
                t.row = Row {
                    token: s.row.token + 1,
                    previous: Some(s.row.token),
                    previous_until: s.now + GRACE,
                    revoked: false,
                };
                t.rotation = Change::Committed(both(known, self.returned(t.row)));
                out.go(t, say("rotate: COMMIT, token {n} is new").n(t.row.token));
            }
            Change::Committed(tokens) => {
                if self.unlinks != Unlinks::RotateNone {
                    unlink(&mut t, tokens);
                }
                t.rotation = Change::Idle;
                t.rotated += 1;
                out.go(t, say("rotate: UNLINK, answers PROPAGATED"));
            }
            Change::Idle | Change::Answered => {}
        }
    }

    fn revoke(&self, s: &State, out: &mut Steps<State>) {
        let mut t = *s;
        match s.revocation {
            Change::Idle => {
                t.revocation = self.begin(&mut t);
                out.go(t, say("revoke reads the digests, puts the fence"));
            }
            Change::Known(known) => {
                t.row.revoked = true;
                t.revocation = Change::Committed(both(known, self.returned(s.row)));
                out.go(t, say("revoke: COMMIT"));
            }
            Change::Committed(tokens) => {
                unlink(&mut t, tokens);
                t.revocation = Change::Answered;
                out.go(t, say("revoke: UNLINK, answers PROPAGATED"));
            }
            Change::Answered => {}
        }
    }
}

fn set(tokens: [Option<u8>; 2]) -> [bool; 3] {
    let mut set = [false; 3];
    for token in tokens.into_iter().flatten() {
        set[usize::from(token)] = true;
    }
    set
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
