//! The promises of `docs/protocol.md` as far as this model can check them, and the marks that a run
//! must reach.

use super::links::opens;
use super::state::{Known, Op, Reading, Row, Stage, State, Value};
use super::{Mode, Near, Protocol};
use crate::explore::Step;
use crate::run::Names;

pub(crate) const R1: u32 = 1;
pub(crate) const RD: u32 = 2;
pub(crate) const R2: u32 = 4;
pub(crate) const R3: u32 = 8;
pub(crate) const R8: u32 = 16;
pub(crate) const OWN: u32 = 32;
pub(crate) const TAKEN: u32 = 64;
pub(crate) const HERE: u32 = 128;

/// README.md states what breaks each.
pub(crate) const PROMISES: Names = &[
    (R1, "R1"),
    (RD, "R1Δ"),
    (R2, "R2"),
    (R3, "R3"),
    (R8, "R8"),
    (OWN, "own change seen"),
    (TAKEN, "only rejected values replaced"),
    (HERE, "R2 on one node"),
];

pub(crate) const HIT: u32 = 1;
pub(crate) const HIT_AFTER: u32 = 2;
pub(crate) const PROPAGATED: u32 = 4;
pub(crate) const COMMITTED: u32 = 8;
pub(crate) const INVALID: u32 = 16;
pub(crate) const SETTLED: u32 = 32;
pub(crate) const LATE: u32 = 64;
pub(crate) const NEW_HIT: u32 = 128;
pub(crate) const REPLACED: u32 = 256;
pub(crate) const RETRIED: u32 = 512;
pub(crate) const FORGOTTEN: u32 = 1024;
pub(crate) const NEAR: u32 = 2048;
pub(crate) const NEAR_ALONE: u32 = 4096;
pub(crate) const NEAR_LATE: u32 = 8192;
pub(crate) const WOKEN: u32 = 16384;

pub(crate) const MARKS: Names = &[
    (HIT, "a hit before the change"),
    (HIT_AFTER, "such a hit after a crash or a failover"),
    (PROPAGATED, "Propagated"),
    (COMMITTED, "Committed"),
    (INVALID, "Invalid"),
    (SETTLED, "a state in which all faults have healed"),
    (LATE, "a validation after the bound"),
    (NEW_HIT, "a hit on the new data"),
    (REPLACED, "a rejected value replaced by a lease"),
    (RETRIED, "a pending invalidation acknowledged"),
    (FORGOTTEN, "a pending invalidation dropped"),
    (NEAR, "a near hit"),
    (NEAR_ALONE, "a near hit while Redis is down"),
    (NEAR_LATE, "a near hit on the old row after the COMMIT"),
    (WOKEN, "a validation that wakes its node"),
];

impl<const N: usize> Protocol<N> {
    /// Ends a validation with Invalid (the new data). Returns what that breaks.
    pub(super) fn return_invalid(&self, s: &mut State<N>, n: usize) -> u32 {
        let since = s.nodes[n].since;
        s.end(n);
        s.past.invalid |= self.0.monotone && since.created;
        if self.0.monotone && self.0.near != Near::None {
            for node in &mut s.nodes[self.process(n)] {
                node.invalid |= since.created;
            }
        }
        let started = s.row == Row::After || s.revokers.iter().any(|r| r.stage != Stage::Idle);
        if since.created && !started && self.0.mode != Mode::Update { R3 } else { 0 }
    }

    /// Judges R8 if the step leads to a state in which all faults have healed.
    pub(super) fn judge_settled(&self, step: &mut Step<State<N>>) {
        let s = &step.to;
        if self.is_settled(s) {
            let value = s.server(s.rightful).value;
            let is_old = matches!(value, Value::Entry { new: false, .. });
            let is_valid = is_old && opens(value, self.incarnation_of(s, s.rightful));
            step.reaches(SETTLED).breaks(if is_valid { R8 } else { 0 });
        }
    }

    fn is_settled(&self, s: &State<N>) -> bool {
        let master = s.server(s.rightful);
        let present = self.incarnation_of(s, s.rightful);
        let is_done = |stage| matches!(stage, Stage::Idle | Stage::Returned);
        s.row == Row::After
            && master.up
            && master.master
            && (self.0.servers == 1 || !s.server(s.rightful.other()).master)
            && s.fills.iter().all(Option::is_none)
            && s.revokers.iter().all(|r| r.late_fence.is_none() && is_done(r.stage))
            && s.nodes.iter().all(|node| {
                let leads_here = node.link.map(|link| (link.at, link.incarnation));
                node.op == Op::Idle
                    && leads_here == Some((s.rightful, present))
                    && node.known == Known::Changed
                    && node.unlinked
                    && node.reading == Reading::No
            })
    }
}

/// Ends a validation with Valid (the old data). Returns what that breaks.
pub(super) fn return_valid<const N: usize>(s: &mut State<N>, n: usize) -> u32 {
    let node = s.nodes[n];
    s.end(n);
    let broken = |promise, is_broken| if is_broken { promise } else { 0 };
    broken(R1, node.since.propagated)
        | broken(RD, node.since.elapsed)
        | broken(R2, node.since.invalid)
        | broken(OWN, node.since_own)
        | broken(HERE, node.since_invalid)
}
