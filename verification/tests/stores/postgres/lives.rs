//! Lives of the database: transactions that are open when a life begins, and connections to two
//! servers.

use session_layer::SessionId;
use session_layer::error::StoreErrorKind;
use session_layer::store::{Creation, JournalChange, Row, SessionStore as _, Target};

use super::support::{Operator, Schema};
use crate::stores::support::{
    HOUR, alive, changed, journal_from, load, login, new, of_user, purged, revoke, token,
};

/// Ends the life, as a start of the server does.
async fn end_the_life(operator: &mut Operator) {
    operator.run("DELETE FROM session_life").await;
}

// The transaction is the first to change a session after a start of the server, and stays open.
#[tokio::test]
async fn transaction_that_was_open_when_a_life_began_blocks_nothing_and_is_read() {
    let (schema, store) = Schema::with_store().await;
    let slow = login(&store, "slow", "alice").await;
    let other = login(&store, "other", "alice").await;
    let (mut operator, mut holder) = (schema.operator().await, schema.operator().await);
    end_the_life(&mut operator).await;
    holder
        .run("BEGIN; UPDATE sessions SET revoked_at = now() WHERE token_digest = sha256('slow')")
        .await;

    // Reads, logins, changes and housekeeping do not wait for it.
    let read = store.load(&[token("slow")]).await.unwrap();
    assert!(matches!(read.rows[..], [Row::Alive { .. }]));
    login(&store, "next", "bob").await;
    revoke(&store, Target::Token(token("other"))).await;
    let before = journal_from(&store, None).await;
    assert_eq!(sessions_of(&before.rows), [other.id()]);
    assert_eq!(store.purge_journal(HOUR).await.unwrap(), 0);

    holder.run("COMMIT").await;
    let whole = journal_from(&store, None).await;
    assert_eq!(sessions_of(&whole.rows), [slow.id(), other.id()]);
    let new_rows = journal_from(&store, Some(&before.next)).await;
    assert_eq!(sessions_of(&new_rows.rows), [slow.id()]);
    assert!(read.xmin <= new_rows.rows[0].xid, "the entry is older");

    // Its row is purged by its age. Entries from before it are not served then.
    operator.run("UPDATE session_journal SET at = now() - interval '2 hours'").await;
    purged(&store, HOUR, 2).await;
    assert!(store.journal_since(None).await.unwrap().floor > read.xmin);
}

fn sessions_of(rows: &[session_layer::store::JournalRow]) -> Vec<SessionId> {
    rows.iter().map(|row| changed(row).0).collect()
}

// The transaction raises a user's epoch. A login that began before its COMMIT is refused.
#[tokio::test]
async fn epoch_raised_by_a_transaction_of_before_the_life_refuses_a_login_under_way() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "old", "alice").await;
    let (mut operator, mut holder) = (schema.operator().await, schema.operator().await);
    holder.run("BEGIN; UPDATE session_users SET epoch = epoch + 1 WHERE user_id = 'alice'").await;
    end_the_life(&mut operator).await;
    let mut begun = new("alice");
    begun.begun = Some(store.login_snapshot().await.unwrap());
    // As after a restart, when the transaction was prepared in another run of the server.
    holder
        .run(
            "ALTER TABLE session_users DISABLE TRIGGER session_users_note_raise;
                 UPDATE session_users SET raised_in = now() WHERE user_id = 'alice';
                 ALTER TABLE session_users ENABLE TRIGGER session_users_note_raise;
                 COMMIT",
        )
        .await;
    let refused = store.create(token("late"), &begun).await.unwrap();
    assert!(matches!(refused, Creation::Superseded), "{refused:?}");
    // The user is not swept either.
    operator
        .run(
            "DELETE FROM sessions;
                 ALTER TABLE session_users DISABLE TRIGGER USER;
                 UPDATE session_users SET created_at = now() - interval '2 hours', raised_at = \
                 now() - interval '2 hours';
                 ALTER TABLE session_users ENABLE TRIGGER USER",
        )
        .await;
    assert_eq!(store.sweep_users(HOUR, None, 10).await.unwrap().removed, 0);
    login(&store, "new", "alice").await;
    alive(load(&store, "new").await);
}

// A page skips the rows of open transactions by their ids. It does not read each of them.
#[tokio::test]
async fn rows_of_open_transactions_are_not_read() {
    const OPEN: i64 = 20_000;
    let (schema, store) = Schema::with_store().await;
    let before = journal_from(&store, None).await;
    login(&store, "a", "alice").await;
    let mut holder = schema.operator().await;
    holder
        .run(&format!(
            "BEGIN; INSERT INTO session_journal (kind, session_id)
                 SELECT 'revoked', gen_random_uuid() FROM generate_series(1, {OPEN})"
        ))
        .await;
    revoke(&store, Target::Token(token("a"))).await;
    store.close().await;

    // The transaction is newer than the last read first, and was running at the last read then.
    let mut watcher = schema.operator().await;
    let named = schema.named_url();
    let reader = schema.store_at(&named);
    let entries_read = entries_read(&mut watcher, &schema).await;
    let first = journal_from(&reader, Some(&before.next)).await;
    assert_eq!(first.rows.len(), 1);
    let second = journal_from(&reader, Some(&first.next)).await;
    assert_eq!(second.rows.len(), 0);
    reader.close().await;
    let entries_read = self::entries_read(&mut watcher, &schema).await - entries_read;
    assert!(entries_read < 100, "{entries_read} entries of the index");

    holder.run("COMMIT").await;
    // Then each entry is read once, and not once for each page.
    let reader = schema.store_at(&named);
    let before = self::entries_read(&mut watcher, &schema).await;
    let last = journal_from(&reader, Some(&second.next)).await;
    assert_eq!(i64::try_from(last.rows.len()).unwrap(), OPEN);
    reader.close().await;
    let entries_read = self::entries_read(&mut watcher, &schema).await - before;
    assert!(entries_read < OPEN + 100, "{entries_read} entries of the index");
}

