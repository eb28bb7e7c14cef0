//! The core of the protocol: one token, two or three validating nodes with one link each, one or
//! two revokers, one or two Redis servers, Postgres, and the faults.
//!
//! [`config`] has the rules that a run may drop, and the faults that it allows. The modules follow
//! a validation and a change: `links`, `lookup`, `read`, `fill`, `change`, `pending`, `journal`.
//! `redis` has what happens to the servers, and `promises` what is checked.

mod change;
mod config;
mod fill;
mod journal;
mod links;
mod lookup;
mod near;
mod pending;
mod promises;
mod read;
mod redis;
mod state;

pub(crate) use self::config::*;
pub(crate) use self::promises::*;
use self::state::{At, Budget, Known, Link, Node, Past, Revoker, Row, Server, Stage, State};
use crate::explore::{Model, Steps};

/// The model of one configuration, with `N` validating nodes.
pub(crate) struct Protocol<const N: usize>(pub(crate) Config);

impl<const N: usize> Model for Protocol<N> {
    type State = State<N>;

    fn start(&self) -> State<N> {
        let c = &self.0;
        let created = c.mode != Mode::Create;
        let link = Some(Link::default());
        let mut s = State {
            row: if created { Row::Before } else { Row::Absent },
            past: Past { created, ..Past::default() },
            faulted: false,
            sealed: false,
            rightful: At::A,
            next_run_id: c.servers,
            next_replid: 1,
            left: Budget {
                crash: c.crash,
                promote: c.promote,
                evict: c.evict,
                save: c.save,
                node_restart: c.node_restart,
                backlog: c.backlog,
            },
            nodes: [Node { link, known: Known::Fresh, ..Node::default() }; N],
            fills: [None; N],
            revokers: [Revoker::default(); 2],
            servers: [Server::default(); 2],
        };
        for revoker in &mut s.revokers[..c.revokers] {
            revoker.link = link;
        }
        for at in self.servers() {
            *s.server_mut(at) =
                Server { up: true, master: at == At::A, run_id: at as u8, ..Server::default() };
        }
        s
    }

    fn steps(&self, s: &State<N>, out: &mut Steps<State<N>>) {
        if s.row == Row::Absent {
            let past = Past { created: true, ..s.past };
            out.go(State { row: Row::Before, past, ..*s }, "create: COMMIT, returns Ok");
        }
        for n in 0..N {
            self.node_link(s, n, out);
            self.validate(s, n, out);
            self.fill(s, n, out);
            self.retry_pending(s, n, out);
            self.read_journal(s, n, out);
            self.drop_changed(s, n, out);
        }
        for r in 0..self.0.revokers {
            self.change(s, r, out);
        }
        self.pass_bound(s, out);
        for at in self.servers() {
            self.redis(s, at, out);
        }
        for step in out.all_mut() {
            if self.0.in_step {
                redis::keep_in_step(&mut step.to);
            }
            if self.0.settles {
                self.judge_settled(step);
            }
            // The node that makes the change itself, or alone has a near cache, is not
            // interchangeable.
            if !self.0.own_change && self.0.near != Near::First {
                step.to = step.to.canonical();
            }
        }
    }

    /// From every state before the change, a hit must remain possible.
    fn must_heal(&self, s: &State<N>) -> bool {
        s.row == Row::Before && s.revokers.iter().all(|r| r.stage == Stage::Idle)
    }
}

impl<const N: usize> Protocol<N> {
    fn servers(&self) -> impl Iterator<Item = At> + use<N> {
        [At::A, At::B].into_iter().take(usize::from(self.0.servers))
    }

    /// Returns whether this run drops a rule.
    fn makes(&self, mistake: Mistake) -> bool {
        self.0.mistakes.contains(&mistake)
    }
}
