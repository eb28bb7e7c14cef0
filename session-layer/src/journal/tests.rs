use super::*;
use crate::clock::Timestamp;
use crate::session::{SessionParts, data_to_json};
use crate::store::{JournalPosition, JournalRow};

pub(super) const D: Duration = Duration::from_secs(2);

pub(super) fn timing(policy: Policy) -> Timing {
    Timing {
        interval: D / INTERVALS,
        policy,
    }
}

fn id(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

pub(super) fn copy(n: u8, version: i64, xmin: u64) -> Entry {
    let at = Timestamp::from_micros(0);
    Entry {
        session: SessionParts {
            id: id(n),
            user_id: "alice".to_owned(),
            version,
            created_at: at,
            authenticated_at: at,
            last_seen_at: at,
            expires_at: at.after(Duration::from_secs(3600)),
            idle_timeout: None,
            persistent: false,
            data: data_to_json(()).unwrap(),
        }
        .into(),
        store_id: [0; 16],
        xmin,
        read_at: at,
        not_after: at.after(Duration::from_secs(300)),
    }
}

pub(super) fn row(n: u8, xid: u64, least_version: Option<i64>) -> JournalRow {
    JournalRow {
        xid,
        // Before every copy: it is the transaction that tells.
        at: Timestamp::from_micros(-1),
        session_id: Some(id(n)),
        digests: vec![TokenDigest::from_bytes([n; 32])],
        least_version,
    }
}

pub(super) fn read(rows: Vec<JournalRow>, floor: u64) -> JournalRead {
    JournalRead {
        rows,
        next: JournalPosition::default(),
        floor,
        now: Timestamp::from_micros(0),
    }
}

/// What a state says, now and under the default policy.
fn says(state: &State, copy: &Entry, now: Instant) -> Word {
    state.says(copy, now, timing(Policy::Available))
}

#[test]
fn nothing_is_believed_before_the_first_read() {
    let state = State::default();
    for policy in [Policy::Available, Policy::FailClosed] {
        let said = state.says(&copy(1, 9, 9), Instant::now(), timing(policy));
        assert_eq!(said, Word::Unread);
    }
}

#[test]
fn a_copy_older_than_a_change_is_contradicted_for_good() {
    let now = Instant::now();
    let mut state = State::default();
    state.learn(now, &read(vec![row(1, 10, Some(3)), row(2, 11, None)], 0));
    assert_eq!(says(&state, &copy(1, 2, 10), now), Word::Contradicted);
    assert_eq!(says(&state, &copy(1, 3, 12), now), Word::Good);
    assert_eq!(says(&state, &copy(2, 9, 10), now), Word::Contradicted);
    assert_eq!(says(&state, &copy(3, 1, 10), now), Word::Good);
    // Rows that come again, or in another order, change nothing.
    state.learn(now, &read(vec![row(1, 9, Some(2)), row(2, 8, Some(1))], 0));
    assert_eq!(says(&state, &copy(1, 2, 10), now), Word::Contradicted);
    assert_eq!(says(&state, &copy(2, 9, 10), now), Word::Contradicted);
}

#[test]
fn a_stale_node_believes_nothing_only_where_the_policy_asks_for_it() {
    let began = Instant::now();
    let mut state = State::default();
    state.learn(began, &read(vec![row(2, 11, None)], 0));
    let good = copy(1, 1, 12);
    for (age, available, closed) in [
        (D, Word::Good, Word::Good),
        (D + Duration::from_nanos(1), Word::Good, Word::Unread),
    ] {
        let now = began + age;
        let of = |policy| state.says(&good, now, timing(policy));
        assert_eq!(
            (of(Policy::Available), of(Policy::FailClosed)),
            (available, closed),
            "{age:?}"
        );
        // What is known to be wrong stays so: a lease may replace it.
        let ended = state.says(&copy(2, 1, 10), now, timing(Policy::FailClosed));
        assert_eq!(ended, Word::Contradicted);
    }
}

#[test]
fn what_was_purged_is_told_by_the_copys_xmin() {
    let now = Instant::now();
    let mut state = State::default();
    state.learn(now, &read(vec![row(1, 10, None), row(2, 20, None)], 15));
    assert_eq!(state.changed.len(), 1, "what is below the floor is dropped");
    assert_eq!(says(&state, &copy(1, 1, 9), now), Word::Contradicted);
    assert_eq!(says(&state, &copy(3, 1, 14), now), Word::Contradicted);
    assert_eq!(says(&state, &copy(3, 1, 15), now), Word::Good);
    // The floor never comes down again.
    state.learn(now, &read(Vec::new(), 0));
    assert_eq!(says(&state, &copy(3, 1, 14), now), Word::Contradicted);
}

#[test]
fn a_truncate_ends_every_copy_that_may_not_have_seen_it() {
    let now = Instant::now();
    let mut state = State::default();
    let truncate = JournalRow {
        session_id: None,
        ..row(1, 10, None)
    };
    state.learn(now, &read(vec![truncate], 0));
    assert_eq!(says(&state, &copy(1, 1, 10), now), Word::Contradicted);
    assert_eq!(says(&state, &copy(1, 1, 11), now), Word::Good);
    // One after a crash, with an id that was used before: it began after the copy was read.
    let again = JournalRow {
        at: Timestamp::from_micros(0),
        session_id: None,
        ..row(1, 9, None)
    };
    state.learn(now, &read(vec![again], 0));
    assert_eq!(says(&state, &copy(1, 1, 11), now), Word::Contradicted);
    state.learn(now, &read(Vec::new(), 11));
    assert_eq!(state.truncated, None);
}

/// A system that was filled from a dump counts its transactions from below, and none of its journal was
/// purged: were the old floor kept, its changes would be dropped from the set.
#[test]
fn another_system_begins_anew() {
    let now = Instant::now();
    let mut state = State::default();
    state.learn(now, &read(vec![row(1, 900, None)], 800));
    assert_eq!(says(&state, &copy(3, 1, 10), now), Word::Contradicted);
    let mut restored = read(vec![row(2, 11, None)], 0);
    restored.next.system = 7;
    state.learn(now, &restored);
    assert_eq!(says(&state, &copy(2, 1, 10), now), Word::Contradicted);
    assert_eq!(says(&state, &copy(3, 1, 10), now), Word::Good);
}

#[test]
fn only_ended_sessions_are_unlinked_and_each_once() {
    let now = Instant::now();
    let mut state = State::default();
    let rows = vec![row(1, 10, Some(2)), row(2, 11, None)];
    let digest = TokenDigest::from_bytes([2; 32]);
    assert_eq!(state.learn(now, &read(rows.clone(), 0)), [digest]);
    assert_eq!(state.learn(now, &read(rows, 0)), []);
    // Updated, and then ended.
    let digest = TokenDigest::from_bytes([1; 32]);
    let ended = read(vec![row(1, 12, None)], 0);
    assert_eq!(state.learn(now, &ended), [digest]);
}

#[test]
fn a_store_of_ones_own_needs_no_reading() {
    for policy in [Policy::Available, Policy::FailClosed] {
        let journal = Journal::of_an_exclusive_store(timing(policy));
        let now = Instant::now() + Duration::from_secs(3600);
        assert_eq!(journal.says(&copy(1, 1, 0), now), Word::Good, "{policy:?}");
        assert!(journal.believes(now), "{policy:?}");
    }
}
