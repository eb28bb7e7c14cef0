//! Each node counts its own TTL from an entry's `read_at`. Two nodes whose TTLs differ share a Redis that
//! loses the UNLINK; the change was made by the first node, which stated its TTL + lease as the bound.
//! Time in ticks, by Postgres' clock.

use super::{P, Q, SEEN, broken};
use crate::explore::{Model, Steps, say};

/// Nodes with different TTLs.
pub(crate) struct OwnTtl {
    /// The first node's, which made the change, and the other's.
    pub(crate) ttl: [u8; 2],
    pub(crate) lease: u8,
    /// A node counts its own TTL from `read_at` (else: `not_after` alone decides).
    pub(crate) counts_own: bool,
    /// How far a node's idea of Postgres' clock may be behind.
    pub(crate) clock_behind: u8,
}

#[derive(Clone, Copy, Hash, Default)]
struct Entry {
    read_at: u8,
    not_after: u8,
    /// When Redis drops it.
    expires: u8,
}

#[derive(Clone, Copy, Hash, Default)]
pub(crate) struct State {
    now: u8,
    /// By whom it was granted, when, and when the read was.
    lease: Option<(u8, u8, Option<u8>)>,
    copy: Option<Entry>,
    changed: Option<u8>,
}

impl Model for OwnTtl {
    type State = State;

    fn start(&self) -> State {
        State {
            now: 1,
            ..State::default()
        }
    }

    fn steps(&self, s: &State, out: &mut Steps<State>) {
        if s.now < 16 {
            let mut t = *s;
            t.now += 1;
            out.go(t, say("tick {n}").n(t.now));
        }
        if s.changed.is_none() {
            let mut t = *s;
            t.changed = Some(s.now);
            let label = say("N1: COMMIT, UNLINK lost: answers COMMITTED, at {n}");
            out.go(t, label.n(s.now));
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
                out.go(t, say("N{n} has the lease").n(by + 1));
            }
            return;
        };
        let mut t = *s;
        match read {
            None if s.changed.is_none() => {
                t.lease = Some((by, granted, Some(s.now)));
                out.go(t, say("its read says valid, at {n}").n(s.now));
            }
            Some(read) if s.copy.is_none() && s.now < granted + self.lease => {
                let ttl = self.ttl[usize::from(by)];
                t.copy = Some(Entry {
                    read_at: read,
                    not_after: read + ttl,
                    expires: s.now + ttl,
                });
                out.go(t, say("its fill: V, at {n}").n(s.now));
            }
            None | Some(_) => {}
        }
    }

    fn hit(&self, s: &State, out: &mut Steps<State>) {
        let Some(entry) = s.copy.filter(|entry| s.now < entry.expires) else {
            return;
        };
        let stated = s
            .changed
            .map(|at| at + self.ttl[0] + self.lease)
            .is_some_and(|bound| s.now > bound);
        for (node, label) in [
            (0, "N1 hits V: VALID at {n}"),
            (1, "N2 hits V: VALID at {n}"),
        ] {
            for behind in 0..=self.clock_behind.min(s.now) {
                let now = s.now - behind;
                let over = now >= entry.not_after
                    || self.counts_own && now.saturating_sub(entry.read_at) >= self.ttl[node];
                if !over {
                    out.go(*s, say(label).n(s.now))
                        .breaks(broken(P, stated && node == 0) | broken(Q, stated))
                        .reaches(SEEN);
                }
            }
        }
    }
}
