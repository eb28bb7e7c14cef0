//! Links: a connection, with the incarnation it was found to lead to.

use super::state::{At, Incarnation, Link, Op, State, Value};
use super::{Bound, Check, Made, Place, Protocol};
use crate::explore::{Steps, say};

impl<const N: usize> Protocol<N> {
    /// What the server would say.
    pub(super) fn incarnation_of(&self, s: &State<N>, at: At) -> Incarnation {
        match self.0.made {
            Made::Constant => 0,
            Made::RunId => s.server(at).run_id,
            Made::Replid => s.server(at).replid,
        }
    }

    /// Under which key an incarnation's entries stand.
    pub(super) fn key(&self, incarnation: Incarnation) -> usize {
        match self.0.place {
            Place::Key => usize::from(incarnation),
            Place::Value => 0,
        }
    }

    /// Is this a copy that a node with this incarnation can read?
    pub(super) fn opens(&self, value: Value, present: Incarnation) -> bool {
        match value {
            Value::Copy { incarnation, .. } => self.0.place == Place::Key || incarnation == present,
            _ => false,
        }
    }

    /// A copy as it is sealed.
    pub(super) fn seal(&self, incarnation: Incarnation, new: bool) -> Value {
        Value::Copy {
            incarnation: match self.0.place {
                Place::Key => 0,
                Place::Value => incarnation,
            },
            new,
        }
    }

    /// Would a write on this link be executed?
    pub(super) fn writable(&self, s: &State<N>, link: Link) -> bool {
        let server = s.server(link.at);
        server.up
            && server.master
            && (self.0.check != Check::EachCommand
                || self.incarnation_of(s, link.at) == link.incarnation)
    }

    pub(super) fn set_link(&self, s: &mut State<N>, n: usize, link: Option<Link>) {
        let counts = self.0.bound == Bound::Recheck && s.past.propagated && !s.past.elapsed;
        let node = &mut s.nodes[n];
        if self.0.replay && node.link != link {
            node.unlinked = false;
        }
        node.link = link;
        node.rechecked = link.is_some() && counts;
    }

    /// READONLY, or a check that came with the command: the link is given up.
    pub(super) fn refused(&self, s: &mut State<N>, n: usize) {
        self.set_link(s, n, None);
    }

    /// What was under way on a link that is gone goes to Postgres.
    pub(super) fn cut_off(&self, s: &mut State<N>, n: usize) {
        if matches!(
            s.nodes[n].op,
            Op::Get | Op::Got(_) | Op::Lease | Op::Replace(_)
        ) {
            self.ask(s, n);
        }
    }

    /// Where a new link may lead: to what says that it is a master.
    pub(super) fn masters(&self, s: &State<N>) -> Vec<Link> {
        self.servers()
            .filter(|at| s.server(*at).up && s.server(*at).master)
            .map(|at| Link {
                at,
                incarnation: self.incarnation_of(s, at),
            })
            .collect()
    }

    /// What role and incarnation would be found: `None` where this link is of no use any more.
    pub(super) fn found(&self, s: &State<N>, link: Link) -> Option<Link> {
        s.server(link.at).master.then(|| Link {
            at: link.at,
            incarnation: self.incarnation_of(s, link.at),
        })
    }

    pub(super) fn link_steps(&self, s: &State<N>, n: usize, out: &mut Steps<State<N>>) {
        let a = name(n);
        let Some(link) = s.nodes[n].link else {
            for link in self.masters(s) {
                let mut t = *s;
                self.set_link(&mut t, n, Some(link));
                let label = say("N{n} connects to server {s}: master, reads its incarnation");
                out.go(t, label.n(a).on(link.at.letter()));
            }
            return;
        };
        let found = self.found(s, link);
        let counts = self.0.bound == Bound::Recheck
            && s.past.propagated
            && !s.past.elapsed
            && !s.nodes[n].rechecked;
        if self.0.check == Check::EachSecond
            && s.server(link.at).up
            && (found != Some(link) || counts)
        {
            let mut t = *s;
            self.set_link(&mut t, n, found);
            let label = say("N{n} asks server {s} again for role and incarnation");
            out.go(t, label.n(a).on(link.at.letter()));
        }
        if self.0.faults.link_loss {
            let mut t = *s;
            self.set_link(&mut t, n, None);
            out.go(t, say("N{n} loses its link").n(a)).fault();
        }
    }
}

/// What a node or revoker is called in a trace.
pub(super) fn name(index: usize) -> u8 {
    super::state::number(index + 1)
}
