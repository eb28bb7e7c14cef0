//! The journal: what a node learns of other nodes' changes.

use std::time::Duration;

use session_layer::store::{JournalRow, SessionStore, Target};

use super::{HOUR, json, login, made, of_user, revoke, sorted, token};

async fn all(store: &impl SessionStore) -> Vec<JournalRow> {
    store.journal_since(None).await.unwrap().rows
}

pub async fn changes_are_in_the_journal_with_what_was_before(store: &impl SessionStore) {
    let session = login(store, "a", "alice").await;
    assert!(
        all(store).await.is_empty(),
        "a login changes nothing cached"
    );
    made(store.update(session.id(), 1, &json("1")).await.unwrap());
    made(store.rotate(token("a"), token("b"), HOUR).await.unwrap());
    made(store.rotate(token("b"), token("c"), HOUR).await.unwrap());
    revoke(store, Target::Id(session.id())).await;
    revoke(store, Target::Id(session.id())).await;

    let rows = all(store).await;
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            let mut digests = row.digests.clone();
            digests.sort();
            (row.session_id, row.least_version, digests)
        })
        .collect();
    let id = Some(session.id());
    assert_eq!(
        found,
        [
            (id, Some(2), sorted(["a"])),
            (id, Some(3), sorted(["a"])),
            (id, Some(4), sorted(["a", "b"])),
            (id, None, sorted(["b", "c"])),
        ]
    );
}

pub async fn a_touch_is_not_in_the_journal(store: &impl SessionStore) {
    let session = login(store, "a", "alice").await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    made(store.touch(session.id(), Duration::ZERO).await.unwrap());
    assert!(all(store).await.is_empty());
}

pub async fn a_read_goes_on_where_the_last_one_ended(store: &impl SessionStore) {
    for name in ["a", "b", "c"] {
        login(store, name, "alice").await;
    }
    revoke(store, Target::Token(token("a"))).await;
    let first = store.journal_since(None).await.unwrap();
    assert_eq!(first.rows.len(), 1);
    assert!(first.floor <= first.rows[0].xid);
    // Rows come again while some transaction anywhere is still open; none comes that was not there.
    let second = store.journal_since(Some(first.next)).await.unwrap();
    assert!(second.rows.iter().all(|row| first.rows.contains(row)));
    assert!(second.next >= first.next);
    revoke(store, of_user("alice")).await;
    let third = store.journal_since(Some(second.next)).await.unwrap();
    let new = third.rows.iter().filter(|row| !first.rows.contains(row));
    assert_eq!(new.clone().count(), 2);
    assert!(new.into_iter().all(|row| row.least_version.is_none()));
}
