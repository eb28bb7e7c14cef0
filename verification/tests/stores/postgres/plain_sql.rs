//! Direct SQL counts like a change by the library.

use session_layer::limits::LIST_PAGE;
use session_layer::store::{JournalChange, JournalRow, PostgresStore, Row, SessionStore, Target};

use super::support::{Operator, Schema};
use crate::stores::support::{HOUR, alive, changed, load, login, made, of_user, sorted, token};

async fn journal(store: &PostgresStore) -> Vec<JournalRow> {
    store.journal_since(None).await.unwrap().rows
}

async fn with_sessions() -> (Schema, PostgresStore, Operator) {
    let (schema, store, operator) = Schema::with_operator().await;
    for name in ["a", "b", "c"] {
        login(&store, name, "alice").await;
    }
    (schema, store, operator)
}

#[tokio::test]
async fn update_revokes_raises_the_version_and_is_in_the_journal() {
    let (_schema, store, mut operator) = with_sessions().await;
    let a = alive(load(&store, "a").await);
    operator.run("UPDATE sessions SET revoked_at = now() WHERE token_digest = sha256('a')").await;
    assert!(matches!(load(&store, "a").await, Row::Revoked));
    let version: i64 =
        operator.ask("SELECT version FROM sessions WHERE token_digest = sha256('a')").await;
    assert_eq!(version, 2);
    let rows = journal(&store).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(changed(&rows[0]), (a.id(), sorted(["a"]), None));
}

#[tokio::test]
async fn version_cannot_be_set_back() {
    let (_schema, store, mut operator) = with_sessions().await;
    operator.run("UPDATE sessions SET data = '7', version = 1").await;
    operator.run("UPDATE sessions SET version = -1 WHERE token_digest = sha256('a')").await;
    assert_eq!(alive(load(&store, "a").await).version(), 3);
    assert_eq!(alive(load(&store, "b").await).version(), 2);
    let rows = journal(&store).await;
    let versions: Vec<_> = rows.iter().map(|row| changed(row).2).collect();
    assert_eq!(versions, [Some(2), Some(2), Some(2), Some(3)]);
}

#[tokio::test]
async fn only_an_advanced_last_seen_at_is_a_touch() {
    let (_schema, store, mut operator) = with_sessions().await;
    operator.run("UPDATE sessions SET last_seen_at = now()").await;
    operator.run("UPDATE sessions SET label = label").await;
    assert!(journal(&store).await.is_empty());
    assert_eq!(alive(load(&store, "a").await).version(), 1);

    for change in [
        "last_seen_at = last_seen_at - interval '1 hour'",
        "last_seen_at = now(), label = 'x'",
        "data = '1.0'",
        // Equal as jsonb, but not as text.
        "data = '1.00'",
        "expires_at = 'infinity'",
        "idle_timeout_s = 60",
        "persistent = true",
        "user_epoch = 1",
    ] {
        let before = alive(load(&store, "a").await).version();
        operator
            .run(&format!("UPDATE sessions SET {change} WHERE token_digest = sha256('a')"))
            .await;
        let after = alive(load(&store, "a").await).version();
        assert_eq!(after, before + 1, "{change}");
    }
    assert_eq!(journal(&store).await.len(), 8);
}

#[tokio::test]
async fn only_the_delete_of_an_active_session_is_in_the_journal() {
    let (_schema, store, mut operator) = with_sessions().await;
    let (rotated, _) = made(store.rotate(token("c"), token("d"), HOUR).await.unwrap());
    operator
        .run(
            "UPDATE sessions SET revoked_at = now() WHERE token_digest = sha256('a');
                 UPDATE sessions SET expires_at = now() WHERE token_digest = sha256('b')",
        )
        .await;
    let before = journal(&store).await.len();
    assert_eq!(operator.run("DELETE FROM sessions").await, 3);
    let rows = journal(&store).await;
    assert_eq!(rows.len(), before + 1);
    let last = rows.last().unwrap();
    assert_eq!(changed(last), (rotated.id(), sorted(["c", "d"]), None));
    assert!(matches!(load(&store, "d").await, Row::Absent));
}

