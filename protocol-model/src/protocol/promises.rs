//! What is judged: the promises (DESIGN's invariants as far as this model can tell), and what a run must
//! reach to mean anything.

use super::state::{Known, Op, Row, Stage, State, Value};
use super::{Mode, Protocol};
use crate::explore::Step;

/// R1: Valid by a validate that started after `Propagated`.
pub(crate) const R1: u32 = 1;
/// R1Δ: Valid by a validate that started after the bound had passed.
pub(crate) const RD: u32 = 2;
/// R2: Valid by a validate that started after another had ended Invalid.
pub(crate) const R2: u32 = 4;
/// R3: Invalid before any revocation started, by a validate that started after create's Ok.
pub(crate) const R3: u32 = 8;
/// R8: all is quiet and healed, and an entry that would be believed says valid.
pub(crate) const R8: u32 = 16;
/// The node that made the change answers Valid to a validate that started after the change was answered.
pub(crate) const OWN: u32 = 32;
/// A lease took the place of something that nobody had found dead.
pub(crate) const TAKEN: u32 = 64;

/// Their names.
pub(crate) const PROMISES: &[(u32, &str)] = &[
    (R1, "R1"),
    (RD, "R1Δ"),
    (R2, "R2"),
    (R3, "R3"),
    (R8, "R8"),
    (OWN, "own change seen"),
    (TAKEN, "only the dead replaced"),
];

/// A hit was served before the change.
pub(crate) const HIT: u32 = 1;
/// The same after a crash or a failover.
pub(crate) const HIT_AFTER: u32 = 2;
/// `Propagated` was answered.
pub(crate) const PROPAGATED: u32 = 4;
/// `Committed` was answered.
pub(crate) const COMMITTED: u32 = 8;
/// Invalid was answered.
pub(crate) const INVALID: u32 = 16;
/// A quiet state was seen.
pub(crate) const QUIET: u32 = 32;
/// A validate started after the bound.
pub(crate) const LATE: u32 = 64;
/// A hit answered the new data.
pub(crate) const NEW_HIT: u32 = 128;
/// A lease took the place of a dead value.
pub(crate) const REPLACED: u32 = 256;
/// A pending change was acknowledged after all.
pub(crate) const RETRIED: u32 = 512;
/// A pending change was forgotten.
pub(crate) const FORGOTTEN: u32 = 1024;

/// What a run must reach, named.
pub(crate) const MARKS: &[(u32, &str)] = &[
    (HIT, "a hit"),
    (HIT_AFTER, "a hit after a fault"),
    (PROPAGATED, "Propagated"),
    (COMMITTED, "Committed"),
    (INVALID, "Invalid"),
    (QUIET, "quiet"),
    (LATE, "a validate after the bound"),
    (NEW_HIT, "a hit on the new data"),
    (REPLACED, "a dead value replaced"),
    (RETRIED, "a pending change acknowledged"),
    (FORGOTTEN, "a pending change forgotten"),
];

impl<const N: usize> Protocol<N> {
    /// The validate ends with Invalid (the new data). What does that break?
    pub(super) fn answer_invalid(&self, s: &mut State<N>, n: usize) -> u32 {
        let since = s.nodes[n].since;
        s.end(n);
        if self.0.monotone && since.created {
            s.past.invalid = true;
        }
        let started = s.row == Row::After || s.revokers.iter().any(|r| r.stage != Stage::Idle);
        if since.created && !started && self.0.mode != Mode::Update {
            R3
        } else {
            0
        }
    }

    /// R8 is judged where all is quiet: is there an entry that would be believed?
    pub(super) fn judge_quiet(&self, step: &mut Step<State<N>>) {
        let s = &step.to;
        if !self.is_quiet(s) {
            return;
        }
        let present = self.incarnation_of(s, s.truth);
        let value = s.server(s.truth).keys[self.key(present)];
        let says_valid =
            matches!(value, Value::Copy { new: false, .. }) && self.opens(value, present);
        step.reaches(QUIET).breaks(if says_valid { R8 } else { 0 });
    }

    /// Changed, healed, and nothing under way.
    fn is_quiet(&self, s: &State<N>) -> bool {
        let truth = s.server(s.truth);
        let present = self.incarnation_of(s, s.truth);
        s.row == Row::After
            && truth.up
            && truth.master
            && (self.0.servers == 1 || !s.server(s.truth.other()).master)
            && s.fills.iter().all(Option::is_none)
            && s.revokers
                .iter()
                .all(|r| r.late_fence.is_none() && matches!(r.stage, Stage::Idle | Stage::Answered))
            && s.nodes.iter().all(|node| {
                node.op == Op::Idle
                    && node
                        .link
                        .is_some_and(|link| link.at == s.truth && link.incarnation == present)
                    && node.known == Known::Changed
                    && node.unlinked
                    && node.reading == super::state::Reading::No
            })
    }
}

/// The validate ends with Valid (the old data). What does that break?
pub(super) fn answer_valid<const N: usize>(s: &mut State<N>, n: usize) -> u32 {
    let node = s.nodes[n];
    s.end(n);
    let broken = |promise, bad| if bad { promise } else { 0 };
    broken(R1, node.since.propagated)
        | broken(RD, node.since.elapsed)
        | broken(R2, node.since.invalid)
        | broken(OWN, node.since_own)
}
