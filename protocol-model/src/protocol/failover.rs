//! A master and its replica: replication, promotion, demotion.

use super::Protocol;
use super::state::{At, State};
use crate::explore::{Steps, say};

impl<const N: usize> Protocol<N> {
    pub(super) fn replication(&self, s: &State<N>, at: At, out: &mut Steps<State<N>>) {
        let (server, other) = (*s.server(at), *s.server(at.other()));
        if server.master {
            if s.truth != at && other.up && other.master {
                let mut t = *s;
                self.demote(&mut t, at);
                let label = say("server {s} is demoted and resynced from the new master");
                out.go(t, label.on(at.letter()));
            }
            return;
        }
        let behind = server.keys != other.keys || server.replid != other.replid;
        if other.up && other.master && behind {
            let mut t = *s;
            let replica = t.server_mut(at);
            (replica.keys, replica.replid) = (other.keys, other.replid);
            let label = say("server {s} catches up with its master");
            out.go(t, label.on(at.letter()));
        }
        if s.left.promote > 0 {
            self.promote(s, at, out);
        }
    }

    fn promote(&self, s: &State<N>, at: At, out: &mut Steps<State<N>>) {
        let mut t = *s;
        t.left.promote -= 1;
        t.faulted = true;
        t.truth = at;
        t.server_mut(at).master = true;
        t.server_mut(at).replid = s.next_replid;
        t.next_replid += 1;
        if self.0.faults.cut_on_failover {
            self.cut_links(&mut t, at);
        }
        let text = if !self.0.faults.split && s.server(at.other()).up {
            self.demote(&mut t, at.other());
            "failover: server {s} is promoted, the other demoted and resynced from it"
        } else {
            "failover: server {s} is promoted, the other one doesn't notice"
        };
        out.go(t, say(text).on(at.letter())).fault();
    }

    fn demote(&self, t: &mut State<N>, at: At) {
        let truth = *t.server(t.truth);
        let server = t.server_mut(at);
        server.master = false;
        (server.keys, server.replid) = (truth.keys, truth.replid);
        if self.0.faults.cut_on_failover {
            self.cut_links(t, at);
        }
    }

    fn cut_links(&self, t: &mut State<N>, at: At) {
        for n in 0..N {
            if t.nodes[n].link.is_some_and(|link| link.at == at) {
                self.set_link(t, n, None);
                self.cut_off(t, n);
            }
        }
        for revoker in &mut t.revokers {
            if revoker.link.is_some_and(|link| link.at == at) {
                revoker.link = None;
            }
        }
    }
}

/// Where no replica lags: it has at once what its master has.
pub(super) fn keep_in_step<const N: usize>(t: &mut State<N>) {
    let master = *t.server(t.truth);
    let replica = t.server_mut(t.truth.other());
    if replica.up && !replica.master && master.up {
        (replica.keys, replica.replid) = (master.keys, master.replid);
    }
}
