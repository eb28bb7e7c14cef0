//! A change: fence, COMMIT, UNLINK, result.

use super::promises::{COMMITTED, PROPAGATED};
use super::state::{Link, Row, Stage, State, Value, name};
use super::{Mistake, Near, Protocol};
use crate::explore::Steps;

impl<const N: usize> Protocol<N> {
    pub(super) fn change(&self, s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
        if self.0.direct_sql && r == 0 {
            if s.row == Row::Before {
                let mut t = *s;
                t.row = Row::After;
                t.revokers[r].stage = Stage::Returned;
                out.go(t, "direct SQL changes the row: COMMIT");
            }
            return;
        }
        self.revoker_link(s, r, out);
        match s.revokers[r].stage {
            Stage::Idle if s.row != Row::Absent => self.fence(s, r, out),
            Stage::Fenced if self.makes(Mistake::UnlinkBeforeCommit) => {
                unlink_early(s, r, out);
            }
            Stage::Fenced => self.commit(s, r, out),
            Stage::Committed => self.unlink(s, r, out),
            Stage::Unlinked | Stage::UnlinkLost => commit_last(s, r, out),
            Stage::Idle | Stage::Returned => {}
        }
        if let Some(at) = s.revokers[r].late_fence {
            let mut t = *s;
            t.revokers[r].late_fence = None;
            out.go(t, ("R{n}: its late fence is lost", name(r))).fault();
            if s.server(at).up && s.server(at).master {
                t.server_mut(at).value = Value::Fence;
                out.go(t, ("R{n}: its late fence is executed on {s}", name(r), at.letter()));
            }
        }
    }

    fn fence(&self, s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
        let link = writable_link(s, r);
        let mut t = *s;
        t.revokers[r].stage = Stage::Fenced;
        if let Some(Link { at, .. }) = link {
            let mut fenced = t;
            fenced.server_mut(at).value = Value::Fence;
            out.go(fenced, ("R{n}: a revocation starts, fence on {s}", name(r), at.letter()));
            if self.0.fence_loss {
                let mut late = t;
                late.revokers[r].late_fence = Some(at);
                out.go(late, ("R{n}: a revocation starts, its fence is late", name(r))).fault();
            }
        }
        if self.0.fence_loss || link.is_none() {
            if link.is_none() && s.live(s.revokers[r].link).is_some() {
                t.revokers[r].link = None;
            }
            out.go(t, ("R{n}: a revocation starts, its fence is lost", name(r))).fault();
        }
    }

    fn commit(&self, s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
        let mut t = *s;
        if s.row == Row::After && self.makes(Mistake::NoUnlinkIfRevoked) {
            t.revokers[r].stage = Stage::Returned;
            t.past.propagated = true;
            let label = ("R{n}: the row is revoked already, returns PROPAGATED", name(r));
            out.go(t, label).reaches(PROPAGATED);
            return;
        }
        t.row = Row::After;
        t.revokers[r].stage = Stage::Committed;
        if self.is_own(r) && self.makes(Mistake::DropsOwnNearBeforeUnlink) {
            self.drop_near(&mut t, 0);
        }
        out.go(t, ("R{n}: COMMIT", name(r)));
    }

    fn unlink(&self, s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
        let link = writable_link(s, r);
        if let Some(Link { at, .. }) = link {
            let mut t = *s;
            let is_tombstone = self.makes(Mistake::Tombstone);
            t.server_mut(at).value = if is_tombstone { Value::Fence } else { Value::Nothing };
            let mut lost = t;
            self.finish(&mut t, r, true);
            let (text, reached) = if self.is_one_cache(r) {
                ("R{n}: UNLINK on {s}, returns PROPAGATED", PROPAGATED)
            } else {
                ("R{n}: UNLINK on {s}, other caches exist, returns COMMITTED", COMMITTED)
            };
            out.go(t, (text, name(r), at.letter())).reaches(reached);
            if self.0.unlink_loss {
                self.finish(&mut lost, r, false);
                let label = ("R{n}: UNLINK on {s}, reply lost, COMMITTED", name(r), at.letter());
                out.go(lost, label).reaches(COMMITTED);
            }
        }
        if self.0.unlink_loss || link.is_none() {
            let mut t = *s;
            self.finish(&mut t, r, false);
            out.go(t, ("R{n}: UNLINK lost, returns COMMITTED", name(r))).reaches(COMMITTED);
        }
    }

    /// Returns whether the change is one of the first node's own.
    fn is_own(&self, r: usize) -> bool {
        self.0.own_change && r == 0
    }

    /// Returns whether every registration names the cache of the node that makes the change. A node
    /// with a near cache registers a cache of its own.
    fn is_one_cache(&self, r: usize) -> bool {
        match self.0.near {
            Near::None => true,
            _ if self.makes(Mistake::SharedRegistration) => true,
            Near::Shared => self.is_own(r),
            Near::Each | Near::First => false,
        }
    }

    fn finish(&self, s: &mut State<N>, r: usize, acknowledged: bool) {
        s.revokers[r].stage = Stage::Returned;
        s.revokers[r].link = None;
        if self.is_own(r) {
            for node in &mut s.nodes[self.process(0)] {
                node.own = true;
                node.held |= self.0.holds_own && !self.makes(Mistake::OwnChangeServed);
                node.pending |= !acknowledged;
            }
            let keeps_near = &[Mistake::KeepsOwnNear, Mistake::DropsOwnNearBeforeUnlink];
            self.drop_near_unless(keeps_near, s, 0);
        }
        if acknowledged && self.is_one_cache(r) && !s.past.propagated {
            s.past.propagated = true;
            s.nodes.iter_mut().for_each(|node| node.rechecked = false);
        }
    }
}

/// Returns the revoker's link, if its server executes writes.
fn writable_link<const N: usize>(s: &State<N>, r: usize) -> Option<Link> {
    s.revokers[r].link.filter(|link| s.is_writable(*link))
}

/// Sends UNLINK before the COMMIT, as a mutant.
fn unlink_early<const N: usize>(s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
    let mut t = *s;
    if let Some(link) = writable_link(s, r) {
        t.server_mut(link.at).value = Value::Nothing;
        t.revokers[r].stage = Stage::Unlinked;
        out.go(t, ("R{n}: UNLINK before COMMIT", name(r)));
    } else {
        t.revokers[r].stage = Stage::UnlinkLost;
        out.go(t, ("R{n}: UNLINK lost", name(r))).fault();
    }
}

/// Ends the mutant that sends UNLINK before the COMMIT.
fn commit_last<const N: usize>(s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
    let unlinked = s.revokers[r].stage == Stage::Unlinked;
    let mut t = *s;
    t.row = Row::After;
    t.revokers[r].stage = Stage::Returned;
    t.past.propagated |= unlinked;
    let reached = if unlinked { PROPAGATED } else { COMMITTED };
    out.go(t, ("R{n}: COMMIT, returns", name(r))).reaches(reached);
}
