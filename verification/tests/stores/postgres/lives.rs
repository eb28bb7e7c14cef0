//! Lives of the database: what was under way when one began, and connections that lead to two
//! servers.

use session_layer::SessionId;
use session_layer::error::StoreErrorKind;
use session_layer::store::{Creation, JournalChange, Row, SessionStore as _, Target};
use tokio::time::Duration;

use super::support::{Person, Schema, in_schema, url};
use crate::stores::support::{
    HOUR, alive, changed, journal_from, load, login, new, of_user, revoke, token,
};

/// What a start of the server does to us: no life has begun.
async fn end_the_life(person: &mut Person) {
    person.run("DELETE FROM session_life").await;
}

/// A transaction that was the first to change a session after a start of the server, and stays
/// open.
#[tokio::test]
async fn transaction_that_was_open_when_a_life_began_blocks_nothing_and_is_read() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let slow = login(&store, "slow", "alice").await;
        let other = login(&store, "other", "alice").await;
        let mut person = schema.person().await;
        let mut holder = schema.person().await;
        end_the_life(&mut person).await;
        holder
            .run(
                "BEGIN; UPDATE sessions SET revoked_at = now() WHERE token_digest = sha256('slow')",
            )
            .await;

        // Reads, logins, changes and housekeeping wait for nobody.
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
        assert!(read.xmin <= new_rows.rows[0].xid, "the copy is older");

        // Its row goes by its age like any other, and copies from before it are not served then.
        person.run("UPDATE session_journal SET at = now() - interval '2 hours'").await;
        assert_eq!(store.purge_journal(HOUR).await.unwrap(), 2);
        assert!(store.journal_since(None).await.unwrap().floor > read.xmin);
    })
    .await;
}

fn sessions_of(rows: &[session_layer::store::JournalRow]) -> Vec<SessionId> {
    rows.iter().map(|row| changed(row).0).collect()
}

/// The same, and it raises a user's epoch: a login that began before its COMMIT is refused.
#[tokio::test]
async fn epoch_raised_by_a_transaction_of_before_the_life_refuses_a_login_under_way() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        login(&store, "old", "alice").await;
        let mut person = schema.person().await;
        let mut holder = schema.person().await;
        holder
            .run("BEGIN; UPDATE session_users SET epoch = epoch + 1 WHERE user_id = 'alice'")
            .await;
        end_the_life(&mut person).await;
        let mut begun = new("alice");
        begun.begun = Some(store.login_snapshot().await.unwrap());
        // As after a restart: it was prepared in another run of the server.
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
        // It is not forgotten either.
        person
            .run(
                "DELETE FROM sessions;
                 ALTER TABLE session_users DISABLE TRIGGER USER;
                 UPDATE session_users SET created_at = now() - interval '2 hours', raised_at = \
                 now() - interval '2 hours';
                 ALTER TABLE session_users ENABLE TRIGGER USER",
            )
            .await;
        assert_eq!(store.sweep_users(HOUR, None, 10).await.unwrap().removed, 0);
        alive({
            login(&store, "new", "alice").await;
            load(&store, "new").await
        });
    })
    .await;
}

/// A page skips the rows of transactions that are open by their ids: it does not look at each of
/// them.
#[tokio::test]
async fn rows_of_open_transactions_are_not_looked_at() {
    const OPEN: i64 = 20_000;
    in_schema(|schema| async move {
        let store = schema.store().await;
        let before = journal_from(&store, None).await;
        login(&store, "a", "alice").await;
        let mut holder = schema.person().await;
        holder
            .run(&format!(
                "BEGIN; INSERT INTO session_journal (kind, session_id)
                 SELECT 'revoked', gen_random_uuid() FROM generate_series(1, {OPEN})"
            ))
            .await;
        revoke(&store, Target::Token(token("a"))).await;
        store.close().await;

        // Once while the transaction is newer than the last read, and once while it was running
        // then.
        let mut watcher = schema.person().await;
        let mark = if url().contains('?') { '&' } else { '?' };
        let named = format!("{}{mark}application_name={}", url(), schema.name);
        let reader = schema.builder_at(&named).build().unwrap();
        let looked_at = looked_at(&mut watcher, &schema).await;
        let first = journal_from(&reader, Some(&before.next)).await;
        assert_eq!(first.rows.len(), 1);
        let second = journal_from(&reader, Some(&first.next)).await;
        assert_eq!(second.rows.len(), 0);
        reader.close().await;
        let looked_at = self::looked_at(&mut watcher, &schema).await - looked_at;
        assert!(looked_at < 100, "{looked_at} entries of the index");

        holder.run("COMMIT").await;
        // Then each is looked at once, and not once for each page.
        let reader = schema.builder_at(&named).build().unwrap();
        let before = self::looked_at(&mut watcher, &schema).await;
        let last = journal_from(&reader, Some(&second.next)).await;
        assert_eq!(i64::try_from(last.rows.len()).unwrap(), OPEN);
        reader.close().await;
        let looked_at = self::looked_at(&mut watcher, &schema).await - before;
        assert!(looked_at < OPEN + 100, "{looked_at} entries of the index");
    })
    .await;
}

/// How many entries of the journal's index were looked at, as of when the reader's connections were
/// gone.
async fn looked_at(watcher: &mut Person, schema: &Schema) -> i64 {
    let open =
        format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}'", schema.name);
    while watcher.ask::<i64>(&open).await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    watcher
        .ask(
            "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelid = \
              'session_journal_page'::regclass",
        )
        .await
}

