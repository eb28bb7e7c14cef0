//! What happens to one Redis server: values go, it saves, crashes, restarts.

use super::state::{At, INCARNATIONS, State, Value};
use super::{FillLink, Protocol};
use crate::explore::{Steps, say};

impl<const N: usize> Protocol<N> {
    pub(super) fn redis(&self, s: &State<N>, at: At, out: &mut Steps<State<N>>) {
        if !s.server(at).up {
            self.restart(s, at, out);
            return;
        }
        lose_values(s, at, out);
        save(s, at, out);
        self.crash(s, at, out);
        free_backlog(s, at, out);
        if self.0.servers == 2 {
            self.replication(s, at, out);
        }
    }

    fn restart(&self, s: &State<N>, at: At, out: &mut Steps<State<N>>) {
        let server = *s.server(at);
        let rules = s.truth == at;
        if rules || self.0.faults.split {
            let mut boot = |keys, text| {
                let mut t = *s;
                let booted = t.server_mut(at);
                (booted.up, booted.master, booted.keys) = (true, true, keys);
                (booted.run_id, booted.replid) = (s.next_run_id, s.next_replid);
                t.next_run_id += 1;
                t.next_replid += 1;
                out.go(t, say(text).on(at.letter()));
            };
            boot(
                [Value::Nothing; INCARNATIONS],
                "server {s} restarts empty, as master",
            );
            if server.saved {
                boot(
                    server.dump,
                    "server {s} restarts from its old dump, as master",
                );
            }
        }
        if !rules && s.server(at.other()).up {
            let mut t = *s;
            let master = *s.server(at.other());
            let booted = t.server_mut(at);
            (booted.up, booted.master, booted.run_id) = (true, false, s.next_run_id);
            (booted.keys, booted.replid) = (master.keys, master.replid);
            t.next_run_id += 1;
            let label = say("server {s} restarts as a replica, resynced");
            out.go(t, label.on(at.letter()));
        }
    }

    fn crash(&self, s: &State<N>, at: At, out: &mut Steps<State<N>>) {
        if s.left.crash == 0 {
            return;
        }
        let mut t = *s;
        t.left.crash -= 1;
        t.faulted = true;
        if !self.0.mistakes.silent_reconnect {
            self.links_die(&mut t, at);
        }
        for n in 0..N {
            if t.fills[n].is_some_and(|fill| fill.at == at) {
                t.drop_fill(n);
            }
        }
        for revoker in &mut t.revokers {
            if revoker.late_fence.is_some_and(|(server, _)| server == at) {
                revoker.late_fence = None;
            }
        }
        let server = t.server_mut(at);
        (server.up, server.master) = (false, false);
        (server.run_id, server.replid) = (0, 0);
        server.keys = [Value::Nothing; INCARNATIONS];
        out.go(t, say("server {s} crashes").on(at.letter())).fault();
    }

    fn links_die(&self, t: &mut State<N>, at: At) {
        for n in 0..N {
            if t.nodes[n].link.is_some_and(|link| link.at == at) {
                self.set_link(t, n, None);
            }
            if self.0.fill_link == FillLink::Same
                && t.nodes[n].lease.is_some_and(|granted| granted.at == at)
            {
                t.drop_lease(n);
            }
            if t.nodes[n].link.is_none() {
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

fn lose_values<const N: usize>(s: &State<N>, at: At, out: &mut Steps<State<N>>) {
    if !s.server(at).master || s.left.evict == 0 {
        return;
    }
    for (key, value) in s.server(at).keys.iter().enumerate() {
        let text = match value {
            Value::Nothing => continue,
            Value::Fence => "T is gone from server {s} (expiry, eviction, FLUSHALL)",
            Value::Orphan | Value::Lease(_) | Value::FillLease(_) => {
                "a lease is gone from server {s} (expiry, eviction, FLUSHALL)"
            }
            Value::NoSession | Value::Copy { .. } => {
                "V is gone from server {s} (expiry, eviction, FLUSHALL)"
            }
        };
        let mut t = *s;
        t.server_mut(at).keys[key] = Value::Nothing;
        if s.left.evict != u8::MAX {
            t.left.evict -= 1;
        }
        let step = out.go(t, say(text).on(at.letter()));
        // That fences and leases expire is time passing, not a fault.
        if matches!(value, Value::Copy { .. }) {
            step.fault();
        }
    }
}

fn save<const N: usize>(s: &State<N>, at: At, out: &mut Steps<State<N>>) {
    let server = s.server(at);
    if s.left.save > 0 && server.keys != server.dump {
        let mut t = *s;
        t.left.save -= 1;
        t.server_mut(at).saved = true;
        t.server_mut(at).dump = server.keys;
        out.go(t, say("server {s} saves its dump").on(at.letter()));
    }
}

fn free_backlog<const N: usize>(s: &State<N>, at: At, out: &mut Steps<State<N>>) {
    if s.left.rekey == 0 || !s.server(at).master {
        return;
    }
    let mut t = *s;
    t.left.rekey -= 1;
    t.server_mut(at).replid = s.next_replid;
    t.next_replid += 1;
    let label = say("server {s} frees its backlog: new replid, same run_id, links stay");
    out.go(t, label.on(at.letter()));
}
