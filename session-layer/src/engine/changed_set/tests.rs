use std::time::Duration;

use super::*;
use crate::engine::journal::Journal;
use crate::model::clock::Timestamp;
use crate::model::session::SessionParts;
use crate::store::{JournalPage, JournalPosition, JournalRow};

pub(super) const D: Duration = Duration::from_secs(2);

pub(super) fn timing(policy: PartitionPolicy) -> JournalTiming {
    JournalTiming { interval: D / 4, policy }
}

fn id(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

pub(super) fn entry(n: u8, version: i64, xmin: u64) -> Entry {
    let at = Timestamp::from_micros(0);
    Entry {
        session: SessionParts { version, ..SessionParts::new(id(n), "alice", at) }.into(),
        user_epoch: 0,
        store_id: [0; 16],
        xmin,
        read_at: at,
        not_after: at.after(Duration::from_secs(300)),
    }
}

pub(super) fn row(n: u8, xid: u64, least_version: Option<i64>) -> JournalRow {
    JournalRow {
        xid,
        change: JournalChange::Session {
            id: id(n),
            digests: vec![TokenDigest::from_bytes([n; 32])],
            least_version,
        },
    }
}

pub(super) fn truncate(xid: u64) -> JournalRow {
    JournalRow { xid, change: JournalChange::All }
}

fn raise(user_id: &str, xid: u64, epoch: i64) -> JournalRow {
    JournalRow { xid, change: JournalChange::User { user_id: user_id.to_owned(), epoch } }
}

pub(super) fn read(rows: Vec<JournalRow>, floor: u64) -> JournalRead {
    JournalRead {
        store_id: [0; 16],
        rows,
        next: JournalPosition::default(),
        floor,
        now: Timestamp::from_micros(0),
    }
}

/// Returns the verdict of a set under the default policy.
fn verdict(set: &ChangedSet, entry: &Entry, now: Instant) -> JournalVerdict {
    set.verdict(entry, now, timing(PartitionPolicy::Available))
}

#[test]
fn verdict_before_the_first_read_is_unknown() {
    let set = ChangedSet::default();
    for policy in [PartitionPolicy::Available, PartitionPolicy::FailClosed] {
        let verdict = set.verdict(&entry(1, 9, 9), Instant::now(), timing(policy));
        assert_eq!(verdict, JournalVerdict::Unknown);
    }
}

#[test]
fn entry_older_than_a_change_stays_outdated() {
    let now = Instant::now();
    let mut set = ChangedSet::default();
    set.learn(now, &read(vec![row(1, 10, Some(3)), row(2, 11, None)], 0));
    assert_eq!(verdict(&set, &entry(1, 2, 10), now), JournalVerdict::Outdated);
    assert_eq!(verdict(&set, &entry(1, 3, 12), now), JournalVerdict::Current);
    assert_eq!(verdict(&set, &entry(2, 9, 10), now), JournalVerdict::Outdated);
    assert_eq!(verdict(&set, &entry(3, 1, 10), now), JournalVerdict::Current);
    // Rows that arrive again, or in another order, change nothing.
    set.learn(now, &read(vec![row(1, 9, Some(2)), row(2, 8, Some(1))], 0));
    assert_eq!(verdict(&set, &entry(1, 2, 10), now), JournalVerdict::Outdated);
    assert_eq!(verdict(&set, &entry(2, 9, 10), now), JournalVerdict::Outdated);
}

#[test]
fn stale_node_serves_nothing_only_under_fail_closed() {
    let began = Instant::now();
    let mut set = ChangedSet::default();
    set.learn(began, &read(vec![row(2, 11, None)], 0));
    let good = entry(1, 1, 12);
    for (age, available, closed) in [
        (D, JournalVerdict::Current, JournalVerdict::Current),
        (D + Duration::from_nanos(1), JournalVerdict::Current, JournalVerdict::Unknown),
    ] {
        let now = began + age;
        let of = |policy| set.verdict(&good, now, timing(policy));
        assert_eq!(
            (of(PartitionPolicy::Available), of(PartitionPolicy::FailClosed)),
            (available, closed),
            "{age:?}"
        );
        // An outdated entry stays outdated, and a lease may replace it.
        let ended = set.verdict(&entry(2, 1, 10), now, timing(PartitionPolicy::FailClosed));
        assert_eq!(ended, JournalVerdict::Outdated);
    }
}

#[test]
fn entry_with_xmin_below_the_floor_is_outdated() {
    let now = Instant::now();
    let mut set = ChangedSet::default();
    set.learn(now, &read(vec![row(1, 10, None), row(2, 20, None)], 15));
    assert_eq!(set.changed.len(), 1, "changes below the floor are dropped");
    assert_eq!(verdict(&set, &entry(1, 1, 9), now), JournalVerdict::Outdated);
    assert_eq!(verdict(&set, &entry(3, 1, 14), now), JournalVerdict::Outdated);
    assert_eq!(verdict(&set, &entry(3, 1, 15), now), JournalVerdict::Current);
    // A lower floor has no effect.
    set.learn(now, &read(Vec::new(), 0));
    assert_eq!(verdict(&set, &entry(3, 1, 14), now), JournalVerdict::Outdated);
}

#[test]
fn truncate_rejects_entries_whose_read_may_precede_it() {
    let now = Instant::now();
    let mut set = ChangedSet::default();
    set.learn(now, &read(vec![truncate(10)], 0));
    assert_eq!(verdict(&set, &entry(1, 1, 10), now), JournalVerdict::Outdated);
    assert_eq!(verdict(&set, &entry(1, 1, 11), now), JournalVerdict::Current);
    set.learn(now, &read(Vec::new(), 11));
    assert_eq!(set.truncated, None);
}

// One row rejects the entries of all sessions of a user, and no entry of another user.
#[test]
fn raised_epoch_rejects_the_users_entries_of_lower_epochs() {
    let now = Instant::now();
    let mut set = ChangedSet::default();
    let of_epoch = |user_epoch| Entry { user_epoch, ..entry(1, 1, 12) };
    set.learn(now, &read(vec![raise("alice", 10, 2), raise("bob", 10, 9)], 0));
    assert_eq!(verdict(&set, &of_epoch(1), now), JournalVerdict::Outdated);
    assert_eq!(verdict(&set, &of_epoch(2), now), JournalVerdict::Current);
    // An older row changes nothing.
    set.learn(now, &read(vec![raise("alice", 9, 1)], 0));
    assert_eq!(verdict(&set, &of_epoch(1), now), JournalVerdict::Outdated);
    assert_eq!(set.len(), 2, "the set holds one item per user, whatever the number of sessions");
    // Older entries are below the floor now.
    set.learn(now, &read(Vec::new(), 11));
    assert_eq!(set.len(), 0);
    let old = Entry { xmin: 10, ..of_epoch(1) };
    assert_eq!(verdict(&set, &old, now), JournalVerdict::Outdated);
}

// After a restart, a crash, a promotion or a copy of the database, transaction ids begin anew. The
// set then begins anew too.
#[test]
fn new_life_empties_set_and_rejects_entries_of_the_last() {
    let now = Instant::now();
    let mut set = ChangedSet::default();
    set.learn(now, &read(vec![row(1, 900, None)], 800));
    assert_eq!(verdict(&set, &entry(3, 1, 10), now), JournalVerdict::Outdated);
    let life = [7; 16];
    let restarted = JournalRead { store_id: life, ..read(vec![row(2, 11, None)], 0) };
    set.learn(now, &restarted);
    let of_this_life = |n, xmin| Entry { store_id: life, ..entry(n, 1, xmin) };
    assert_eq!(verdict(&set, &of_this_life(2, 10), now), JournalVerdict::Outdated);
    assert_eq!(verdict(&set, &of_this_life(3, 10), now), JournalVerdict::Current);
    assert_eq!(verdict(&set, &entry(3, 1, 900), now), JournalVerdict::Foreign);
    // A partitioned node may have missed a restart. It cannot decide which life is the current one.
    let later = now + D + Duration::from_nanos(1);
    assert_eq!(verdict(&set, &entry(3, 1, 900), later), JournalVerdict::Unknown);
}

// The rows of every page count at once. The age changes with the last page only.
#[test]
fn read_of_several_pages_sets_the_age_with_its_last_page() {
    let began = Instant::now();
    let mut set = ChangedSet::default();
    let page = |rows| {
        let mut page = read(rows, 0);
        page.next.page =
            Some(JournalPage { snapshot: "10:10:".into(), after: (10, 1), of_transaction: 1 });
        page
    };
    set.learn(began, &page(vec![row(1, 10, None)]));
    assert_eq!(verdict(&set, &entry(2, 1, 12), began), JournalVerdict::Unknown);
    set.learn(began, &read(vec![row(2, 11, None)], 0));
    for n in [1, 2] {
        assert_eq!(verdict(&set, &entry(n, 1, 12), began), JournalVerdict::Outdated);
    }
    assert_eq!(verdict(&set, &entry(3, 1, 12), began), JournalVerdict::Current);
    // The first page of the next read does not change the age.
    let later = began + D;
    set.learn(later, &page(Vec::new()));
    assert_eq!(set.read, Some(began));
}

// Memory is bounded. No entry is served that a dropped change may reject.
#[test]
fn set_over_its_limit_drops_its_older_half() {
    let now = Instant::now();
    let mut set = ChangedSet::default();
    let rows = (0..100).map(|n: u8| row(n, 10 + u64::from(n), None));
    set.learn(now, &read(rows.chain([raise("bob", 5, 1)]).collect(), 0));
    set.bound(101);
    assert_eq!(set.len(), 101, "the set is at its limit");
    set.bound(100);
    assert!(set.len() <= 51, "{}", set.len());
    for n in 0..100 {
        // The read of the entry may not have seen the change.
        let old = entry(n, 1, 10 + u64::from(n));
        assert_eq!(verdict(&set, &old, now), JournalVerdict::Outdated, "{n}");
    }
    assert_eq!(verdict(&set, &entry(200, 1, set.begins), now), JournalVerdict::Current);
}

// Of more rows of one transaction than the limit, the set keeps only the transaction id.
#[test]
fn too_many_rows_of_one_transaction_reject_older_entries() {
    let now = Instant::now();
    let mut set = ChangedSet::default();
    let rows = (0..100).map(|n| row(n, 10, None)).collect();
    set.learn(now, &read(rows, 0));
    set.bound(99);
    assert_eq!(set.len(), 0);
    assert_eq!(verdict(&set, &entry(1, 1, 10), now), JournalVerdict::Outdated);
    assert_eq!(verdict(&set, &entry(1, 1, 11), now), JournalVerdict::Current);
    // The other pages of that transaction add nothing.
    let rows = (0..100).map(|n| row(n, 10, None)).collect();
    set.learn(now, &read(rows, 0));
    assert_eq!(set.len(), 0);
}

#[test]
fn ended_session_is_unlinked_once_and_updated_one_never() {
    let now = Instant::now();
    let mut set = ChangedSet::default();
    let rows = vec![row(1, 10, Some(2)), row(2, 11, None)];
    let digest = TokenDigest::from_bytes([2; 32]);
    assert_eq!(set.learn(now, &read(rows.clone(), 0)), [digest]);
    assert_eq!(set.learn(now, &read(rows, 0)), []);
    // The session was updated before, and ends now.
    let digest = TokenDigest::from_bytes([1; 32]);
    let ended = read(vec![row(1, 12, None)], 0);
    assert_eq!(set.learn(now, &ended), [digest]);
}

#[test]
fn exclusive_store_needs_no_read_of_the_journal() {
    for policy in [PartitionPolicy::Available, PartitionPolicy::FailClosed] {
        let journal = Journal::of_an_exclusive_store(timing(policy));
        let now = Instant::now() + Duration::from_secs(3600);
        assert_eq!(journal.verdict(&entry(1, 1, 0), now), JournalVerdict::Current, "{policy:?}");
        assert!(journal.permits_serving(now), "{policy:?}");
    }
}
