//! UNLINKs of this node's that Redis has not acknowledged: tried again, until they are or until every old
//! copy has died of age.

use super::link::name;
use super::promises::{FORGOTTEN, RETRIED};
use super::state::{Row, State, Value};
use super::{Forget, Protocol};
use crate::explore::{Steps, say};

impl<const N: usize> Protocol<N> {
    pub(super) fn retry_pending(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        if !s.nodes[n].pending {
            return;
        }
        let a = name(n);
        if let Some(link) = s.live(s.nodes[n].link) {
            let mut t = *s;
            if self.writable(s, link) {
                t.server_mut(link.at).keys[self.key(link.incarnation)] = Value::Nothing;
                if self.0.faults.unlink_loss {
                    let label = say("N{n} unlinks again on server {s}, the reply is lost");
                    out.go(t, label.n(a).on(link.at.letter())).fault();
                }
                t.nodes[n].pending = false;
                let label = say("N{n} unlinks again on server {s}: acknowledged");
                out.go(t, label.n(a).on(link.at.letter())).reaches(RETRIED);
            } else {
                self.refused(&mut t, n);
                let label = say("N{n} unlinks again: refused (READONLY)");
                out.go(t, label.n(a));
            }
        }
        let mut t = *s;
        t.nodes[n].pending = false;
        match self.0.forget {
            Forget::Never => return,
            Forget::OfAge if has_old_reads(s) => return,
            Forget::OfAge => age(&mut t),
            Forget::Early => {}
        }
        let label = say("N{n}: TTL and lease have passed; what was pending is forgotten");
        out.go(t, label.n(a)).reaches(FORGOTTEN);
    }
}

/// No read that saw the old row goes on for as long as TTL and lease.
fn has_old_reads<const N: usize>(s: &State<N>) -> bool {
    let old = |fill: &Option<super::state::Filling>| fill.is_some_and(|f| f.of == Row::Before);
    s.nodes.iter().any(|node| node.read == Row::Before) || s.fills.iter().any(old)
}

/// Copies of the old row have died, wherever they are.
fn age<const N: usize>(s: &mut State<N>) {
    for server in &mut s.servers {
        for value in server.keys.iter_mut().chain(server.dump.iter_mut()) {
            if matches!(value, Value::Copy { new: false, .. }) {
                *value = Value::Nothing;
            }
        }
    }
    for node in &mut s.nodes {
        if let super::state::Op::Got(Value::Copy { new: false, .. }) = node.op {
            node.op = super::state::Op::Get;
        }
    }
}
