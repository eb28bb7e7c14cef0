//! The criteria by which sessions are chosen, and the search for those that match.

use std::{fmt, time::Duration};

use session_layer::error::StoreError;
use session_layer::store::{Network, PostgresStore, SearchPage, SessionFilter, SessionStore as _};
use session_layer::{ListCursor, SessionId, Timestamp};
use session_tools::progress::Bar;

use super::sessions;

/// The criteria.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Criteria {
    /// The sessions of this user.
    #[arg(long, value_name = "USER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    user: Option<String>,

    /// The session with this id.
    #[arg(long, value_name = "UUID")]
    id: Option<SessionId>,

    /// The sessions created longer ago than this, such as 12h, 30d or 2w.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,

    /// The sessions created since then.
    #[arg(long, value_name = "AGE", value_parser = age)]
    newer_than: Option<Duration>,

    /// The sessions that were last used longer ago than this. It is known to about a minute.
    #[arg(long, value_name = "AGE", value_parser = age)]
    idle_for: Option<Duration>,

    /// The sessions of logins from this address or network, such as 10.1.2.3 or 10.1.0.0/16.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Network>,

    /// The sessions with this label.
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,

    /// The sessions of this kind: those that outlive the browser ("remember me"), or those whose
    /// cookie ends with it.
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
}

/// The kind of a session, which its login chose.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Persistent,
    Browser,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Persistent => "persistent (the cookie outlives the browser)",
            Self::Browser => "browser (the cookie ends with the browser)",
        })
    }
}

/// The longest age: beyond the longest lifetime of a session.
const LONGEST_AGE: Duration = Duration::from_secs(100 * 365 * 86_400);

fn age(text: &str) -> Result<Duration, &'static str> {
    const WRONG: &str = "an age is a whole number with its unit, such as 90s, 15m, 12h, 30d or 2w";
    let at = text.find(|it: char| !it.is_ascii_digit()).ok_or(WRONG)?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(WRONG),
    };
    let number: u64 = number.parse().map_err(|_| WRONG)?;
    let age = number.checked_mul(seconds).map(Duration::from_secs);
    age.filter(|age| *age <= LONGEST_AGE).ok_or("an age is at most 100 years")
}

impl Criteria {
    /// Returns whether no criterion is set.
    pub(super) fn is_empty(&self) -> bool {
        let Self { user, id, older_than, newer_than, idle_for, address, label, kind } = self;
        let ages = [older_than, newer_than, idle_for];
        user.is_none()
            && id.is_none()
            && ages.iter().all(|age| age.is_none())
            && address.is_none()
            && label.is_none()
            && kind.is_none()
    }

    /// Returns the user, if it is the only criterion.
    pub(super) fn only_user(&self) -> Option<&str> {
        let others = Self { user: None, ..self.clone() };
        self.user.as_deref().filter(|_| others.is_empty())
    }

    /// Returns what was found, for a reader: the number, and the kind if it is a criterion.
    pub(super) fn found(&self, number: u64) -> String {
        match self.kind {
            Some(kind) => format!("{} of kind {kind}", sessions(number)),
            None => sessions(number),
        }
    }

    /// Returns the filter as of `now`. No session that is created later matches.
    pub(super) fn filter(&self, now: Timestamp, with_ended: bool) -> SessionFilter {
        let ago = |age: Option<Duration>| age.map(|age| before(now, age));
        SessionFilter {
            user_id: self.user.clone(),
            id: self.id,
            created_before: Some(ago(self.older_than).unwrap_or(now)),
            created_since: ago(self.newer_than),
            seen_before: ago(self.idle_for),
            network: self.address,
            label: self.label.clone(),
            persistent: self.kind.map(|kind| kind == Kind::Persistent),
            with_ended,
        }
    }
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.as_micros().saturating_sub(micros))
}

/// Returns Postgres' clock, which decides about every age. A microsecond is added, so that sessions
/// of this very moment match.
pub(super) async fn now(store: &PostgresStore) -> Result<Timestamp, StoreError> {
    let read = store.load(&[]).await?;
    Ok(read.now.after(Duration::from_micros(1)))
}

/// A search, page by page.
pub(super) struct Search<'a> {
    store: &'a PostgresStore,
    filter: &'a SessionFilter,
    after: Option<ListCursor>,
    ended: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(store: &'a PostgresStore, filter: &'a SessionFilter) -> Self {
        Self { store, filter, after: None, ended: false }
    }

    /// Returns the next page, or `None` after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<SearchPage>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let page = self.store.search(self.filter, self.after).await?;
        self.after = page.next;
        self.ended = page.next.is_none();
        Ok(Some(page))
    }
}

/// Counts the sessions that match.
pub(super) async fn count(
    store: &PostgresStore,
    filter: &SessionFilter,
    bar: &Bar,
) -> Result<u64, StoreError> {
    let everywhere = filter.id.is_none() && filter.user_id.is_none();
    let rows = if everywhere { store.estimated_rows().await? } else { 0 };
    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
    let (mut examined, mut matching) = (0_u32, 0);
    let mut search = Search::new(store, filter);
    while let Some(page) = search.next().await? {
        examined = examined.saturating_add(u32::try_from(page.examined).unwrap_or(u32::MAX));
        matching += page.sessions.len() as u64;
        bar.at("rows examined", examined, rows.max(examined));
    }
    Ok(matching)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_a_number_with_its_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("12h", 43_200), ("2w", 1_209_600)] {
            assert_eq!(age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "30", "d", "-1d", "1.5h", "1 d", "1y", "99999999999999999999d", "999999w"]
        {
            assert!(age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn filter_counts_ages_from_now_and_excludes_later_sessions() {
        let none = Criteria {
            user: None,
            id: None,
            older_than: None,
            newer_than: None,
            idle_for: None,
            address: None,
            label: None,
            kind: None,
        };
        assert!(none.is_empty());
        let now = Timestamp::from_micros(10_000_000);
        assert_eq!(none.filter(now, false).created_before, Some(now));
        let old = Criteria { older_than: Some(Duration::from_secs(4)), ..none.clone() };
        let at = |seconds: i64| Some(Timestamp::from_micros(seconds * 1_000_000));
        assert_eq!(old.filter(now, true).created_before, at(6));
        let idle = Criteria { idle_for: Some(Duration::from_secs(1)), ..none.clone() };
        assert_eq!(idle.filter(now, true).seen_before, at(9));
        let alice = Criteria { user: Some("alice".to_owned()), ..none };
        assert_eq!(alice.only_user(), Some("alice"));
        let both = Criteria { label: Some("tv".to_owned()), ..alice };
        assert_eq!(both.only_user(), None);
        for (kind, persistent) in [(Kind::Persistent, true), (Kind::Browser, false)] {
            let of_kind = Criteria { label: None, kind: Some(kind), ..both.clone() };
            assert_eq!(of_kind.only_user(), None, "a user's other kind must not end");
            assert_eq!(of_kind.filter(now, false).persistent, Some(persistent));
            assert!(!Criteria { user: None, ..of_kind }.is_empty());
        }
    }
}
