//! Each node counts its own TTL from an entry's `read_at`. Two nodes with different TTLs share a
//! Redis that loses the UNLINK. The first node makes the change, and states its TTL + lease as the
//! bound. Time passes in ticks, by Postgres' clock. Nodes may have near caches.

use super::{P, Q, SEEN, SEEN_TOO, broken};
use crate::explore::{Model, Steps};
use crate::run::{Names, Run};

/// Nodes with different TTLs.
struct OwnTtl {
    ttl: [u8; 2],
    lease: u8,
    /// A node counts its own TTL from `read_at`. Otherwise `not_after` alone decides.
    counts_own: bool,
    /// By how much a node's view of Postgres' clock may be behind.
    clock_behind: u8,
    near: Option<Near>,
}

/// The time from which a near cache counts the TTL.
#[derive(Clone, Copy, PartialEq)]
enum Near {
    Read,
    Insertion,
}

#[derive(Clone, Copy, Hash, Default)]
struct Entry {
    read_at: u8,
    not_after: u8,
    /// When Redis drops it.
    expires: u8,
}

#[derive(Clone, Copy, Hash, Default)]
struct State {
    now: u8,
    /// The node that holds it, when it was granted, and when the read began.
    lease: Option<(u8, u8, Option<u8>)>,
    entry: Option<Entry>,
    /// The near caches.
    near: [Option<Entry>; 2],
    changed: Option<u8>,
}

pub(super) fn runs() -> Vec<Run> {
    const NAMES: (Names, Names) = (
        &[(P, "at_most on the node that stated it"), (Q, "at_most on every node")],
        &[(SEEN, "a hit"), (SEEN_TOO, "a near hit")],
    );
    let run = |name, about, ttl, counts_own, clock_behind| {
        Run::new(name, about, NAMES, OwnTtl { ttl, lease: 1, counts_own, clock_behind, near: None })
    };
    let near = |name, about, near| {
        let near = Some(near);
        let model = OwnTtl { ttl: [2, 5], lease: 1, counts_own: true, clock_behind: 1, near };
        Run::new(name, about, NAMES, model)
    };
    vec![
        run("O1", "a longer TTL on another node", [2, 5], true, 0).holds(P).breaks(Q).reaches(SEEN),
        run("O1b", "no longer TTL on another node", [5, 2], true, 0).holds(P | Q).reaches(SEEN),
        run("O2", "the TTL of the node that filled decides", [2, 5], false, 0).breaks(P),
        run("O3", "a node's view of the clock is behind by the lease", [2, 5], true, 1)
            .holds(P)
            .reaches(SEEN),
        run("O4", "it is behind by more: counted from the reply", [2, 5], true, 3).breaks(P),
        near("O5", "as O3, with near caches", Near::Read).holds(P).reaches(SEEN | SEEN_TOO),
        near("O6", "a near cache counts the TTL from the insertion", Near::Insertion).breaks(P),
    ]
}

impl Model for OwnTtl {
    type State = State;

    fn start(&self) -> State {
        State { now: 1, ..State::default() }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        if s.now < 16 {
            let mut t = *s;
            t.now += 1;
            out.go(t, ("tick {n}", t.now));
        }
        if s.changed.is_none() {
            let mut t = *s;
            t.changed = Some(s.now);
            out.go(t, ("N1: COMMIT, UNLINK lost: COMMITTED at {n}", s.now));
        }
        self.fill(s, out);
        self.hit(s, out);
    }
}

impl OwnTtl {
    fn fill(&self, s: &State, out: &mut Steps<State>) {
        let Some((by, granted, read)) = s.lease else {
            for by in 0..2 {
                let mut t = *s;
                t.lease = Some((by, s.now, None));
                out.go(t, ("N{n} has the lease", by + 1));
            }
            return;
        };
        let mut t = *s;
        let Some(read) = read else {
            if s.changed.is_none() {
                t.lease = Some((by, granted, Some(s.now)));
                out.go(t, ("its read returns valid at {n}", s.now));
            }
            return;
        };
        let node = usize::from(by);
        let ttl = self.ttl[node];
        let entry = Entry { read_at: read, not_after: read + ttl, expires: s.now + ttl };
        if s.entry.is_none() && s.now < granted + self.lease {
            t.entry = Some(entry);
            out.go(t, ("its fill at {n}", s.now));
        }
        if self.near.is_some() {
            let t = self.with_near(*s, node, entry);
            out.go(t, ("its insertion into the near cache at {n}", s.now));
        }
    }

    /// Serves the entry of Redis, or a near entry.
    fn hit(&self, s: &State, out: &mut Steps<State>) {
        const HITS: [&str; 2] = ["N1: a hit, VALID at {n}", "N2: a hit, VALID at {n}"];
        const NEAR_HITS: [&str; 2] =
            ["N1: a near hit, VALID at {n}", "N2: a near hit, VALID at {n}"];
        for node in 0..2 {
            if let Some(entry) = s.entry.filter(|entry| s.now < entry.expires) {
                let t = self.with_near(*s, node, entry);
                self.serve(s, node, entry, (t, HITS[node], SEEN), out);
            }
            if let Some(entry) = s.near[node] {
                self.serve(s, node, entry, (*s, NEAR_HITS[node], SEEN_TOO), out);
            }
        }
    }

    /// Inserts an entry into the node's near cache.
    fn with_near(&self, mut s: State, node: usize, entry: Entry) -> State {
        s.near[node] = self.near.map(|from| Entry {
            read_at: if from == Near::Read { entry.read_at } else { s.now },
            ..entry
        });
        s
    }

    fn serve(
        &self,
        s: &State,
        node: usize,
        entry: Entry,
        (t, label, seen): (State, &'static str, u32),
        out: &mut Steps<State>,
    ) {
        let stated =
            s.changed.map(|at| at + self.ttl[0] + self.lease).is_some_and(|bound| s.now > bound);
        for behind in 0..=self.clock_behind.min(s.now) {
            let now = s.now - behind;
            let over = now >= entry.not_after
                || self.counts_own && now.saturating_sub(entry.read_at) >= self.ttl[node];
            if !over {
                out.go(t, (label, s.now))
                    .breaks(broken(P, stated && node == 0) | broken(Q, stated))
                    .reaches(seen);
            }
        }
    }
}
