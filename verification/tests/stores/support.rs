//! Sessions and tokens by name, for the tests of stores.

use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::store::ValidatedSession;
use session_layer::store::{
    Change, Creation, JournalChange, JournalPosition, JournalRead, JournalRow, Revoked, Row,
    SessionStore, Target,
};
use session_layer::{NewSession, Session, SessionId, TokenDigest};
use session_testkit::wait;

use crate::support::SOON;

pub const HOUR: Duration = Duration::from_secs(3600);

/// Returns the digest of the token `name`.
pub fn token(name: &str) -> TokenDigest {
    TokenDigest::of(name)
}

pub fn new(user: &str) -> ValidatedSession {
    NewSession::new(user).check().expect("within the limits")
}

pub fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON")
}

/// Creates a session of `user` under the token `name`.
pub async fn login(store: &impl SessionStore, name: &str, user: &str) -> Session {
    match store.create(token(name), &new(user)).await {
        Ok(Creation::Created(session)) => session,
        other => panic!("not created: {other:?}"),
    }
}

pub async fn load(store: &impl SessionStore, name: &str) -> Row {
    let mut loaded = store.load(&[token(name)]).await.expect("an answer");
    loaded.rows.pop().expect("one row per digest")
}

#[track_caller]
pub fn alive(row: Row) -> Session {
    match row {
        Row::Alive { session, .. } => session,
        other => panic!("not alive: {other:?}"),
    }
}

#[track_caller]
pub fn made(change: Change) -> (Session, Vec<TokenDigest>) {
    match change {
        Change::Made { session, mut digests } => {
            digests.sort();
            (session, digests)
        }
        other => panic!("not made: {other:?}"),
    }
}

pub async fn revoke(store: &impl SessionStore, target: Target) -> Revoked {
    let mut revoked = store.revoke(&target, &"test".into()).await.expect("an answer");
    revoked.digests.sort();
    revoked
}

/// Returns the session of a journal row, its digests before the change, and the least version that
/// is still right.
#[track_caller]
pub fn changed(row: &JournalRow) -> (SessionId, Vec<TokenDigest>, Option<i64>) {
    match &row.change {
        JournalChange::Session { id, digests, least_version } => {
            let mut digests = digests.clone();
            digests.sort();
            (*id, digests, *least_version)
        }
        other => panic!("not about one session: {other:?}"),
    }
}

/// Reads the rest of the journal, page by page.
pub async fn journal_from(
    store: &impl SessionStore,
    position: Option<&JournalPosition>,
) -> JournalRead {
    let mut read = store.journal_since(position).await.expect("the journal");
    while !read.is_complete() {
        let page = store.journal_since(Some(&read.next)).await.expect("a page");
        read.rows.extend(page.rows);
        read.next = page.next;
    }
    read
}

pub fn of_user(user: &str) -> Target {
    Target::User { user_id: user.to_owned(), keep: None }
}

pub fn sorted<const N: usize>(names: [&str; N]) -> Vec<TokenDigest> {
    let mut digests = names.map(token).to_vec();
    digests.sort();
    digests
}

/// Waits until the session of the token `name` has ended.
pub async fn until_ended(store: &impl SessionStore, name: &str) {
    let ended = async || !matches!(load(store, name).await, Row::Alive { .. });
    wait::until("the session to end", SOON, ended).await.unwrap();
}

/// Purges until this number of rows is removed. Transactions of other tests delay it.
pub async fn purged(store: &impl SessionStore, keep: Duration, wanted: u64) {
    let mut removed = 0;
    wait::until("the purge", SOON, async || {
        removed += store.purge_journal(keep).await.expect("an answer");
        removed >= wanted
    })
    .await
    .expect("old rows are removed");
    assert_eq!(removed, wanted);
}
