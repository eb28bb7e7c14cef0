//! The start of a validation, and its look-up: GET, the verdict on the value, and the lease.

use super::links::opens;
use super::promises::{HIT, HIT_AFTER, LATE, NEW_HIT, REPLACED, TAKEN, WOKEN, return_valid};
use super::state::{Known, Link, Op, Row, State, Value, name, number};
use super::{Mistake, Mode, Protocol};
use crate::explore::{Label, Steps};

impl<const N: usize> Protocol<N> {
    pub(super) fn validate(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        match s.nodes[n].op {
            Op::Idle => return self.start_validation(s, n, out),
            Op::Near(row) => self.judge_near(s, n, row, out),
            Op::Get => self.get(s, n, out),
            Op::Got(value) => {
                self.fail(s, n, "N{n}: GET's reply is lost, reads Postgres", out);
                if let Some(link) = s.nodes[n].link {
                    self.judge(s, n, value, link, out);
                }
            }
            Op::Lease => self.take_lease(s, n, None, out),
            Op::Replace(rejected) => self.take_lease(s, n, Some(rejected), out),
            Op::Ask => self.begin_read(s, n, out),
            Op::Read => self.end_read(s, n, out),
            Op::Remove => self.remove(s, n, out),
        }
        let mut t = *s;
        t.end(n);
        out.go(t, ("N{n}: the client disconnects", name(n))).fault();
    }

    fn start_validation(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let mut t = *s;
        for node in &mut t.nodes[self.process(n)] {
            node.paused = false;
        }
        let node = &mut t.nodes[n];
        node.op = Op::Get;
        node.since = s.past;
        node.since_own = node.own;
        node.since_pending = node.pending && !self.makes(Mistake::PendingAtReplyOnly);
        node.since_invalid = node.invalid;
        node.since_changed = self.makes(Mistake::SetBeforeAge) && node.known == Known::Changed;
        if self.makes(Mistake::ReadBeforeLease) {
            node.read = s.row;
        }
        let late = if s.past.elapsed { LATE } else { 0 };
        let woken = if s.nodes[n].paused { WOKEN } else { 0 };
        out.go(t, ("N{n}: a validation starts", name(n))).reaches(late | woken);
        let near = s.nodes[n].near;
        if near != Row::Absent {
            t.nodes[n].op = Op::Near(near);
            out.go(t, ("N{n}: a validation starts, finds a near entry", name(n))).reaches(late);
        }
    }

    /// Continues with Postgres.
    pub(super) fn ask(&self, s: &mut State<N>, n: usize) {
        s.nodes[n].op = if self.makes(Mistake::ReadBeforeLease) { Op::Read } else { Op::Ask };
    }

    /// Continues with Postgres, because a command failed.
    fn fail(&self, s: &State<N>, n: usize, text: &'static str, out: &mut Steps<State<N>>) {
        let mut t = *s;
        self.ask(&mut t, n);
        out.go(t, (text, name(n))).fault();
    }

    fn get(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        self.fail(s, n, "N{n}: GET fails, reads Postgres", out);
        if self.0.hostile && s.sealed && self.is_served(s, n, false) {
            let mut t = *s;
            self.insert_near(&mut t, n, Row::Before);
            let broken = return_valid(&mut t, n);
            out.go(t, ("N{n}: GET -> an entry replayed by Redis: VALID", name(n))).breaks(broken);
        }
        let Some(link) = s.live(s.nodes[n].link) else {
            return;
        };
        let value = s.server(link.at).value;
        if self.0.late_replies {
            let mut t = *s;
            // A node treats all leases of others alike.
            t.nodes[n].op = Op::Got(if value.is_lease() { Value::Orphan } else { value });
            out.go(t, ("N{n}: server {s} executes the GET", name(n), link.at.letter()));
        } else {
            self.judge(s, n, value, link, out);
        }
    }

