//! A session of the simulation: the commits and the results.

use super::{MS, TOUCH_MS};
use crate::history::Nanos;

/// The committed state of a session from one time on.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) since: Nanos,
    pub(super) data: String,
    pub(super) ended: bool,
    pub(super) current: u32,
    pub(super) previous: Option<(u32, Nanos)>,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) user: usize,
    pub(super) began: Nanos,
    pub(super) lifetime: Option<Nanos>,
    pub(super) idle: Option<Nanos>,
    /// Oldest first. Empty until the login is committed.
    pub(super) rows: Vec<Row>,
    pub(super) known_from: Option<Nanos>,
    /// Each token with the time of the result that contained it.
    pub(super) tokens: Vec<(u32, Nanos)>,
    pub(super) last_seen: Nanos,
    /// The last `Propagated`. Later operations must not see an older state.
    pub(super) barrier: Nanos,
    /// The call and result times of the Invalids.
    pub(super) invalids: Vec<(Nanos, Nanos)>,
    /// The result time of a revoke that ended it.
    pub(super) revoked: Option<Nanos>,
    /// The result time of a revoke-all that ended it.
    pub(super) all_revoked: Option<Nanos>,
    pub(super) rotated: bool,
    /// Whether a bug returned a wrong Invalid. Later validations return Unavailable.
    pub(super) silent: bool,
}

impl Session {
    pub(super) fn row(&self, at: Nanos) -> Option<&Row> {
        let after = self.rows.partition_point(|row| row.since <= at);
        self.rows.get(after.checked_sub(1)?)
    }

    pub(super) fn expires(&self) -> Nanos {
        let born = self.rows.first().map_or(0, |row| row.since);
        let absolute = self.lifetime.map(|lifetime| born + lifetime);
        let idle = self.idle.map(|idle| self.last_seen + idle);
        absolute.into_iter().chain(idle).min().unwrap_or(Nanos::MAX)
    }

    pub(super) fn resolves(row: &Row, token: u32, now: Nanos) -> bool {
        row.current == token
            || row.previous.is_some_and(|(old, until)| old == token && now <= until)
    }

    pub(super) fn alive(&self, row: &Row, token: u32, now: Nanos, slack: Nanos) -> bool {
        let now = now.saturating_sub(slack);
        !row.ended && Self::resolves(row, token, now) && now <= self.expires()
    }

    pub(super) fn denied_before(&self, call: Nanos, span: Nanos) -> bool {
        self.invalids.iter().any(|(_, ret)| ret + span < call)
    }
}

pub(super) fn touch(session: &mut Session, point: Nanos) {
    if point.saturating_sub(session.last_seen) > TOUCH_MS * MS {
        session.last_seen = point;
    }
}

pub(super) fn number_of(number: usize) -> u32 {
    u32::try_from(number).unwrap()
}
