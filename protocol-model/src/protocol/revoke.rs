//! A change: fence, COMMIT, UNLINK, answer.

use super::link::name;
use super::promises::{COMMITTED, PROPAGATED};
use super::state::{Link, Row, Stage, State, Value};
use super::{Check, Fill, Hold, Pending, Proof, Protocol};
use crate::explore::{Steps, say};

impl<const N: usize> Protocol<N> {
    pub(super) fn revoke(&self, s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
        if self.0.faults.plain_sql && r == 0 {
            if s.row == Row::Before {
                let mut t = *s;
                t.row = Row::After;
                t.revokers[r].stage = Stage::Answered;
                out.go(t, say("plain SQL changes the row: COMMIT"));
            }
            return;
        }
        self.revokers_link(s, r, out);
        match s.revokers[r].stage {
            Stage::Idle if s.row != Row::Absent => self.fence(s, r, out),
            Stage::Fenced => self.commit(s, r, out),
            Stage::Committed => self.unlink(s, r, out),
            Stage::Unlinked | Stage::UnlinkLost => commit_last(s, r, out),
            Stage::Idle | Stage::Answered => {}
        }
        late_fence(s, r, out);
    }

    fn revokers_link(&self, s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
        let revoker = s.revokers[r];
        if revoker.stage == Stage::Answered {
            return;
        }
        let a = name(r);
        let Some(link) = revoker.link else {
            for link in self.masters(s) {
                let mut t = *s;
                t.revokers[r].link = Some(link);
                let label = say("R{n} connects to server {s}");
                out.go(t, label.n(a).on(link.at.letter()));
            }
            return;
        };
        let found = self.found(s, link);
        if self.0.check == Check::EachSecond && s.server(link.at).up && found != Some(link) {
            let mut t = *s;
            t.revokers[r].link = found;
            let label = say("R{n} asks server {s} again for role and incarnation");
            out.go(t, label.n(a).on(link.at.letter()));
        }
        if self.0.faults.link_loss {
            let mut t = *s;
            t.revokers[r].link = None;
            out.go(t, say("R{n} loses its link").n(a)).fault();
        }
    }

    /// The revoker's link, if a write on it would be executed.
    fn writes_on(&self, s: &State<N>, r: usize) -> Option<Link> {
        s.revokers[r].link.filter(|link| self.writable(s, *link))
    }

    fn fence(&self, s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
        let a = name(r);
        let link = self.writes_on(s, r);
        if let Some(link) = link {
            let key = self.key(link.incarnation);
            let mut t = *s;
            t.revokers[r].stage = Stage::Fenced;
            t.server_mut(link.at).keys[key] = Value::Fence;
            let label = say("R{n}: revoke starts; fence T on server {s}");
            out.go(t, label.n(a).on(link.at.letter()));
            if self.0.faults.fence_loss {
                let mut t = *s;
                t.revokers[r].stage = Stage::Fenced;
                t.revokers[r].late_fence = Some((link.at, super::state::number(key)));
                let label = say("R{n}: revoke starts; fence delayed in the network");
                out.go(t, label.n(a)).fault();
            }
        }
        if self.0.faults.fence_loss || link.is_none() {
            let mut t = *s;
            t.revokers[r].stage = Stage::Fenced;
            if link.is_none() && s.live(s.revokers[r].link).is_some() {
                t.revokers[r].link = None;
            }
            out.go(t, say("R{n}: revoke starts; fence lost").n(a))
                .fault();
        }
    }

