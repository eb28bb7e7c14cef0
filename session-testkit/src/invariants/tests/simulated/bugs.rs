//! Wrong results, each of which breaks one promise and no other.

use super::{Fate, Kind, MS, Simulation, Step, USERS};
use crate::{
    history::{Nanos, nanos},
    invariants::Invariant,
    subject::Seen,
};

impl Simulation {
    /// Returns the bug's result if it breaks its own promise and no other.
    pub(super) fn wrong(
        &mut self,
        step: Step,
        number: usize,
        token: u32,
        (call, point, ret): (Nanos, Nanos, Nanos),
        right: &Seen,
    ) -> Option<Seen> {
        let parameters = self.history.header.parameters;
        let (d, skew) = (nanos(parameters.d), nanos(parameters.skew));
        let in_touch = !self.cut(step.node, call.saturating_sub(d), call);
        let cut_at_point = self.cut(step.node, point, point);
        let wholly_cut = self.wholly_cut(step.node, call, ret);
        let single = self.plan.single_server;
        let session = &mut self.sessions[number];
        let row = session.rows.last()?;
        let user = USERS[session.user].to_owned();
        let valid = Seen::Valid { user: user.clone(), data: row.data.clone() };
        let denied = session.denied_before(call, if single { 0 } else { d });
        let unexpired = session.expires() >= ret;
        // Rotations are excluded, because they end tokens separately.
        let plain = !session.rotated && *right != valid && !denied && !session.silent;
        let since = |answer: Option<Nanos>, span: Nanos| answer.is_some_and(|t| t + span < call);
        match self.bug? {
            Invariant::R1 if single && plain && unexpired => {
                (since(session.revoked, 0) && session.all_revoked.is_none()).then_some(valid)
            }
            Invariant::R1Delta if !single && plain && unexpired => {
                (in_touch && since(session.revoked, d) && session.all_revoked.is_none())
                    .then_some(valid)
            }
            Invariant::R13 if plain && unexpired => {
                let bound = if single { 0 } else { d };
                (in_touch && since(session.all_revoked, bound) && session.revoked.is_none())
                    .then_some(valid)
            }
            Invariant::R2 => {
                let unanswered = row.ended
                    && session.revoked.is_none()
                    && session.all_revoked.is_none()
                    && !session.rotated
                    && unexpired;
                (unanswered && in_touch && session.denied_before(call, d)).then_some(valid)
            }
            Invariant::R3 => {
                let alive = session.alive(row, token, ret, 0) && session.idle.is_none();
                // The session must be far from its expiry and from every operation in flight.
                let sure = alive
                    && session.expires() > ret + skew
                    && !session.rotated
                    && !session.rows.is_empty()
                    && !self.ending(number, ret);
                let session = &mut self.sessions[number];
                if !sure || wholly_cut || step.fate == Fate::Dropped {
                    return None;
                }
                session.silent = true;
                Some(Seen::Invalid)
            }
            Invariant::R5 => {
                let Seen::Valid { data, .. } = right else {
                    return None;
                };
                Some(if step.luck.is_multiple_of(2) {
                    Seen::Valid { user, data: "never written".to_owned() }
                } else {
                    Seen::Valid { user: "mallory".to_owned(), data: data.clone() }
                })
            }
            Invariant::R6 => {
                let alone = session.rows.iter().all(|row| !row.ended) && !session.rotated;
                // The login returned at most 250 ms after its row was written.
                let over = session.expires().saturating_add(skew + 250 * MS);
                (alone && !denied && session.idle.is_none() && call > over).then_some(valid)
            }
            Invariant::R7 => {
                let gone = row.ended && !session.alive(row, token, call, 0);
                (gone && wholly_cut && cut_at_point && *right == Seen::Unavailable)
                    .then_some(Seen::Invalid)
            }
            _ => None,
        }
    }

    /// Returns whether anything that ends the session was called by then.
    fn ending(&self, number: usize, ret: Nanos) -> bool {
        let times = self.times();
        let user = self.sessions[number].user;
        self.plan.steps.iter().enumerate().any(|(at, step)| {
            let ends = match step.kind {
                Kind::Revoke | Kind::Rotate => {
                    self.about[at].is_none_or(|(about, _)| about == number)
                }
                Kind::RevokeAll => step.pick % USERS.len() == user,
                _ => false,
            };
            ends && times[at].0 <= ret
        })
    }
}