/// A cut-over that left the old server up and writable. The journal is read on the new one.
#[tokio::test]
async fn change_on_a_server_whose_journal_is_not_read_is_uncertain() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        login(&store, "a", "alice").await;
        let mut person = schema.person().await;
        let _journal_of_before = store.journal_since(None).await.unwrap();
        // The reads' and the changes' connections are answered from another life from now on.
        end_the_life(&mut person).await;
        let _life: uuid::Uuid = person.ask("SELECT begin_life()").await;

        let looked_up = store.digests(&Target::Token(token("a"))).await;
        let refused = looked_up.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::NotAuthoritative);
        assert!(refused.to_string().contains("nothing was changed"));
        for made in [
            store.revoke(&Target::Token(token("a")), "test").await.map(drop),
            store.revoke(&of_user("alice"), "test").await.map(drop),
            store.create(token("b"), &new("bob")).await.map(drop),
        ] {
            assert_eq!(made.unwrap_err().kind(), StoreErrorKind::Uncertain);
        }

        // Once the journal is read there, changes count: one that waits for it, and later ones.
        login_while_the_journal_follows(&store).await;
        let rows = journal_from(&store, None).await.rows;
        assert!(matches!(
            rows.last().map(|row| &row.change),
            Some(JournalChange::User { .. } | JournalChange::Session { .. })
        ));
        login(&store, "d", "dave").await;
    })
    .await;
}

async fn login_while_the_journal_follows(store: &session_layer::store::PostgresStore) {
    let carol = new("carol");
    let (created, read) = tokio::join!(store.create(token("c"), &carol), store.journal_since(None));
    assert!(matches!(created.unwrap(), Creation::Created(_)));
    read.unwrap();
}

/// A transaction that removes its own rows from the journal leaves one that ends every copy: a life
/// may begin before it commits.
#[tokio::test]
async fn transaction_that_deletes_its_own_journal_rows_ends_every_copy() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        login(&store, "a", "alice").await;
        let mut person = schema.person().await;
        let mut holder = schema.person().await;
        end_the_life(&mut person).await;
        holder
            .run("BEGIN; UPDATE sessions SET revoked_at = now(); DELETE FROM session_journal")
            .await;
        let read = store.load(&[token("a")]).await.unwrap();
        assert!(matches!(read.rows[..], [Row::Alive { .. }]));
        holder.run("COMMIT").await;
        let rows = journal_from(&store, None).await.rows;
        assert!(rows.iter().any(|row| row.change == JournalChange::All && read.xmin <= row.xid));
    })
    .await;
}

/// The row of an earlier run may be locked by a transaction that was prepared in it.
#[tokio::test]
async fn life_begins_beside_the_locked_row_of_an_earlier_one() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        login(&store, "a", "alice").await;
        let mut person = schema.person().await;
        person.run("UPDATE session_life SET started = started - interval '1 day'").await;
        let mut holder = schema.person().await;
        holder.run("BEGIN; SELECT FROM session_life FOR UPDATE").await;
        alive(load(&store, "a").await);
        holder.run("COMMIT").await;
        let lives: i64 = person.ask("SELECT count(*) FROM session_life").await;
        assert_eq!(lives, 2, "the earlier one goes when another life begins");
    })
    .await;
}

/// Operators rename users, and merge them.
#[tokio::test]
async fn user_row_with_another_name_ends_the_sessions_of_that_user_in_the_journal() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        login(&store, "carol", "carol").await;
        revoke(&store, of_user("carol")).await;
        login(&store, "bob", "bob").await;
        let before = journal_from(&store, None).await.next;
        let mut person = schema.person().await;
        person
            .run(
                "DELETE FROM session_users WHERE user_id = 'bob';
                 UPDATE session_users SET user_id = 'bob' WHERE user_id = 'carol'",
            )
            .await;
        assert!(matches!(load(&store, "bob").await, Row::Revoked));
        let rows = journal_from(&store, Some(&before)).await.rows;
        let user = |row: &session_layer::store::JournalRow| {
            matches!(&row.change, JournalChange::User { user_id, .. } if user_id == "bob")
        };
        assert!(rows.iter().any(user), "{rows:?}");
    })
    .await;
}

/// All rows of users go at once: what their epochs had ended stays ended.
#[tokio::test]
async fn truncated_users_bring_no_session_back() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        login(&store, "frank", "frank").await;
        let mut person = schema.person().await;
        person.run("UPDATE session_users SET epoch = epoch + 1").await;
        person.run("TRUNCATE session_users").await;
        assert!(matches!(load(&store, "frank").await, Row::Revoked));
    })
    .await;
}

/// A session on its way to another user, and a revoke-all of its first user at that time.
#[tokio::test]
async fn session_given_to_another_user_does_not_escape_a_revoke_all() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        for name in ["dave", "erin"] {
            login(&store, name, name).await;
        }
        let mut revoker = schema.person().await;
        revoker
            .run("BEGIN; UPDATE session_users SET epoch = epoch + 1 WHERE user_id = 'dave'")
            .await;
        let pid = revoker.pid().await;
        let mut person = schema.person().await;
        let moving = tokio::spawn(async move {
            person.run("UPDATE sessions SET user_id = 'erin' WHERE user_id = 'dave'").await
        });
        schema.person().await.until_waiting_for(pid).await;
        revoker.run("COMMIT").await;
        moving.await.unwrap();
        assert!(matches!(load(&store, "dave").await, Row::Revoked));
        alive(load(&store, "erin").await);
    })
    .await;
}
