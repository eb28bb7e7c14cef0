//! Pending invalidations: UNLINKs that Redis has not acknowledged to this node.

use super::promises::{FORGOTTEN, RETRIED};
use super::state::{Op, Row, State, Value, name};
use super::{Mistake, Protocol};
use crate::explore::Steps;

impl<const N: usize> Protocol<N> {
    pub(super) fn retry_pending(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        if !s.nodes[n].pending {
            return;
        }
        if let Some(link) = s.live(s.nodes[n].link) {
            let here = |text| (text, name(n), link.at.letter());
            let mut t = *s;
            if s.is_writable(link) {
                t.server_mut(link.at).value = Value::Nothing;
                if self.0.unlink_loss {
                    out.go(t, here("N{n} retries UNLINK on {s}, the reply is lost")).fault();
                }
                self.end_pending(&mut t, n);
                out.go(t, here("N{n} retries UNLINK on {s}: acknowledged")).reaches(RETRIED);
            } else {
                self.set_link(&mut t, n, None);
                out.go(t, here("N{n} retries UNLINK on {s}: refused (READONLY)"));
            }
        }
        let is_early = self.makes(Mistake::ForgottenEarly);
        if is_early || self.0.ages && !has_old_reads(s) {
            let mut t = *s;
            self.end_pending(&mut t, n);
            if !is_early {
                expire_old_entries(&mut t);
            }
            out.go(t, ("N{n}: drops its pending invalidation", name(n))).reaches(FORGOTTEN);
        }
    }

    fn end_pending(&self, s: &mut State<N>, n: usize) {
        for node in &mut s.nodes[self.process(n)] {
            node.pending = false;
        }
    }
}

/// Returns whether a read of the old row is in progress. None lasts for TTL + 2 s.
fn has_old_reads<const N: usize>(s: &State<N>) -> bool {
    s.nodes.iter().any(|node| node.read == Row::Before)
        || s.fills.iter().flatten().any(|fill| fill.of == Row::Before)
}

/// Removes entries of the old row, because TTL + 2 s have passed.
fn expire_old_entries<const N: usize>(s: &mut State<N>) {
    let is_old = |value: &Value| matches!(value, Value::Entry { new: false, .. });
    s.values().filter(|value| is_old(value)).for_each(|value| *value = Value::Nothing);
    for node in &mut s.nodes {
        if matches!(node.op, Op::Got(value) if is_old(&value)) || node.op == Op::Near(Row::Before) {
            node.op = Op::Get;
        }
        if node.near == Row::Before {
            node.near = Row::Absent;
        }
    }
}
