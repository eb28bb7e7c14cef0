//! A user's sessions as a list: pages of summaries, and cursors to the next page.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use super::{Session, SessionId};
use crate::model::clock::Timestamp;

/// The maximum number of sessions in a page of [`Sessions::list`](crate::Sessions::list).
pub const LIST_PAGE: usize = 100;

/// A page of a user's active sessions, newest first.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SessionPage {
    /// The sessions of this page.
    pub sessions: Vec<SessionSummary>,
    /// The beginning of the next page, for [`Sessions::list_page`](crate::Sessions::list_page).
    /// `None` on the last page.
    pub next: Option<ListCursor>,
}

impl SessionPage {
    /// Returns a page of the first `limit` of `sessions`, with a cursor if there are more. Stores
    /// read one session more than the page holds.
    #[must_use]
    pub fn of(sessions: Vec<SessionSummary>, limit: usize) -> Self {
        Self::of_rows(sessions.into_iter().map(Some).collect(), limit)
    }

    /// Returns a page as [`of`](Self::of) does. A `None` is an unreadable row, and counts too.
    pub(crate) fn of_rows(rows: Vec<Option<SessionSummary>>, limit: usize) -> Self {
        let more = rows.len() > limit;
        let sessions: Vec<_> = rows.into_iter().take(limit).flatten().collect();
        let next = sessions.last().filter(|_| more).map(ListCursor::after);
        Self { sessions, next }
    }
}

/// A session in a user's list ("where am I logged in?"). It lacks the [data](Session::data), which
/// the list does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionSummary {
    /// The public name.
    pub id: SessionId,
    /// The time of creation.
    pub created_at: Timestamp,
    /// The time of the user's last authentication.
    pub authenticated_at: Timestamp,
    /// The time of the last use, with the granularity of a touch.
    pub last_seen_at: Timestamp,
    /// The absolute timeout.
    pub expires_at: Timestamp,
    /// The idle timeout, if there is one.
    pub idle_timeout: Option<Duration>,
    /// Whether the cookie outlives the browser ("remember me").
    pub persistent: bool,
    /// The name that its login set.
    pub label: Option<String>,
    /// The address of the login.
    pub ip: Option<IpAddr>,
    /// The client of the login.
    pub user_agent: Option<String>,
}

impl From<&Session> for SessionSummary {
    /// Leaves `label`, `ip` and `user_agent` empty, which a [`Session`] lacks.
    fn from(session: &Session) -> Self {
        Self {
            id: session.id(),
            created_at: session.created_at(),
            authenticated_at: session.authenticated_at(),
            last_seen_at: session.last_seen_at(),
            expires_at: session.expires_at(),
            idle_timeout: session.idle_timeout(),
            persistent: session.is_persistent(),
            label: None,
            ip: None,
            user_agent: None,
        }
    }
}

/// The place in a user's list after which a page begins. Sessions that are created or end meanwhile
/// do not move it.
///
/// It prints and parses as a text that may be part of a URL. It is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListCursor {
    created_at: Timestamp,
    id: SessionId,
}

impl ListCursor {
    /// Returns the place after this session.
    #[must_use]
    pub fn after(listed: &SessionSummary) -> Self {
        Self::new(listed.created_at, listed.id)
    }

    /// Returns the place after the session that was created then and has this id.
    #[must_use]
    pub fn new(created_at: Timestamp, id: SessionId) -> Self {
        Self { created_at, id }
    }

    /// Returns when the session before this place was created.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Returns the id of the session before this place. Of sessions created at the same moment, the
    /// one with the greater id comes first.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }
}

impl fmt::Display for ListCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.created_at.as_micros(), self.id)
    }
}

/// An error for a text that is no [`ListCursor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a place in a list of sessions: pass the text of a `ListCursor` as it was printed")]
#[non_exhaustive]
pub struct ParseListCursorError;

impl FromStr for ListCursor {
    type Err = ParseListCursorError;

    fn from_str(text: &str) -> Result<Self, ParseListCursorError> {
        let (micros, id) = text.split_once('.').ok_or(ParseListCursorError)?;
        let micros = micros.parse().map_err(|_| ParseListCursorError)?;
        let id = id.parse().map_err(|_| ParseListCursorError)?;
        Ok(Self::new(Timestamp::from_micros(micros), id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(n: u8) -> SessionSummary {
        let at = Timestamp::from_micros(i64::from(n));
        SessionSummary {
            id: SessionId::from_bytes([n; 16]),
            created_at: at,
            authenticated_at: at,
            last_seen_at: at,
            expires_at: at,
            idle_timeout: None,
            persistent: false,
            label: None,
            ip: None,
            user_agent: None,
        }
    }

    #[test]
    fn page_has_a_cursor_only_if_more_sessions_follow() {
        let all = vec![listed(3), listed(2), listed(1)];
        let page = SessionPage::of(all.clone(), 2);
        assert_eq!(page.sessions, all[..2]);
        assert_eq!(page.next, Some(ListCursor::after(&all[1])));
        for limit in [3, 4] {
            let page = SessionPage::of(all.clone(), limit);
            assert_eq!((page.sessions.len(), page.next), (3, None));
        }
    }

    #[test]
    fn printed_cursor_parses_and_other_text_does_not() {
        let cursor = ListCursor::after(&listed(7));
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for text in ["", ".", "7", "7.", "7.x", "x.07070707-0707-0707-0707-070707070707"] {
            assert_eq!(text.parse::<ListCursor>(), Err(ParseListCursorError), "{text}");
        }
    }
}