/// Returns how many entries of the journal's index were read, once the reader has disconnected.
async fn entries_read(watcher: &mut Operator, schema: &Schema) -> i64 {
    let open =
        format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}'", schema.name);
    watcher.until_none(&open).await;
    watcher
        .ask(
            "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelid = \
              'session_journal_page'::regclass",
        )
        .await
}

// A cut-over left the old server running and writable. The journal is read on the new one.
#[tokio::test]
async fn change_on_a_server_whose_journal_is_not_read_is_uncertain() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "a", "alice").await;
    let mut operator = schema.operator().await;
    let _journal_of_before = store.journal_since(None).await.unwrap();
    // From now on, the connections of reads and changes lead to another life.
    end_the_life(&mut operator).await;
    let _life: uuid::Uuid = operator.ask("SELECT begin_life()").await;

    let looked_up = store.digests(&Target::Token(token("a"))).await;
    let refused = looked_up.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::NotAuthoritative);
    assert!(refused.to_string().contains("nothing was changed"));
    for made in [
        store.revoke(&Target::Token(token("a")), &"test".into()).await.map(drop),
        store.revoke(&of_user("alice"), &"test".into()).await.map(drop),
        store.create(token("b"), &new("bob")).await.map(drop),
    ] {
        assert_eq!(made.unwrap_err().kind(), StoreErrorKind::Uncertain);
    }

    // Once the journal is read there, changes succeed: one that waits for it, and later ones.
    let carol = new("carol");
    let creating = store.create(token("c"), &carol);
    let (created, read) = tokio::join!(creating, store.journal_since(None));
    assert!(matches!(created.unwrap(), Creation::Created(_)));
    read.unwrap();
    let rows = journal_from(&store, None).await.rows;
    assert!(matches!(
        rows.last().map(|row| &row.change),
        Some(JournalChange::User { .. } | JournalChange::Session { .. })
    ));
    login(&store, "d", "dave").await;
}

// A life may begin before the transaction commits. Its removal of its own journal rows leaves one
// row that ends every entry.
#[tokio::test]
async fn transaction_that_deletes_its_own_journal_rows_ends_every_entry() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "a", "alice").await;
    let (mut operator, mut holder) = (schema.operator().await, schema.operator().await);
    end_the_life(&mut operator).await;
    holder.run("BEGIN; UPDATE sessions SET revoked_at = now(); DELETE FROM session_journal").await;
    let read = store.load(&[token("a")]).await.unwrap();
    assert!(matches!(read.rows[..], [Row::Alive { .. }]));
    holder.run("COMMIT").await;
    let rows = journal_from(&store, None).await.rows;
    assert!(rows.iter().any(|row| row.change == JournalChange::All && read.xmin <= row.xid));
}

// A transaction that was prepared in an earlier run may lock the row of that run.
#[tokio::test]
async fn life_begins_beside_the_locked_row_of_an_earlier_one() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "a", "alice").await;
    let mut operator = schema.operator().await;
    operator.run("UPDATE session_life SET started = started - interval '1 day'").await;
    let mut holder = schema.operator().await;
    holder.run("BEGIN; SELECT FROM session_life FOR UPDATE").await;
    alive(load(&store, "a").await);
    holder.run("COMMIT").await;
    let lives: i64 = operator.ask("SELECT count(*) FROM session_life").await;
    assert_eq!(lives, 2, "the earlier row is removed when another life begins");
}

// Operators rename and merge users.
#[tokio::test]
async fn user_row_with_another_name_ends_the_sessions_of_that_user_in_the_journal() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "carol", "carol").await;
    revoke(&store, of_user("carol")).await;
    login(&store, "bob", "bob").await;
    let before = journal_from(&store, None).await.next;
    schema
        .run(
            "DELETE FROM session_users WHERE user_id = 'bob';
                 UPDATE session_users SET user_id = 'bob' WHERE user_id = 'carol'",
        )
        .await;
    assert!(matches!(load(&store, "bob").await, Row::Revoked));
    let rows = journal_from(&store, Some(&before)).await.rows;
    let of_bob = |change: &JournalChange| match change {
        JournalChange::User { user_id, .. } => user_id == "bob",
        _ => false,
    };
    assert!(rows.iter().any(|row| of_bob(&row.change)), "{rows:?}");
}

// TRUNCATE removes all epochs at once. Sessions that they had ended stay ended.
#[tokio::test]
async fn truncated_users_bring_no_session_back() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "frank", "frank").await;
    let mut operator = schema.operator().await;
    operator.run("UPDATE session_users SET epoch = epoch + 1").await;
    operator.run("TRUNCATE session_users").await;
    assert!(matches!(load(&store, "frank").await, Row::Revoked));
}

// A revoke-all of the first user runs while the session is moved.
#[tokio::test]
async fn session_given_to_another_user_does_not_escape_a_revoke_all() {
    let (schema, store) = Schema::with_store().await;
    for name in ["dave", "erin"] {
        login(&store, name, name).await;
    }
    let mut operator = schema.operator().await;
    let moving = async move {
        operator.run("UPDATE sessions SET user_id = 'erin' WHERE user_id = 'dave'").await
    };
    let raise = "UPDATE session_users SET epoch = epoch + 1 WHERE user_id = 'dave'";
    schema.beside(raise, "COMMIT", moving).await;
    assert!(matches!(load(&store, "dave").await, Row::Revoked));
    alive(load(&store, "erin").await);
}
