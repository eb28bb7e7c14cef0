//! Checks of the journal, from which a node learns of other nodes' changes.

use std::time::Duration;

use session_layer::SessionId;
use session_layer::TokenDigest;
use session_layer::store::{
    JournalChange, JournalPosition, JournalRead, JournalRow, SessionStore, Target,
};

use super::{Case, Check, HOUR, Outcome, answer, ensure, made};
use crate::conformance::check::{checks, ensure_eq};

pub(super) fn checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"journal" |store| &Case::of(store) =>
        changes_are_journaled_with_old_digests: "The journal has a row for each change, in order. \
            A row has the digests from before the change and the least current version. A login \
            has no row, nor has the revocation of an ended session.",
        touch_is_not_journaled: "A touch is no change, and has no row.",
        position_of_another_life_reads_everything: "A read from a position of another life returns \
            the whole journal, because another life may use the same transaction ids again.",
        next_read_misses_no_change: "A read from `next` has every change that the last read \
            lacked, and no older row than both. Positions do not go back.",
    }
}

async fn read<S: SessionStore>(store: &S, from: Option<&JournalPosition>) -> Outcome<JournalRead> {
    let mut read = answer("journal_since", store.journal_since(from)).await?;
    while !read.is_complete() {
        let next = answer("journal_since", store.journal_since(Some(&read.next))).await?;
        read.rows.extend(next.rows);
        read.next = next.next;
    }
    Ok(read)
}

/// Returns all rows about this session. Other clients may change other sessions meanwhile.
async fn all_of<S: SessionStore>(store: &S, id: SessionId) -> Outcome<Vec<JournalRow>> {
    let rows = read(store, None).await?.rows;
    Ok(about(rows, &[id]))
}

pub(super) fn about(mut rows: Vec<JournalRow>, ids: &[SessionId]) -> Vec<JournalRow> {
    rows.retain(|row| match &row.change {
        JournalChange::Session { id, .. } => ids.contains(id),
        _ => false,
    });
    rows
}

/// Returns the least current version, and the digests from before the change.
fn session_change(row: &JournalRow) -> (Option<i64>, Vec<TokenDigest>) {
    match &row.change {
        JournalChange::Session { digests, least_version, .. } => {
            let mut digests = digests.clone();
            digests.sort();
            (*least_version, digests)
        }
        _ => (None, Vec::new()),
    }
}

async fn changes_are_journaled_with_old_digests<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let session = case.login("a", "alice").await?;
    let id = session.id();
    let rows = all_of(case.store, id).await?;
    ensure!(rows.is_empty(), "a login is in the journal: {rows:?}");
    made("update", case.update(id, 1, "1").await?)?;
    case.rotated("a", "b", HOUR).await?;
    case.rotated("b", "c", HOUR).await?;
    for _ in 0..2 {
        case.revoke(&Target::Id(id)).await?;
    }

    let rows = all_of(case.store, id).await?;
    let found: Vec<_> = rows.iter().map(session_change).collect();
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

async fn touch_is_not_journaled<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let session = case.login("a", "alice").await?;
    // The store's clock, in ms, must have moved.
    tokio::time::sleep(Duration::from_millis(5)).await;
    made("touch", case.touch(session.id(), Duration::ZERO).await?)?;
    let rows = all_of(case.store, session.id()).await?;
    ensure!(rows.is_empty(), "a touch is in the journal: {rows:?}");
    Ok(())
}

async fn position_of_another_life_reads_everything<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let id = case.login("a", "alice").await?.id();
    case.revoke(&case.by_token("a")).await?;
    let here = read(case.store, None).await?.next;
    let other = JournalPosition { store_id: here.store_id.map(|byte| !byte), ..here };
    let rows = about(read(case.store, Some(&other)).await?.rows, &[id]);
    ensure_eq!("the number of rows of one change", rows.len(), 1);
    Ok(())
}

async fn next_read_misses_no_change<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(case.login(name, "alice").await?.id());
    }
    case.revoke(&case.by_token("a")).await?;
    let first = read(case.store, None).await?;
    let rows = about(first.rows, &ids);
    ensure_eq!("the number of rows of one change", rows.len(), 1);
    ensure!(
        first.floor <= rows[0].xid,
        "`floor` is {}, above the id {} of an existing row",
        first.floor,
        rows[0].xid
    );
    let second = read(case.store, Some(&first.next)).await?;
    let again = about(second.rows, &ids);
    ensure!(
        again.iter().all(|row| rows.contains(row)),
        "a second read without a change between has the new rows {again:?}"
    );
    case.revoke(&case.all_of("alice", None)).await?;
    let third = read(case.store, Some(&second.next)).await?;
    let user = case.user("alice");
    let of_user = third
        .rows
        .iter()
        .any(|row| matches!(&row.change, JournalChange::User { user_id, .. } if *user_id == user));
    let mut new = about(third.rows, &ids);
    new.retain(|row| !rows.contains(row));
    if !of_user {
        ensure_eq!("the number of rows of two revocations", new.len(), 2);
    }
    ensure!(
        new.iter().all(|row| session_change(row).0.is_none()),
        "some version is still current after a revocation: {new:?}"
    );
    Ok(())
}