    fn commit(&self, s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
        let a = name(r);
        let mut t = *s;
        if self.0.mistakes.unlink_before_only {
            if let Some(link) = self.writes_on(s, r) {
                t.server_mut(link.at).keys[self.key(link.incarnation)] = Value::Nothing;
                t.revokers[r].stage = Stage::Unlinked;
                out.go(t, say("R{n}: UNLINK, before COMMIT").n(a));
            } else {
                t.revokers[r].stage = Stage::UnlinkLost;
                out.go(t, say("R{n}: UNLINK lost").n(a)).fault();
            }
        } else if s.row == Row::After && self.0.mistakes.no_unlink_if_already {
            t.revokers[r].stage = Stage::Answered;
            t.past.propagated = true;
            let label = say("R{n}: row is revoked already; answers PROPAGATED without UNLINK");
            out.go(t, label.n(a)).reaches(PROPAGATED);
        } else {
            t.row = Row::After;
            t.revokers[r].stage = Stage::Committed;
            let label = say(if s.row == Row::After {
                "R{n}: COMMIT (row was changed already)"
            } else {
                "R{n}: COMMIT (row and journal)"
            });
            out.go(t, label.n(a));
        }
    }

    fn unlink(&self, s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
        let a = name(r);
        let link = self.writes_on(s, r);
        if let Some(link) = link {
            let mut t = *s;
            t.server_mut(link.at).keys[self.key(link.incarnation)] = match self.0.fill {
                Fill::Tombstone => Value::Fence,
                _ => Value::Nothing,
            };
            let mut lost = t;
            let verified =
                self.0.proof == Proof::Reply || self.incarnation_of(s, link.at) == link.incarnation;
            self.answered(&mut t, r, verified, true);
            let label = say(if verified {
                "R{n}: UNLINK on server {s}, reply arrives: answers PROPAGATED"
            } else {
                "R{n}: UNLINK on server {s}, but another incarnation: answers COMMITTED"
            });
            out.go(t, label.n(a).on(link.at.letter()))
                .reaches(if verified { PROPAGATED } else { COMMITTED });
            if self.0.faults.unlink_loss {
                self.answered(&mut lost, r, false, false);
                let label = say("R{n}: UNLINK executed, reply lost: answers COMMITTED");
                out.go(lost, label.n(a)).reaches(COMMITTED);
            }
        }
        if self.0.faults.unlink_loss || link.is_none() {
            let mut t = *s;
            self.answered(&mut t, r, false, false);
            let label = say("R{n}: UNLINK lost: answers COMMITTED");
            out.go(t, label.n(a)).reaches(COMMITTED);
        }
    }

    fn answered(&self, s: &mut State<N>, r: usize, propagated: bool, acknowledged: bool) {
        s.revokers[r].stage = Stage::Answered;
        s.revokers[r].link = None;
        if self.0.own_change && r == 0 {
            s.nodes[0].own = true;
            s.nodes[0].held |= self.0.hold != Hold::No;
            s.nodes[0].pending |= !acknowledged && self.0.pending != Pending::Off;
        }
        if propagated && !s.past.propagated {
            s.past.propagated = true;
            for node in &mut s.nodes {
                node.rechecked = false;
            }
        }
    }
}

/// The mutant that unlinks before.
fn commit_last<const N: usize>(s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
    let unlinked = s.revokers[r].stage == Stage::Unlinked;
    let mut t = *s;
    t.row = Row::After;
    t.revokers[r].stage = Stage::Answered;
    t.past.propagated |= unlinked;
    out.go(t, say("R{n}: COMMIT; answers").n(name(r)))
        .reaches(if unlinked { PROPAGATED } else { COMMITTED });
}

fn late_fence<const N: usize>(s: &State<N>, r: usize, out: &mut Steps<State<N>>) {
    let Some((at, key)) = s.revokers[r].late_fence else {
        return;
    };
    let a = name(r);
    let mut t = *s;
    t.revokers[r].late_fence = None;
    out.go(t, say("R{n}'s fence is lost after all").n(a))
        .fault();
    if s.server(at).up && s.server(at).master {
        t.server_mut(at).keys[usize::from(key)] = Value::Fence;
        let label = say("R{n}'s late fence is executed on server {s}");
        out.go(t, label.n(a).on(at.letter()));
    }
}
