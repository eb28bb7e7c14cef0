//! The journal: what a node learns of other nodes' changes.

use std::time::Duration;

use session_layer::SessionId;
use session_layer::store::{JournalRead, JournalRow, SessionStore, Target};

use super::{Case, Check, HOUR, Outcome, answer, ensure, made};
use crate::conformance::check::{checks, ensure_eq};

pub(super) fn checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"journal":
        changes_are_in_the_journal_with_what_was_before: "The journal has a row for each change, in order, \
            with the digests from before it and the least version still to be believed; none for a login, \
            nor for ending what has ended.",
        a_touch_is_not_in_the_journal: "A touch is no change, and has no row.",
        a_position_of_another_life_means_nothing: "A read from a position of another life brings all \
            of the journal: there, the same transaction ids are used again.",
        a_read_goes_on_where_the_last_one_ended: "A read from `next` on misses no change that the last read \
            did not have, and brings none that is older than both; positions do not go back.",
    }
}

async fn read<S: SessionStore>(
    store: &S,
    from: Option<session_layer::store::JournalPosition>,
) -> Outcome<JournalRead> {
    answer("journal_since", store.journal_since(from)).await
}

/// All rows about this session. Others may change other sessions meanwhile.
async fn all_of<S: SessionStore>(store: &S, id: SessionId) -> Outcome<Vec<JournalRow>> {
    let rows = read(store, None).await?.rows;
    Ok(about(rows, &[id]))
}

fn about(mut rows: Vec<JournalRow>, ids: &[SessionId]) -> Vec<JournalRow> {
    rows.retain(|row| row.session_id.is_some_and(|id| ids.contains(&id)));
    rows
}

async fn changes_are_in_the_journal_with_what_was_before<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    let session = case.login("a", "alice").await?;
    let id = session.id();
    let rows = all_of(store, id).await?;
    ensure!(rows.is_empty(), "a login is in the journal: {rows:?}");
    made("update", case.update(id, 1, "1").await?)?;
    case.rotated("a", "b", HOUR).await?;
    case.rotated("b", "c", HOUR).await?;
    for _ in 0..2 {
        case.revoke(&Target::Id(id)).await?;
    }

    let rows = all_of(store, id).await?;
    let found: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let mut digests = row.digests;
            digests.sort();
            (row.least_version, digests)
        })
        .collect();
    ensure_eq!(
        "least version and digests of an update, two rotations and a revocation",
        found,
        [
            (Some(2), case.tokens(["a"])),
            (Some(3), case.tokens(["a"])),
            (Some(4), case.tokens(["a", "b"])),
            (None, case.tokens(["b", "c"])),
        ]
    );
    Ok(())
}

async fn a_touch_is_not_in_the_journal<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    let session = case.login("a", "alice").await?;
    // For the store's clock, in ms, to have moved.
    tokio::time::sleep(Duration::from_millis(5)).await;
    made("touch", case.touch(session.id(), Duration::ZERO).await?)?;
    let rows = all_of(store, session.id()).await?;
    ensure!(rows.is_empty(), "a touch is in the journal: {rows:?}");
    Ok(())
}

async fn a_position_of_another_life_means_nothing<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    let id = case.login("a", "alice").await?.id();
    case.revoke(&case.by_token("a")).await?;
    let mut other = read(store, None).await?.next;
    if other.life == 0 {
        return Ok(()); // There is no other.
    }
    other.life += 1;
    // Beyond every change that was made.
    other.xid = other.xid.saturating_add(1_000_000);
    let rows = about(read(store, Some(other)).await?.rows, &[id]);
    ensure_eq!("how many rows one change has", rows.len(), 1);
    Ok(())
}

async fn a_read_goes_on_where_the_last_one_ended<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(case.login(name, "alice").await?.id());
    }
    case.revoke(&case.by_token("a")).await?;
    let first = read(store, None).await?;
    let rows = about(first.rows, &ids);
    ensure_eq!("how many rows one change has", rows.len(), 1);
    ensure!(
        first.floor <= rows[0].xid,
        "`floor` is {}, above a row that is kept, of {}",
        first.floor,
        rows[0].xid
    );
    // Rows come again while some transaction anywhere is still open; none comes that was not there.
    let second = read(store, Some(first.next)).await?;
    let again = about(second.rows, &ids);
    ensure!(
        again.iter().all(|row| rows.contains(row)),
        "without a change, a second read has the new rows {again:?}"
    );
    ensure!(
        second.next.life != first.next.life || second.next >= first.next,
        "the position went back from {:?} to {:?}",
        first.next,
        second.next
    );
    case.revoke(&case.all_of("alice", None)).await?;
    let third = read(store, Some(second.next)).await?;
    let mut new = about(third.rows, &ids);
    new.retain(|row| !rows.contains(row));
    ensure_eq!("how many rows two revocations have", new.len(), 2);
    ensure!(
        new.iter().all(|row| row.least_version.is_none()),
        "after a revocation some version is still believed: {new:?}"
    );
    Ok(())
}
