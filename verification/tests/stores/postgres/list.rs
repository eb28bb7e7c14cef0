//! The list of a user's sessions: bounded, and in pages.

use session_layer::error::StoreErrorKind;
use session_layer::limits::LIST_PAGE;
use session_layer::store::SessionStore as _;
use session_layer::{ListCursor, SessionId};
use session_testkit::proxy::{Proxy, Toxic};
use sqlx::types::Uuid;

use super::support::Schema;
use crate::stores::support::{load, login, token};

/// Returns an INSERT of alice's sessions with this expression of `n` as `created_at`.
fn insert(from: u32, to: u32, created_at: &str) -> String {
    format!(
        "INSERT INTO sessions (token_digest, user_id, expires_at, created_at)
         SELECT sha256(convert_to(n::text, 'UTF8')), 'alice', now() + interval '1 day', {created_at}
         FROM generate_series({from}, {to}) n"
    )
}

#[tokio::test]
async fn thousands_of_sessions_are_listed_page_by_page() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "bob", "bob").await;
    let mut operator = schema.operator().await;
    for sessions in [
        insert(1, 2_000, "now() - n * interval '1 second'"),
        // Many sessions of one moment, and moments that no client writes.
        insert(2_001, 2_300, "'2020-02-02 12:00:00.123456Z'"),
        insert(2_301, 2_600, "'-infinity'"),
        insert(2_601, 2_602, "'infinity'"),
    ] {
        operator.run(&sessions).await;
    }
    operator.run("UPDATE sessions SET revoked_at = now() WHERE hashtext(id::text) % 3 = 0").await;
    let expected: Vec<Uuid> = operator
        .ask(
            "SELECT array_agg(id ORDER BY created_at DESC, id DESC) FROM sessions
                 WHERE user_id = 'alice' AND revoked_at IS NULL",
        )
        .await;
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.list("alice", after, LIST_PAGE).await.unwrap();
        assert!(page.sessions.len() <= LIST_PAGE);
        listed.extend(page.sessions.iter().map(|listed| listed.id));
        assert!(listed.len() <= expected.len(), "pages without end");
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let expected = expected.iter().map(|id| SessionId::from_bytes(*id.as_bytes()));
    assert_eq!(listed, expected.collect::<Vec<_>>());
}

// The additional row shows that there is a next page. Without a limit in the statement, the process
// would receive all sessions of the user.
#[tokio::test]
async fn server_sends_one_row_more_than_the_page() {
    const LABEL: &str = "a label that each row of the list carries once";
    let schema = Schema::new().await;
    // The first read of all is sent twice, because it begins the life of the database.
    schema.store().await.load(&[]).await.unwrap();
    let mut operator = schema.operator().await;
    operator.run(&insert(1, 250, "now()")).await;
    operator.run(&format!("UPDATE sessions SET label = '{LABEL}'")).await;
    let address = session_testkit::url::address(schema.url()).unwrap();
    let proxy = Proxy::start(address).await.unwrap();
    let store = schema.builder_at(&proxy.url(schema.url())).build().unwrap();
    for limit in [1, 2, LIST_PAGE] {
        let (mut after, mut left) = (None, 250);
        // With the largest pages, this includes the last page, which is shorter.
        for _ in 0..3 {
            let counting = proxy.inject(Toxic::count(LABEL));
            let page = store.list("alice", after, limit).await.unwrap();
            let sent = counting.heal().occurrences;
            assert_eq!(page.sessions.len(), left.min(limit));
            assert_eq!(sent, u64::try_from(left.min(limit + 1)).unwrap());
            left -= page.sessions.len();
            assert_eq!(page.next.is_some(), left > 0);
            after = page.next;
        }
    }
}

// The rows claim to be from beyond the year 9999.
#[tokio::test]
async fn list_of_impossible_dates_ends() {
    let (schema, store) = Schema::with_store().await;
    schema.run(&insert(1, 250, "'200000-01-01'")).await;
    let first = store.list("alice", None, LIST_PAGE).await.unwrap();
    assert_eq!(first.sessions.len(), LIST_PAGE);
    let second = store.list("alice", first.next, LIST_PAGE).await.unwrap();
    assert!(second.next.is_none());
    // A cursor from a URL may name any moment.
    let last = first.sessions.last().unwrap();
    for micros in [i64::MIN, i64::MAX] {
        let cursor: ListCursor = format!("{micros}.{}", last.id).parse().unwrap();
        store.list("alice", Some(cursor), LIST_PAGE).await.unwrap();
    }
}

#[tokio::test]
async fn role_without_the_right_to_read_data_can_list() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    let id = login(&owner, "a", "alice").await.id();
    let role = blind(&schema).await;
    let store = schema.builder_at(&schema.url_with("role", role)).build().unwrap();
    let denied = store.load(&[token("a")]).await.unwrap_err();
    assert_eq!(denied.kind(), StoreErrorKind::Denied);
    let page = store.list("alice", None, LIST_PAGE).await.unwrap();
    assert_eq!(page.sessions[0].id, id);
    crate::stores::support::alive(load(&owner, "a").await);
}

/// Creates a role that may read every column but `data`.
async fn blind(schema: &Schema) -> &str {
    let mut operator = schema.operator().await;
    let columns: String = operator
        .ask(
            "SELECT string_agg(attname, ', ') FROM pg_attribute
             WHERE attrelid = 'sessions'::regclass AND attnum > 0 AND NOT attisdropped AND attname \
             <> 'data'",
        )
        .await;
    let rights = format!(
        "GRANT SELECT ON ALL TABLES IN SCHEMA {0} TO {0};
         REVOKE SELECT ON sessions FROM {0};
         GRANT SELECT ({columns}) ON sessions TO {0}",
        schema.name
    );
    schema.role(&rights).await
}
