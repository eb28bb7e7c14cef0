//! A validate asks Redis: GET, what its reply means, and the lease.

use super::link::name;
use super::promises::{HIT, HIT_AFTER, NEW_HIT, REPLACED, TAKEN, answer_valid};
use super::state::{At, Known, Link, Op, Row, State, Value};
use super::{Check, Config, Fill, Mode, Pending, Protocol, Replace};
use crate::explore::{Label, Steps, say};

impl<const N: usize> Protocol<N> {
    pub(super) fn get(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let a = name(n);
        let mut t = *s;
        self.ask(&mut t, n);
        out.go(t, say("N{n}: GET fails; asks Postgres").n(a))
            .fault();
        if self.0.faults.hostile && s.sealed && self.believes(s, n, false) {
            let mut t = *s;
            let broken = answer_valid(&mut t, n);
            let label = say("N{n}: GET -> an entry replayed by a hostile Redis: answers VALID");
            out.go(t, label.n(a)).breaks(broken);
        }
        let Some(link) = s.live(s.nodes[n].link) else {
            return;
        };
        if self.0.check == Check::EachCommand && !self.writable(s, link) {
            let mut t = *s;
            self.refused(&mut t, n);
            self.ask(&mut t, n);
            let label = say("N{n}: GET refused: role or incarnation changed; asks Postgres");
            out.go(t, label.n(a));
            return;
        }
        let value = s.server(link.at).keys[self.key(link.incarnation)];
        if self.0.late_replies {
            let mut t = *s;
            // Whose lease it is makes no difference to whoever finds it.
            t.nodes[n].op = Op::Got(if value.is_lease() {
                Value::Orphan
            } else {
                value
            });
            let label = say("N{n}: GET is executed on server {s}");
            out.go(t, label.n(a).on(link.at.letter()));
        } else {
            self.judge(s, n, value, link, out);
        }
    }

    /// GET's reply is there.
    pub(super) fn reply(&self, s: &State<N>, n: usize, value: Value, out: &mut Steps<State<N>>) {
        let mut t = *s;
        self.ask(&mut t, n);
        let label = say("N{n}: GET's reply is lost; asks Postgres");
        out.go(t, label.n(name(n))).fault();
        if let Some(link) = s.nodes[n].link {
            self.judge(s, n, value, link, out);
        }
    }

    /// What the value means.
    fn judge(&self, s: &State<N>, n: usize, value: Value, link: Link, out: &mut Steps<State<N>>) {
        let here = |text| say(text).n(name(n)).on(link.at.letter());
        let asks = |text, out: &mut Steps<State<N>>| {
            let mut t = *s;
            self.ask(&mut t, n);
            out.go(t, here(text));
        };
        match value {
            Value::Copy { new, .. } if self.opens(value, link.incarnation) => {
                if self.0.faults.looks_dead {
                    self.found_dead(
                        s,
                        n,
                        value,
                        link,
                        here("N{n}: GET on server {s} -> V that looks dead to it"),
                        out,
                    );
                }
                if self.believes(s, n, new) {
                    self.hit(s, n, new, link.at, out);
                } else if self.0.changed_is_dead && s.nodes[n].known == Known::Changed {
                    let label = here("N{n}: GET on server {s} -> V that is in the changed-set");
                    self.found_dead(s, n, value, link, label, out);
                } else {
                    asks(
                        "N{n}: GET on server {s} -> V, not believed; asks Postgres",
                        out,
                    );
                }
            }
            Value::Copy { .. } => {
                let label = here("N{n}: GET on server {s} -> V of another incarnation");
                self.found_dead(s, n, value, link, label, out);
            }
            Value::Nothing => self.found_nothing(s, n, link, out),
            Value::Fence => asks("N{n}: GET on server {s} -> T; asks Postgres", out),
            Value::Orphan | Value::Lease(_) | Value::FillLease(_) => {
                asks(
                    "N{n}: GET on server {s} -> someone's lease; asks Postgres",
                    out,
                );
            }
            Value::NoSession => {
                let mut t = *s;
                let broken = self.answer_invalid(&mut t, n);
                let label = here("N{n}: GET on server {s} -> 'no such session': answers INVALID");
                out.go(t, label).breaks(broken);
            }
        }
    }

    fn hit(&self, s: &State<N>, n: usize, new: bool, at: At, out: &mut Steps<State<N>>) {
        let here = |text| say(text).n(name(n)).on(at.letter());
        let mut t = *s;
        if new {
            let broken = self.answer_invalid(&mut t, n);
            let label = here("N{n}: GET on server {s} -> V': answers NEW DATA (hit)");
            out.go(t, label).breaks(broken).reaches(NEW_HIT);
            return;
        }
        let broken = answer_valid(&mut t, n);
        let reached = match (s.row, s.faulted) {
            (Row::Before, true) => HIT | HIT_AFTER,
            (Row::Before, false) => HIT,
            _ => 0,
        };
        let label = here(if self.0.mode == Mode::Update {
            "N{n}: GET on server {s} -> V: answers OLD DATA (hit)"
        } else {
            "N{n}: GET on server {s} -> V: answers VALID (hit)"
        });
        out.go(t, label).breaks(broken).reaches(reached);
    }

