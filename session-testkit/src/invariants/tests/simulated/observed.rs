//! The knowledge from results, and the observations beside the operations.

use super::{MS, Simulation, USERS, session::Session};
use crate::{
    history::{Creation, Entry, InFlight, Nanos, Op, Place, Resource, Sample, Scan, Search, nanos},
    invariants::Invariant,
    subject::Seen,
};

impl Simulation {
    pub(super) fn learn(&mut self, at: usize, op: &Op, call: Nanos, ret: Nanos) {
        let step = self.plan.steps[at];
        if let (Op::RevokeAll { answer: Some(answer), .. }, user) = (op, step.pick % USERS.len()) {
            if answer.reach().is_some() {
                let theirs = |each: &&mut Session| each.user == user && each.began < call;
                for session in self.sessions.iter_mut().filter(theirs) {
                    session.barrier = session.barrier.max(ret);
                    session.all_revoked.get_or_insert(ret);
                }
            }
            return;
        }
        let Some((number, _)) = self.about[at] else {
            return;
        };
        let session = &mut self.sessions[number];
        match op {
            Op::Create { answer: Some(Creation::Created), .. } => {
                session.known_from = Some(ret);
                session.tokens.push((0, ret));
            }
            Op::Validate { answer: Some(Seen::Invalid), .. } => session.invalids.push((call, ret)),
            Op::Rotate { answer: Some(answer), new_token, .. } => {
                session.tokens.extend(new_token.map(|token| (token, ret)));
                if answer.reach().is_some() {
                    session.barrier = session.barrier.max(ret);
                }
            }
            Op::Update { answer: Some(answer), .. } | Op::Revoke { answer: Some(answer), .. }
                if answer.reach().is_some() =>
            {
                session.barrier = session.barrier.max(ret);
                if matches!(op, Op::Revoke { .. }) {
                    session.revoked.get_or_insert(ret);
                }
            }
            _ => {}
        }
    }

    pub(super) fn observe(&mut self, last: Nanos) {
        let bug = self.bug;
        let is = |invariant| bug == Some(invariant);
        self.shown |= [Invariant::R8, Invariant::R10, Invariant::R12].map(is).contains(&true);
        self.shown |= is(Invariant::R11) && !self.history.faults.is_empty();
        let sample = |at, value| Sample { at, node: 0, of: Resource::Tasks, value };
        self.history.samples.push(sample(1, 12));
        let mut idle_since = last;
        for fault in &self.history.faults {
            let healed = fault.longest().1;
            idle_since = idle_since.max(healed);
            let value = if is(Invariant::R11) { 13 } else { 12 };
            self.history.samples.push(sample(fault.at + MS, 90));
            self.history.samples.push(sample(healed + MS, value));
        }
        let reads = if is(Invariant::R10) { 17 } else { 16 };
        self.history.in_flight.push(InFlight { at: 2, node: 1, reads });
        let parameters = &self.history.header.parameters;
        let scanned = idle_since + nanos(parameters.ttl + parameters.lease);
        let stale = if is(Invariant::R8) { vec![0] } else { Vec::new() };
        self.history.push(Entry::Scan(Scan { at: scanned, entries: 9, stale }));
        for place in Place::ALL {
            let found = if is(Invariant::R12) { vec![0] } else { Vec::new() };
            self.history.searches.push(Search { at: scanned, place, bytes: 1, found });
        }
    }
}
