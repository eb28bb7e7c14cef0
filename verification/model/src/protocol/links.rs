//! Links: connections, with the incarnation that was read over them.

use super::state::{At, Link, Op, Stage, State, Value, name};
use super::{Bound, Mistake, Protocol};
use crate::explore::Steps;

impl<const N: usize> Protocol<N> {
    /// Returns what the server reports as its incarnation.
    pub(super) fn incarnation_of(&self, s: &State<N>, at: At) -> u8 {
        if self.makes(Mistake::NoIncarnation) {
            0
        } else if self.makes(Mistake::RunIdAlone) {
            s.server(at).run_id
        } else {
            // It stands for both IDs: a master that restarts draws a new one.
            s.server(at).replid
        }
    }

    /// Returns whether the node has yet to check its link again within the bound.
    fn must_recheck(&self, s: &State<N>) -> bool {
        self.0.bound == Bound::Recheck && s.past.propagated && !s.past.elapsed
    }

    pub(super) fn set_link(&self, s: &mut State<N>, n: usize, link: Option<Link>) {
        s.nodes[n].rechecked = link.is_some() && self.must_recheck(s);
        s.nodes[n].link = link;
    }

    /// Sends a look-up on a lost link to Postgres.
    pub(super) fn cut_off(&self, s: &mut State<N>, n: usize) {
        if matches!(s.nodes[n].op, Op::Get | Op::Got(_) | Op::Lease | Op::Replace(_)) {
            self.ask(s, n);
        }
    }

    pub(super) fn node_link(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let must_recheck = self.must_recheck(s) && !s.nodes[n].rechecked;
        self.link_steps(s, s.nodes[n].link, must_recheck, |link, text, at| {
            let mut t = *s;
            self.set_link(&mut t, n, link);
            out.go(t, (text, name(n), at.letter())).fault = link.is_none();
        });
    }

    pub(super) fn revoker_link(&self, s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
        if s.revokers[r].stage != Stage::Returned {
            self.link_steps(s, s.revokers[r].link, false, |link, text, at| {
                let mut t = *s;
                t.revokers[r].link = link;
                out.go(t, (text, name(r), at.letter())).fault = link.is_none();
            });
        }
    }

    /// Connects to a master, checks role and incarnation again, or loses the link.
    fn link_steps(
        &self,
        s: &State<N>,
        link: Option<Link>,
        must_recheck: bool,
        mut set: impl FnMut(Option<Link>, &'static str, At),
    ) {
        let find = |at| Link { at, incarnation: self.incarnation_of(s, at) };
        let Some(link) = link else {
            for link in self.servers().map(find).filter(|link| s.is_writable(*link)) {
                set(Some(link), "client {n} connects to server {s}, a master", link.at);
            }
            return;
        };
        let server = s.server(link.at);
        let found = server.master.then(|| find(link.at));
        let is_due = found != Some(link) || must_recheck;
        if server.up && is_due && !self.makes(Mistake::CheckAtConnectOnly) {
            set(found, "client {n} checks role and incarnation of server {s}", link.at);
        }
        if self.0.link_loss {
            set(None, "client {n} loses its link to server {s}", link.at);
        }
    }

    /// Removes all links to a server.
    pub(super) fn cut_links(&self, t: &mut State<N>, at: At) {
        for n in 0..N {
            if t.nodes[n].link.is_some_and(|link| link.at == at) {
                self.set_link(t, n, None);
                self.cut_off(t, n);
            }
        }
        for revoker in &mut t.revokers {
            revoker.link = revoker.link.filter(|link| link.at != at);
        }
    }
}

/// Returns whether a value is an entry of this incarnation.
pub(super) fn opens(value: Value, present: u8) -> bool {
    matches!(value, Value::Entry { incarnation, .. } if incarnation == present)
}
