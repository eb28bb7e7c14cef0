//! The protocol: one token, two validating nodes (one link each), one or two revokers, one or two Redis
//! servers, Postgres, and the faults. Time is not counted: `bound.rs` says how the passing of a bound is
//! abstracted.
//!
//! The order of the modules is that of the protocol: `link`, `validate` (with `cached`, `asked`), `fill`,
//! `revoke`, `pending`, `journal`; then what the world does: `bound`, `redis`, `failover`. What is judged
//! is in `promises`.

mod asked;
mod bound;
mod cached;
mod choices;
mod config;
mod failover;
mod fill;
mod journal;
mod link;
mod pending;
mod promises;
mod redis;
mod revoke;
mod state;
mod validate;

pub(crate) use self::choices::*;
pub(crate) use self::config::*;
pub(crate) use self::promises::*;
use self::state::{At, Budget, Known, Link, Node, Past, Revoker, Row, Server, Stage, State};
use crate::explore::{Model, Steps};

/// The model of one configuration, with this many validating nodes.
pub(crate) struct Protocol<const N: usize>(pub(crate) Config);

impl<const N: usize> Model for Protocol<N> {
    type State = State<N>;

    fn start(&self) -> State<N> {
        let c = &self.0;
        let created = c.mode != Mode::Create;
        let here = Some(Link::default());
        let node = Node {
            link: here,
            known: Known::Fresh,
            ..Node::default()
        };
        let revoker = |number: usize| Revoker {
            link: here.filter(|_| number < c.revokers),
            ..Revoker::default()
        };
        let server = |at: At| match at {
            At::B if c.servers == 1 => Server::default(),
            _ => Server {
                up: true,
                master: at == At::A,
                run_id: state::number(at.index()),
                ..Server::default()
            },
        };
        State {
            row: if created { Row::Before } else { Row::Absent },
            past: Past {
                created,
                ..Past::default()
            },
            faulted: false,
            sealed: false,
            truth: At::A,
            next_run_id: c.servers,
            next_replid: 1,
            left: Budget {
                crash: c.faults.crash,
                promote: c.faults.promote,
                evict: c.faults.evict,
                save: c.faults.save,
                node_restart: c.faults.node_restart,
                rekey: c.faults.rekey,
            },
            nodes: [node; N],
            fills: [None; N],
            revokers: [revoker(0), revoker(1)],
            servers: [server(At::A), server(At::B)],
        }
    }

    fn steps(&self, s: &State<N>, out: &mut Steps<State<N>>) {
        validate::create(s, out);
        for n in 0..N {
            self.link_steps(s, n, out);
            self.validate(s, n, out);
            self.fill(s, n, out);
            self.retry_pending(s, n, out);
            self.read_journal(s, n, out);
        }
        for r in 0..self.0.revokers {
            self.revoke(s, r, out);
        }
        self.pass_bound(s, out);
        for at in self.servers() {
            self.redis(s, at, out);
        }
        for step in out.all_mut() {
            if !self.0.faults.lag {
                failover::keep_in_step(&mut step.to);
            }
            if self.0.quiet {
                self.judge_quiet(step);
            }
            if self.0.symmetry {
                step.to = step.to.canonical();
            }
        }
    }

    /// From every state before the change a hit must be possible again.
    fn must_heal(&self, s: &State<N>) -> bool {
        s.row == Row::Before && s.revokers.iter().all(|r| r.stage == Stage::Idle)
    }
}

impl<const N: usize> Protocol<N> {
    fn servers(&self) -> impl Iterator<Item = At> + use<N> {
        [At::A, At::B].into_iter().take(usize::from(self.0.servers))
    }
}
