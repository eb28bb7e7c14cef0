//! A validate, from its start to Postgres' snapshot.

use super::link::name;
use super::promises::LATE;
use super::state::{Known, Op, Row, State};
use super::{Mode, Protocol};
use crate::explore::{Steps, say};

impl<const N: usize> Protocol<N> {
    pub(super) fn validate(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        match s.nodes[n].op {
            Op::Idle => self.start_validate(s, n, out),
            Op::Get => self.get(s, n, out),
            Op::Got(value) => self.reply(s, n, value, out),
            Op::Lease => self.take_lease(s, n, None, out),
            Op::Replace(dead) => self.take_lease(s, n, Some(dead), out),
            Op::Ask => self.begin_read(s, n, out),
            Op::Read => self.end_read(s, n, out),
            Op::Remove => self.remove(s, n, out),
        }
        if s.nodes[n].op != Op::Idle {
            let mut t = *s;
            t.end(n);
            out.go(t, say("N{n}: the client gives up").n(name(n)))
                .fault();
        }
    }

    fn start_validate(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let mut t = *s;
        let node = &mut t.nodes[n];
        node.op = Op::Get;
        node.since = s.past;
        node.since_own = node.own;
        node.since_pending = node.pending && self.0.pending == super::Pending::BeforeAndAtReply;
        node.since_changed = self.0.mistakes.set_before_age && node.known == Known::Changed;
        if self.0.mistakes.read_before_lease {
            node.read = s.row;
        }
        let late = if s.past.elapsed { LATE } else { 0 };
        out.go(t, say("N{n}: a validate starts").n(name(n)))
            .reaches(late);
    }

    /// On to Postgres.
    pub(super) fn ask(&self, s: &mut State<N>, n: usize) {
        s.nodes[n].op = if self.0.mistakes.read_before_lease {
            Op::Read
        } else {
            Op::Ask
        };
    }

    fn begin_read(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let mut t = *s;
        t.nodes[n].read = s.row;
        t.nodes[n].op = Op::Read;
        let label = match (s.row, self.0.mode) {
            (Row::Absent, _) | (Row::After, Mode::Delete) => {
                "N{n}: Postgres read begins: snapshot has no row"
            }
            (Row::Before, Mode::Update) => "N{n}: Postgres read begins: snapshot has the old data",
            (Row::After, Mode::Update) => "N{n}: Postgres read begins: snapshot has the new data",
            (Row::Before, _) => "N{n}: Postgres read begins: snapshot says valid",
            (Row::After, _) => "N{n}: Postgres read begins: snapshot says revoked",
        };
        out.go(t, say(label).n(name(n)));
        let other = usize::from(n == 0);
        if self.0.mistakes.join_in_flight && s.nodes[other].op == Op::Read {
            t.nodes[n].read = s.nodes[other].read;
            let label = say("N{n}: joins the Postgres read that is in flight");
            out.go(t, label.n(name(n)));
        }
    }
}

pub(super) fn create<const N: usize>(s: &State<N>, out: &mut Steps<State<N>>) {
    if s.row == Row::Absent {
        let mut t = *s;
        t.row = Row::Before;
        t.past.created = true;
        out.go(t, say("create: COMMIT, answers Ok"));
    }
}
