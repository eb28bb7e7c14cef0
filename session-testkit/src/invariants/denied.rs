//! R3: a session in force is never denied.

use std::collections::HashMap;

use super::{
    findings::Findings,
    index::{Changing, Index, Kind, Session, proof},
    words::Named,
};
use crate::history::{Change, Creation, Nanos, Operation, nanos};

const MS: Nanos = 1_000_000;

/// R3. *No false deny: between create's Ok and (revoke's start or expiry): Valid or Unavailable, never
/// Invalid.*
///
/// Broken by an Invalid that was answered before anything that may have ended the token began: a revoke, a
/// revoke-all of its user, a rotation (for the old token: its grace later), its expiry (less the skew, and
/// for an idle timeout less the lateness of a touch). What was answered `Refused` or `Nothing` ended
/// nothing. A revoke answered `Nothing` says as much as Invalid, and counts as one.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("answers about sessions in force");
    for session in &index.sessions {
        // Without that answer nobody can have its token.
        if session.answer != Some(&Creation::Created) {
            continue;
        }
        let tokens = Tokens::of(index, session);
        let mut last_valid = LastValid::new(session, &tokens);
        let answers = session.validations.iter().map(|each| {
            (
                each.op,
                each.token,
                each.says_something(),
                each.is_invalid(),
            )
        });
        let nothings = session.changes.iter().filter_map(|each| {
            let (Kind::Revoke, Some(Change::Nothing)) = (each.kind, each.answer) else {
                return None;
            };
            Some((each.op, token_of(each.op), true, true))
        });
        let mut all: Vec<_> = answers.chain(nothings).collect();
        all.sort_by_key(|(op, ..)| op.call);
        for (op, token, says_something, denies) in all {
            let in_force = op.end() < tokens.end(token)
                && !maybe_idle_out(index, session, last_valid.before(op.call), op);
            if !says_something || !in_force {
                continue;
            }
            findings.examined += 1;
            if denies {
                findings.broken(|| {
                    let name = Named(session.number, token);
                    (
                        format!("{name} was denied while it was in force"),
                        proof([session.create, op]),
                    )
                });
            }
        }
    }
    findings
}

/// From when on each token of a session may have ended.
struct Tokens {
    session: Nanos,
    /// By rotation, for every token that was given out.
    rotated: HashMap<u32, Nanos>,
}

impl Tokens {
    fn of(index: &Index<'_>, session: &Session<'_>) -> Self {
        let revokes = session
            .changes
            .iter()
            .filter(|each| matches!(each.kind, Kind::Revoke));
        let ends = revokes
            .chain(index.revoke_alls(session))
            .filter(|each| each.may_have_effect())
            .map(|each| each.op.call);
        let expiry = session.lifetime_ms.map(|lifetime| {
            let end = session
                .create
                .call
                .saturating_add(lifetime.saturating_mul(MS));
            end.saturating_sub(nanos(index.parameters().skew))
        });
        let end = ends.chain(expiry).min().unwrap_or(Nanos::MAX);
        let rotations: Vec<_> = session
            .changes
            .iter()
            .filter(|each| matches!(each.kind, Kind::Rotate { .. }) && each.may_have_effect())
            .collect();
        Self {
            session: end,
            rotated: ends_by_rotation(session, &rotations),
        }
    }

    fn end(&self, token: u32) -> Nanos {
        // Of one that nobody gave out nothing is promised.
        self.session
            .min(self.rotated.get(&token).copied().unwrap_or(0))
    }
}

/// A token may have ended by any rotation that was not over when the token's own began: at once, or its
/// grace later if it was presented there.
///
/// `rotations` are in the order of their calls. For a token given out by rotation i, those not over
/// are the later ones, and earlier ones that had no answer by then.
fn ends_by_rotation(session: &Session<'_>, rotations: &[&Changing<'_>]) -> HashMap<u32, Nanos> {
    let mut ends = HashMap::new();
    // Earlier ones: the latest end up to each position, to see whether any was still open.
    let mut open_until = 0;
    let mut give_out = |token: u32, issued: &Operation, rest: &[&Changing<'_>], open: bool| {
        let mut end = if open { issued.call } else { Nanos::MAX };
        // The first one that presents another token ends it at once, so no more than the first few
        // are looked at: rotations of one session are a chain.
        for each in rest {
            let Kind::Rotate {
                token: old,
                grace_ms,
                ..
            } = each.kind
            else {
                continue;
            };
            if each.op.call >= end {
                break;
            }
            let grace = if old == token {
                grace_ms.saturating_mul(MS)
            } else {
                0
            };
            end = end.min(each.op.call.saturating_add(grace));
        }
        ends.insert(token, end);
    };
    give_out(0, session.create, rotations, false);
    for (at, each) in rotations.iter().enumerate() {
        if let Kind::Rotate { new: Some(new), .. } = each.kind {
            let open = open_until >= each.op.call;
            give_out(
                new,
                each.op,
                rotations.get(at + 1..).unwrap_or_default(),
                open,
            );
        }
        open_until = open_until.max(each.op.end());
    }
    ends
}

/// May the idle timeout have run out by the operation's answer? The last use's touch may be late, and
/// fails while Postgres can't be reached or changed.
fn maybe_idle_out(
    index: &Index<'_>,
    session: &Session<'_>,
    last_use: Nanos,
    operation: &Operation,
) -> bool {
    let Some(idle) = session.idle_ms else {
        return false;
    };
    let parameters = index.parameters();
    let early = nanos(parameters.touch.saturating_add(parameters.skew));
    let end = last_use
        .saturating_add(idle.saturating_mul(MS))
        .saturating_sub(early);
    operation.end() >= end || index.maybe_untouched(last_use, operation.end())
}

/// The call of the last use that was over by some time; asked in the order of time.
///
/// A Valid is a use, for with little life left the touch comes before the answer. But one for a token
/// that may have been rotated away came from an old copy perhaps, and no such token is touched.
struct LastValid {
    /// (answer, call) of each Valid, by answer.
    valids: std::iter::Peekable<std::vec::IntoIter<(Nanos, Nanos)>>,
    last: Nanos,
}

impl LastValid {
    fn new(session: &Session<'_>, tokens: &Tokens) -> Self {
        let valids = session
            .validations
            .iter()
            .filter(|each| each.is_valid() && each.op.end() < tokens.end(each.token));
        let mut valids: Vec<_> = valids.map(|each| (each.op.end(), each.op.call)).collect();
        valids.sort_unstable();
        Self {
            valids: valids.into_iter().peekable(),
            last: session.create.call,
        }
    }

    fn before(&mut self, time: Nanos) -> Nanos {
        while let Some((_, call)) = self.valids.next_if(|(ret, _)| *ret < time) {
            self.last = self.last.max(call);
        }
        self.last
    }
}

fn token_of(operation: &Operation) -> u32 {
    match operation.op {
        crate::history::Op::Revoke { token, .. } => token,
        _ => 0,
    }
}