    /// Does this node believe a copy of the row before (or after) the change?
    fn believes(&self, s: &State<N>, n: usize, new: bool) -> bool {
        let c = &self.0;
        let node = &s.nodes[n];
        let held = match c.pending {
            Pending::Off | Pending::Believed => false,
            Pending::AtReply => node.pending,
            Pending::BeforeAndAtReply => node.pending || node.since_pending,
        };
        if held || (node.held && !new) {
            return false;
        }
        if c.mistakes.set_before_age {
            let in_time = matches!(node.known, Known::Fresh | Known::Changed | Known::Missed);
            return in_time && !node.since_changed;
        }
        match node.known {
            Known::Fresh | Known::Missed => true,
            Known::NotLoaded => c.mistakes.trust_at_start,
            Known::Changed => c.mode == Mode::Update && c.least_version && new,
            Known::Stale => false,
        }
    }

    fn found_nothing(&self, s: &State<N>, n: usize, link: Link, out: &mut Steps<State<N>>) {
        let mut t = *s;
        if fills_without_lease(&self.0) {
            t.nodes[n].lease = Some(link);
            self.ask(&mut t, n);
            let label = say("N{n}: GET on server {s} -> nothing; asks Postgres, will fill");
            out.go(t, label.n(name(n)).on(link.at.letter()));
        } else {
            t.nodes[n].op = Op::Lease;
            let label = say("N{n}: GET on server {s} -> miss");
            out.go(t, label.n(name(n)).on(link.at.letter()));
        }
    }

    fn found_dead(
        &self,
        s: &State<N>,
        n: usize,
        dead: Value,
        link: Link,
        label: Label,
        out: &mut Steps<State<N>>,
    ) {
        let mut t = *s;
        match self.0.replace {
            Replace::AtOnce => return self.found_nothing(s, n, link, out),
            Replace::NoLease => {
                t.nodes[n].lease = Some(link);
                self.ask(&mut t, n);
            }
            Replace::CompareAndSet | Replace::Unconditional => t.nodes[n].op = Op::Replace(dead),
        }
        out.go(t, label);
    }

    /// SET NX where nothing was; compare-and-set where something dead was.
    pub(super) fn take_lease(
        &self,
        s: &State<N>,
        n: usize,
        dead: Option<Value>,
        out: &mut Steps<State<N>>,
    ) {
        let a = name(n);
        let mut t = *s;
        self.ask(&mut t, n);
        out.go(t, say("N{n}: taking the lease fails; asks Postgres").n(a))
            .fault();
        let Some(link) = s.live(s.nodes[n].link) else {
            return;
        };
        let here = |text| say(text).n(a).on(link.at.letter());
        if !self.writable(s, link) {
            let mut t = *s;
            self.refused(&mut t, n);
            self.ask(&mut t, n);
            let label = here("N{n}: the lease is refused by server {s} (READONLY); asks Postgres");
            out.go(t, label);
            return;
        }
        let key = self.key(link.incarnation);
        let value = s.server(link.at).keys[key];
        let free = match (dead, self.0.replace) {
            (None, Replace::AtOnce) => {
                let is_copy = matches!(value, Value::Copy { .. });
                value == Value::Nothing || is_copy && !self.opens(value, link.incarnation)
            }
            (None, _) => value == Value::Nothing,
            (Some(_), Replace::Unconditional) => true,
            (Some(dead), _) => value == dead,
        };
        if !free {
            let mut t = *s;
            self.ask(&mut t, n);
            out.go(t, here("N{n}: no lease, someone came first; asks Postgres"));
            return;
        }
        let taken = dead.is_some_and(|dead| value != dead) && value != Value::Nothing;
        let (broken, reached) = (
            if taken { TAKEN } else { 0 },
            if dead.is_some() { REPLACED } else { 0 },
        );
        let mut t = *s;
        t.server_mut(link.at).keys[key] = Value::Lease(super::state::number(n));
        t.nodes[n].lease = Some(link);
        self.ask(&mut t, n);
        let label = here("N{n} has the lease on server {s}");
        out.go(t, label).breaks(broken).reaches(reached);
        let mut t = *s;
        t.server_mut(link.at).keys[key] = Value::Orphan;
        self.ask(&mut t, n);
        let label = say("N{n}: the lease is granted, the reply lost; asks Postgres");
        out.go(t, label.n(a)).fault();
    }
}

fn fills_without_lease(c: &Config) -> bool {
    matches!(c.fill, Fill::NoLease | Fill::Tombstone)
}
