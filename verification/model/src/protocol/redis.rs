//! What happens to the Redis servers: loss of values, dumps, crashes, failovers.

use super::state::{At, Server, State, Value};
use super::{ANY, Mistake, Protocol};
use crate::explore::Steps;

impl<const N: usize> Protocol<N> {
    pub(super) fn redis(&self, s: &State<N>, at: At, out: &mut Steps<State<N>>) {
        if !s.server(at).up {
            self.restart(s, at, out);
            return;
        }
        lose_value(s, at, out);
        let server = *s.server(at);
        if s.left.save > 0 && server.dump.unwrap_or_default() != server.value {
            let mut t = *s;
            t.left.save -= 1;
            t.server_mut(at).dump = Some(server.value);
            out.go(t, ("server {s} saves its dump", at.letter()));
        }
        self.crash(s, at, out);
        if s.left.backlog > 0 && server.master {
            let mut t = *s;
            t.left.backlog -= 1;
            t.server_mut(at).replid = s.next_replid;
            t.next_replid += 1;
            out.go(t, ("server {s} frees its backlog: a new replid", at.letter()));
        }
        if self.0.servers == 2 {
            self.replication(s, at, out);
        }
    }

    fn restart(&self, s: &State<N>, at: At, out: &mut Steps<State<N>>) {
        let server = *s.server(at);
        let is_rightful = s.rightful == at;
        let mut t = *s;
        t.next_run_id += 1;
        let booted = Server { up: true, run_id: s.next_run_id, ..server };
        if is_rightful || self.0.split {
            let mut t = t;
            t.next_replid += 1;
            let master = Server { master: true, replid: s.next_replid, ..booted };
            *t.server_mut(at) = master;
            out.go(t, ("server {s} restarts empty, as master", at.letter()));
            if let Some(value) = server.dump {
                *t.server_mut(at) = Server { value, ..master };
                out.go(t, ("server {s} restarts from its old dump, as master", at.letter()));
            }
        }
        let master = *s.server(at.other());
        if !is_rightful && master.up {
            let (value, replid) = (master.value, master.replid);
            *t.server_mut(at) = Server { value, replid, ..booted };
            out.go(t, ("server {s} restarts as a replica, resynced", at.letter()));
        }
    }

    fn crash(&self, s: &State<N>, at: At, out: &mut Steps<State<N>>) {
        if s.left.crash == 0 {
            return;
        }
        let mut t = *s;
        t.left.crash -= 1;
        t.faulted = true;
        if !self.makes(Mistake::SilentReconnect) {
            self.cut_links(&mut t, at);
        }
        for n in 0..N {
            let keeps =
                self.makes(Mistake::SilentReconnect) || self.makes(Mistake::FillOnPresentLink);
            if t.nodes[n].lease.is_some_and(|granted| granted.at == at) && !keeps {
                t.drop_lease(n);
            }
            if t.fills[n].is_some_and(|fill| fill.to.at == at) {
                t.drop_fill(n);
            }
        }
        for revoker in &mut t.revokers {
            revoker.late_fence = revoker.late_fence.filter(|server| *server != at);
        }
        let dump = t.server(at).dump;
        *t.server_mut(at) = Server { dump, ..Server::default() };
        out.go(t, ("server {s} crashes", at.letter())).fault();
    }

    fn replication(&self, s: &State<N>, at: At, out: &mut Steps<State<N>>) {
        let (server, other) = (*s.server(at), *s.server(at.other()));
        let mut t = *s;
        if server.master {
            if s.rightful != at && other.up && other.master {
                self.demote(&mut t, at);
                out.go(t, ("server {s} is demoted and resynced", at.letter()));
            }
            return;
        }
        let is_behind = server.value != other.value || server.replid != other.replid;
        if other.up && other.master && is_behind {
            follow(t.server_mut(at), &other);
            out.go(t, ("server {s} catches up with its master", at.letter()));
        }
        let is_too_late = self.0.early_failovers && s.past.propagated;
        if s.left.promote > 0 && !is_too_late {
            self.promote(s, at, out);
        }
    }

    fn promote(&self, s: &State<N>, at: At, out: &mut Steps<State<N>>) {
        let mut t = *s;
        t.left.promote -= 1;
        t.faulted = true;
        t.rightful = at;
        t.server_mut(at).master = true;
        t.server_mut(at).replid = s.next_replid;
        t.next_replid += 1;
        if self.0.cuts_links {
            self.cut_links(&mut t, at);
        }
        let text = if !self.0.split && s.server(at.other()).up {
            self.demote(&mut t, at.other());
            "failover: server {s} is promoted, the other demoted and resynced"
        } else {
            "failover: server {s} is promoted, the other does not notice"
        };
        out.go(t, (text, at.letter())).fault();
    }

    fn demote(&self, t: &mut State<N>, at: At) {
        let master = *t.server(t.rightful);
        t.server_mut(at).master = false;
        follow(t.server_mut(at), &master);
        if self.0.cuts_links {
            self.cut_links(t, at);
        }
    }
}

/// Lets the server lose its value.
fn lose_value<const N: usize>(s: &State<N>, at: At, out: &mut Steps<State<N>>) {
    let value = s.server(at).value;
    if !s.server(at).master || s.left.evict == 0 || value == Value::Nothing {
        return;
    }
    let mut t = *s;
    t.server_mut(at).value = Value::Nothing;
    if s.left.evict != ANY {
        t.left.evict -= 1;
    }
    // Fences and leases expire without a fault.
    out.go(t, ("server {s} loses the value (expiry, eviction, FLUSHALL)", at.letter())).fault =
        matches!(value, Value::Entry { .. });
}

fn follow(replica: &mut Server, master: &Server) {
    (replica.value, replica.replid) = (master.value, master.replid);
}

/// Copies the master's value to a replica that never lags.
pub(super) fn keep_in_step<const N: usize>(t: &mut State<N>) {
    let master = *t.server(t.rightful);
    let replica = t.server_mut(t.rightful.other());
    if replica.up && !replica.master && master.up {
        follow(replica, &master);
    }
}
