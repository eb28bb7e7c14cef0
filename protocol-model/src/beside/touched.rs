//! touched: a token is read, and its session touched before the copy is filled. The touch goes by the session, so a
//! rotation in between goes unnoticed: what it returns is alive, and no longer under this token.

use super::{P, SEEN, broken};
use crate::explore::{Model, Steps, say};

/// What is filled after a touch.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fills {
    /// What the touch returned.
    WhatWasTouched,
    /// Nothing, where that is of another version than what was read.
    OnlyWhatWasRead,
}

/// One reader, one rotation whose UNLINK may be lost, and any node that is asked.
pub(crate) struct Touched {
    pub(crate) fills: Fills,
}

#[derive(Clone, Copy, Hash, Default)]
pub(crate) struct State {
    /// It is committed: the token is none any more, and the session's version is 1.
    rotated: bool,
    reader: Reader,
    lease: bool,
    /// The copy's version.
    copy: Option<u8>,
    /// The least version that is believed: 1 once the journal was read.
    least: u8,
}

#[derive(Clone, Copy, Hash, Default)]
enum Reader {
    #[default]
    Begins,
    Leased,
    /// Alive, of version 0.
    Read,
    /// The version that the touch returned.
    Touched(u8),
    Done,
}

impl Model for Touched {
    type State = State;

    fn start(&self) -> State {
        State::default()
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        self.reader(s, out);
        if !s.rotated {
            let rotated = State {
                rotated: true,
                ..*s
            };
            out.go(rotated, say("rotate: COMMIT; its UNLINK is lost"));
            let unlinked = State {
                lease: false,
                copy: None,
                ..rotated
            };
            out.go(unlinked, say("rotate: COMMIT, UNLINK"));
        }
        if s.rotated && s.least == 0 {
            let t = State { least: 1, ..*s };
            out.go(t, say("every node reads the journal: D is over"));
        }
        if s.copy.is_some_and(|version| version >= s.least) {
            out.go(*s, say("validate (hit): VALID"))
                .breaks(broken(P, s.least == 1))
                .reaches(SEEN);
        }
    }
}

impl Touched {
    fn reader(&self, s: &State, out: &mut Steps<State>) {
        match s.reader {
            Reader::Begins => {
                let t = State {
                    reader: Reader::Leased,
                    lease: true,
                    ..*s
                };
                out.go(t, say("reader: takes the lease"));
            }
            Reader::Leased if s.rotated => {
                let t = State {
                    reader: Reader::Done,
                    lease: false,
                    copy: None,
                    ..*s
                };
                out.go(t, say("reader: INVALID, UNLINK"));
            }
            Reader::Leased => {
                let t = State {
                    reader: Reader::Read,
                    ..*s
                };
                out.go(t, say("reader: alive, its use is to be noted"));
            }
            Reader::Read => {
                let t = State {
                    reader: Reader::Touched(s.rotated.into()),
                    ..*s
                };
                out.go(t, say("reader: touches the session"));
            }
            Reader::Touched(version) => {
                let fills = s.lease && (version == 0 || self.fills == Fills::WhatWasTouched);
                let t = State {
                    reader: Reader::Done,
                    lease: s.lease && !fills,
                    copy: if fills { Some(version) } else { s.copy },
                    ..*s
                };
                out.go(t, say("reader: answers VALID, and fills if it may"));
            }
            Reader::Done => {}
        }
    }
}
