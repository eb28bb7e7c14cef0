//! A token is read, and its session touched before the entry is filled. The touch finds the session
//! by its ID. After a rotation in between, the session is active, but not under this token.

use super::{P, SEEN, broken};
use crate::explore::{Model, Steps};
use crate::run::{Names, Run};

/// One reader, one rotation whose UNLINK may be lost, and any node that validates.
struct Touched {
    /// Nothing is filled if the touch returns another version than was read.
    compares_versions: bool,
    /// The entry is in the near cache of the reader. It needs no lease, and no UNLINK removes it.
    near: bool,
}

#[derive(Clone, Copy, Hash, Default)]
struct State {
    /// The rotation has committed. The session's version is 1.
    rotated: bool,
    reader: Reader,
    lease: bool,
    /// The version of the entry.
    entry: Option<u8>,
    /// The least version that is served. It is 1 once the journal was read.
    least: u8,
}

#[derive(Clone, Copy, Hash, Default)]
enum Reader {
    #[default]
    Begins,
    Leased,
    /// Active, of version 0.
    Read,
    /// The version that the touch returned.
    Touched(u8),
    Done,
}

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (&[(P, "R1Δ")], &[(SEEN, "a hit")]);
    let run = |name, about, compares_versions| {
        Run::new(name, about, NAMES, Touched { compares_versions, near: false })
    };
    let near = |name, about, compares_versions| {
        Run::new(name, about, NAMES, Touched { compares_versions, near: true })
    };
    vec![
        run("N1", "a fill after a touch, whatever its version", false).breaks(P),
        run("N2", "no fill if the version changed", true).holds(P).reaches(SEEN),
        near("N3", "as N1, into a near cache", false).breaks(P),
        near("N4", "as N2, into a near cache", true).holds(P).reaches(SEEN),
    ]
}

impl Model for Touched {
    type State = State;

    fn start(&self) -> State {
        State::default()
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        self.reader(s, out);
        if !s.rotated {
            let rotated = State { rotated: true, ..*s };
            out.go(rotated, "rotate: COMMIT, its UNLINK is lost");
            let entry = s.entry.filter(|_| self.near);
            let unlinked = State { lease: false, entry, ..rotated };
            out.go(unlinked, "rotate: COMMIT, UNLINK");
        }
        if s.rotated && s.least == 0 {
            let t = State { least: 1, ..*s };
            out.go(t, "every node reads the journal: D has passed");
        }
        if s.entry.is_some_and(|version| version >= s.least) {
            out.go(*s, "a hit: VALID").breaks(broken(P, s.least == 1)).reaches(SEEN);
        }
    }
}

impl Touched {
    fn reader(&self, s: &State, out: &mut Steps<State>) {
        match s.reader {
            Reader::Begins => {
                let t = State { reader: Reader::Leased, lease: true, ..*s };
                out.go(t, "reader: takes the lease");
            }
            Reader::Leased if s.rotated => {
                let t = State { reader: Reader::Done, lease: false, entry: None, ..*s };
                out.go(t, "reader: INVALID, UNLINK");
            }
            Reader::Leased => {
                let t = State { reader: Reader::Read, ..*s };
                out.go(t, "reader: active, a touch is due");
            }
            Reader::Read => {
                let t = State { reader: Reader::Touched(s.rotated.into()), ..*s };
                out.go(t, "reader: touches the session");
            }
            Reader::Touched(version) => {
                let fills = (s.lease || self.near) && (version == 0 || !self.compares_versions);
                let t = State {
                    reader: Reader::Done,
                    lease: s.lease && !fills,
                    entry: if fills { Some(version) } else { s.entry },
                    ..*s
                };
                out.go(t, "reader: returns VALID, and fills if it may");
            }
            Reader::Done => {}
        }
    }
}