#[tokio::test]
async fn delete_of_an_idle_session_is_not_in_the_journal() {
    let (_schema, store, mut operator) = with_sessions().await;
    operator
        .run("UPDATE sessions SET idle_timeout_s = 5, last_seen_at = now() - interval '1 hour'")
        .await;
    let before = journal(&store).await.len();
    operator.run("DELETE FROM sessions").await;
    assert_eq!(journal(&store).await.len(), before);
}

fn ended(user_id: &str, epoch: i64) -> JournalChange {
    JournalChange::User { user_id: user_id.to_owned(), epoch }
}

async fn changes(store: &PostgresStore) -> Vec<JournalChange> {
    let rows = journal(store).await;
    rows.into_iter().map(|row| row.change).collect()
}

#[tokio::test]
async fn epoch_raised_by_sql_ends_every_session_and_no_later_one() {
    let (_schema, store, mut operator) = with_sessions().await;
    operator.run("UPDATE session_users SET epoch = epoch + 1").await;
    for name in ["a", "b", "c"] {
        assert!(matches!(load(&store, name).await, Row::Revoked));
    }
    let page = store.list("alice", None, LIST_PAGE).await.unwrap();
    assert!(page.sessions.is_empty());
    assert_eq!(changes(&store).await, [ended("alice", 1)]);
    login(&store, "d", "alice").await;
    alive(load(&store, "d").await);
    // An UPDATE that does not raise the epoch ends nothing.
    operator.run("UPDATE session_users SET epoch = epoch, user_id = user_id").await;
    alive(load(&store, "d").await);
    // Changes of ended sessions write no journal rows.
    operator
        .run(
            "UPDATE sessions SET revoked_at = now() WHERE user_epoch = 0;
                 DELETE FROM sessions WHERE user_epoch = 0",
        )
        .await;
    assert_eq!(changes(&store).await, [ended("alice", 1)]);
}

#[tokio::test]
async fn revoking_all_but_one_writes_a_row_for_the_user_and_one_for_the_spared() {
    let (_schema, store, mut operator) = with_sessions().await;
    login(&store, "bob", "bob").await;
    let spared = alive(load(&store, "b").await);
    let target = Target::User { user_id: "alice".to_owned(), keep: Some(spared.id()) };
    let revoked = store.revoke(&target, &"stolen".into()).await.unwrap();
    assert_eq!((revoked.ended, revoked.found, revoked.complete), (2, 2, true));
    alive(load(&store, "b").await);
    alive(load(&store, "bob").await);
    assert_eq!(changes(&store).await.len(), 2);
    assert!(changes(&store).await.contains(&ended("alice", 1)));

    // The rows are ended afterwards without further journal rows.
    let user = revoked.user.unwrap();
    let mut after = None;
    let mut pages = 0;
    loop {
        pages += 1;
        after = store.end_rows(&user, &"stolen".into(), after).await.unwrap();
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, 2, "one page, and a read of the next");
    let ended: i64 = operator
        .ask(
            "SELECT count(*) FROM sessions WHERE ended_reason = 'stolen' AND revoked_at IS \
                  NOT NULL",
        )
        .await;
    assert_eq!(ended, 2);
    alive(load(&store, "b").await);
    assert_eq!(changes(&store).await.len(), 2);
}

// A session that had ended stays ended under another user. An active one is ended with the other
// user's.
#[tokio::test]
async fn rename_keeps_sessions_ended_and_revoke_all_complete() {
    let (_schema, store, mut operator) = with_sessions().await;
    store.revoke(&of_user("alice"), &"stolen".into()).await.unwrap();
    login(&store, "live", "alice").await;
    operator.run("UPDATE sessions SET user_id = 'new'").await;
    for name in ["a", "b", "c"] {
        assert!(matches!(load(&store, name).await, Row::Revoked), "{name}");
    }
    alive(load(&store, "live").await);
    let revoked = store.revoke(&of_user("new"), &"stolen".into()).await.unwrap();
    assert_eq!(revoked.ended, 1);
    assert!(matches!(load(&store, "live").await, Row::Revoked));
}