    /// Decides on a value that GET returned.
    fn judge(&self, s: &State<N>, n: usize, value: Value, link: Link, out: &mut Steps<State<N>>) {
        let here = |text| (text, name(n), link.at.letter()).into();
        let held = |label: Label, out: &mut Steps<State<N>>| {
            let mut t = *s;
            self.ask(&mut t, n);
            out.go(t, label);
        };
        let reject = |text, out: &mut Steps<State<N>>| {
            let mut t = *s;
            if self.makes(Mistake::ReplaceWithoutLease) {
                t.nodes[n].lease = Some(link);
                self.ask(&mut t, n);
            } else {
                t.nodes[n].op = Op::Replace(value);
            }
            out.go(t, here(text));
        };
        match value {
            Value::Entry { new, .. } if opens(value, link.incarnation) => {
                if self.0.rejects {
                    reject("N{n}: GET on {s} -> an entry that this node rejects", out);
                }
                if self.is_served(s, n, new) {
                    self.hit(s, n, new, link, out);
                } else if s.nodes[n].known == Known::Changed {
                    reject("N{n}: GET on {s} -> an entry that the changed-set rejects", out);
                } else {
                    held(here("N{n}: GET on {s} -> an entry not served, reads Postgres"), out);
                }
            }
            Value::Entry { .. } => reject("N{n}: GET on {s} -> entry of another incarnation", out),
            Value::Nothing => {
                let mut t = *s;
                if self.makes(Mistake::NoLease) || self.makes(Mistake::Tombstone) {
                    t.nodes[n].lease = Some(link);
                    self.ask(&mut t, n);
                } else {
                    t.nodes[n].op = Op::Lease;
                }
                out.go(t, here("N{n}: GET on {s} -> a miss"));
            }
            Value::Fence => held(here("N{n}: GET on {s} -> a fence, reads Postgres"), out),
            Value::Orphan | Value::Lease(_) | Value::FillLease(_) => {
                held(here("N{n}: GET on {s} -> another lease, reads Postgres"), out);
            }
            Value::NoSession => {
                let mut t = *s;
                let broken = self.return_invalid(&mut t, n);
                out.go(t, here("N{n}: GET on {s} -> no such session: INVALID")).breaks(broken);
            }
        }
    }

    fn hit(&self, s: &State<N>, n: usize, new: bool, link: Link, out: &mut Steps<State<N>>) {
        let here = |text| (text, name(n), link.at.letter());
        let mut t = *s;
        t.nodes[n].refused &= !self.makes(Mistake::TicketAfterGet);
        self.insert_near(&mut t, n, if new { Row::After } else { Row::Before });
        if new {
            let broken = self.return_invalid(&mut t, n);
            out.go(t, here("N{n}: GET on {s} -> the new data (hit)"))
                .breaks(broken)
                .reaches(NEW_HIT);
            return;
        }
        let broken = return_valid(&mut t, n);
        let reached = match (s.row, s.faulted) {
            (Row::Before, true) => HIT | HIT_AFTER,
            (Row::Before, false) => HIT,
            _ => 0,
        };
        out.go(t, here("N{n}: GET on {s} -> VALID (hit)")).breaks(broken).reaches(reached);
    }

    /// Returns whether this node serves an entry of the row before (or after) the change.
    pub(super) fn is_served(&self, s: &State<N>, n: usize, new: bool) -> bool {
        let node = &s.nodes[n];
        let is_pending = node.pending || node.since_pending;
        if is_pending && !self.makes(Mistake::PendingServed) || node.held && !new {
            return false;
        }
        if self.makes(Mistake::SetBeforeAge) {
            let in_time = matches!(node.known, Known::Fresh | Known::Changed | Known::Missed);
            return in_time && !node.since_changed;
        }
        match node.known {
            Known::Fresh | Known::Missed => true,
            Known::NotLoaded => self.makes(Mistake::TrustAtStart),
            Known::Changed => self.0.mode == Mode::Update && new,
            Known::Stale => false,
        }
    }

    /// Takes the lease: SET NX for an empty key, compare-and-set for a rejected value.
    fn take_lease(&self, s: &State<N>, n: usize, old: Option<Value>, out: &mut Steps<State<N>>) {
        self.fail(s, n, "N{n}: taking the lease fails, reads Postgres", out);
        let Some(link) = s.live(s.nodes[n].link) else {
            return;
        };
        let here = |text| (text, name(n), link.at.letter());
        let mut t = *s;
        self.ask(&mut t, n);
        if !s.is_writable(link) {
            self.set_link(&mut t, n, None);
            out.go(t, here("N{n}: server {s} refuses the lease (READONLY), reads Postgres"));
            return;
        }
        let value = s.server(link.at).value;
        let sets_any = old.is_some() && self.makes(Mistake::ReplaceUnconditionally);
        if value != old.unwrap_or_default() && !sets_any {
            out.go(t, here("N{n}: no lease on {s}, because the value changed, reads Postgres"));
            return;
        }
        let takes = value != old.unwrap_or_default() && value != Value::Nothing;
        let mut lost = t;
        t.server_mut(link.at).value = Value::Lease(number(n));
        t.nodes[n].lease = Some(link);
        out.go(t, here("N{n} has the lease on server {s}"))
            .breaks(if takes { TAKEN } else { 0 })
            .reaches(if old.is_some() { REPLACED } else { 0 });
        lost.server_mut(link.at).value = Value::Orphan;
        out.go(lost, here("N{n}: server {s} grants the lease, the reply is lost")).fault();
    }
}