// The epoch is deleted with the user's row, and the sessions have a higher one than the new row.
#[tokio::test]
async fn revoke_all_ends_sessions_of_a_user_without_a_row() {
    let (_schema, store, mut operator) = with_sessions().await;
    store.revoke(&of_user("alice"), &"stolen".into()).await.unwrap();
    login(&store, "live", "alice").await;
    operator.run("DELETE FROM session_users").await;
    let revoked = store.revoke(&of_user("alice"), &"stolen".into()).await.unwrap();
    assert_eq!(revoked.ended, 1);
    assert!(matches!(load(&store, "live").await, Row::Revoked));
}

// One statement raises the epoch. An UPDATE of a hundred thousand rows exceeds a change's deadline.
#[tokio::test]
async fn revoke_all_of_100_000_sessions_writes_one_row() {
    let (schema, store, mut operator) = with_sessions().await;
    operator
        .run(
            "INSERT INTO sessions (token_digest, user_id, expires_at)
                 SELECT sha256(n::text::bytea), 'alice', now() + interval '1 day'
                 FROM generate_series(1, 100000) n",
        )
        .await;
    let store_as_configured = schema
        .builder()
        .change_deadline(session_layer::store::DEFAULT_CHANGE_DEADLINE)
        .build()
        .unwrap();
    let revoked = store_as_configured.revoke(&of_user("alice"), &"stolen".into()).await.unwrap();
    assert!(revoked.ended >= 10_000, "{}", revoked.ended);
    assert!(!revoked.complete && revoked.digests.is_empty());
    assert!(matches!(load(&store, "a").await, Row::Revoked));
    assert_eq!(changes(&store).await, [ended("alice", 1)]);
}

#[tokio::test]
async fn infinity_and_odd_values_can_be_read() {
    let (_schema, store, mut operator) = with_sessions().await;
    operator
        .run(
            "UPDATE sessions SET expires_at = 'infinity', created_at = '-infinity',
                   authenticated_at = '0044-03-15 BC', ip = '10.0.0.0/8', label = ''",
        )
        .await;
    let session = alive(load(&store, "a").await);
    assert!(session.expires_at().to_string().starts_with("9999-12-31"));
    let listed = store.list("alice", None, LIST_PAGE).await.unwrap().sessions;
    assert_eq!(listed.len(), 3);
    assert_eq!(listed[0].ip, Some([10, 0, 0, 0].into()));
}

#[tokio::test]
async fn session_inserted_by_sql_is_valid() {
    let (_schema, store, mut operator) = Schema::with_operator().await;
    operator
        .run(
            "INSERT INTO sessions (token_digest, user_id, expires_at)
                 VALUES (sha256(convert_to('a', 'UTF8')), 'alice', now() + interval '1 day')",
        )
        .await;
    let session = alive(load(&store, "a").await);
    assert_eq!(session.data_json(), "{}");
    let short = operator
        .try_run(
            "INSERT INTO sessions (token_digest, user_id, expires_at)
                 VALUES ('short', 'alice', now())",
        )
        .await;
    assert!(short.is_err());
}

#[tokio::test]
async fn user_whose_epoch_came_with_a_dump_can_log_in() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "a", "alice").await;
    // As after the restore of a dump from a server with far more transactions.
    schema
        .run(
            "ALTER TABLE session_users DISABLE TRIGGER USER;
                 UPDATE session_users SET epoch = 3, raised_by = '900000000000';
                 ALTER TABLE session_users ENABLE TRIGGER USER",
        )
        .await;
    assert!(matches!(load(&store, "a").await, Row::Revoked));
    login(&store, "b", "alice").await;
    alive(load(&store, "b").await);
}
