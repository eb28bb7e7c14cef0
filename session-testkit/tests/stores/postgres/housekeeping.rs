//! What is old goes, and nothing that anyone still needs goes with it.

use std::time::Duration;

use session_layer::store::{JournalPosition, PostgresStore, Row, SessionStore, Target};

use super::support::in_schema;
use crate::support::{HOUR, alive, load, login, revoke, token};

const OLD: &str = "UPDATE session_journal SET at = now() - interval '1 hour'";

/// Purges until so many rows are gone: transactions of other tests on this server delay it.
async fn purged(store: &PostgresStore, keep: Duration, wanted: u64) {
    let mut removed = 0;
    for _ in 0..500 {
        removed += store.purge_journal(keep).await.unwrap();
        if removed >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(removed, wanted);
}

#[tokio::test]
async fn purging_raises_the_floor_past_what_it_removes() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let mut person = schema.person().await;
        for name in ["a", "b", "c"] {
            login(&store, name, "alice").await;
        }
        revoke(&store, Target::Token(token("a"))).await;
        revoke(&store, Target::Token(token("b"))).await;
        person.run(OLD).await;
        revoke(&store, Target::Token(token("c"))).await;
        let before = store.journal_since(None).await.unwrap();
        assert_eq!((before.rows.len(), before.floor), (3, 0));

        assert_eq!(store.purge_journal(HOUR * 2).await.unwrap(), 0);
        purged(&store, HOUR / 2, 2).await;
        let after = store.journal_since(None).await.unwrap();
        assert_eq!(after.rows, before.rows[2..]);
        assert_eq!(after.floor, before.rows[1].xid + 1);
        // Whoever reads from an older position learns of it too.
        let since = store.journal_since(Some(before.next)).await.unwrap();
        assert_eq!(since.floor, after.floor);
        assert_eq!(store.purge_journal(HOUR / 2).await.unwrap(), 0);
        let again = store.journal_since(None).await.unwrap();
        assert_eq!(again.floor, after.floor, "it never comes down");
    })
    .await;
}

#[tokio::test]
async fn whoever_empties_the_journal_by_hand_raises_the_floor_too() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let mut person = schema.person().await;
        for name in ["a", "b", "c"] {
            login(&store, name, "alice").await;
        }
        let read_before = store.load(&[token("a")]).await.unwrap();
        revoke(&store, Target::Token(token("a"))).await;
        let journal = store.journal_since(None).await.unwrap();
        person.run("DELETE FROM session_journal").await;
        let after = store.journal_since(None).await.unwrap();
        assert_eq!((after.rows.len(), after.floor), (0, journal.rows[0].xid + 1));
        assert!(read_before.xmin < after.floor, "no copy of that read is believed");

        let read_before = store.load(&[token("b")]).await.unwrap();
        revoke(&store, Target::Token(token("b"))).await;
        person.run("TRUNCATE session_journal").await;
        let after = store.journal_since(None).await.unwrap();
        assert!(after.rows.is_empty() && read_before.xmin < after.floor);

        person.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
        let refused = person.try_run("TRUNCATE session_journal").await;
        assert!(refused.is_err(), "its snapshot may be older than what is lost");
        person.run("ROLLBACK").await;

        // Of another system, and far beyond this one's: fresh copies are believed all the same.
        revoke(&store, Target::Token(token("c"))).await;
        person
            .run("UPDATE session_journal SET xid = '9999999999'; DELETE FROM session_journal; DELETE FROM session_journal")
            .await;
        let after = store.journal_since(None).await.unwrap();
        login(&store, "d", "alice").await;
        let mut fresh = store.load(&[token("d")]).await.unwrap().xmin;
        for _ in 0..500 {
            if fresh >= after.floor {
                break;
            }
            // Transactions of other tests on this server.
            tokio::time::sleep(Duration::from_millis(10)).await;
            fresh = store.load(&[token("d")]).await.unwrap().xmin;
        }
        assert!(fresh >= after.floor, "{fresh} < {}", after.floor);
    })
    .await;
}

/// Somebody has ended a great many sessions at once: it takes longer than a read may take, and does not get less.
#[tokio::test]
async fn a_large_journal_is_read_with_more_patience() {
    in_schema(|schema| async move {
        let _migrated = schema.store().await;
        let mut person = schema.person().await;
        person
            .run(
                "INSERT INTO session_journal (kind, session_id)
                 SELECT 'revoked', gen_random_uuid() FROM generate_series(1, 100000)",
            )
            .await;
        let store = schema
            .builder_at(&super::support::url())
            .read_deadline(Duration::from_millis(25))
            .connect_lazy()
            .unwrap();
        let mut tries = 0;
        let read = loop {
            tries += 1;
            match store.journal_since(None).await {
                Ok(read) => break read,
                Err(error) => assert!(tries < 12, "{error}"),
            }
        };
        assert_eq!(read.rows.len(), 100_000);
        assert!(tries > 1, "that was no test of patience");
        let since = store.journal_since(Some(read.next)).await.unwrap();
        assert!(since.rows.len() <= 100_000);
    })
    .await;
}

/// Every read says as its xmin that the transaction is running: purged past it, no fresh copy would be
/// believed for as long.
#[tokio::test]
async fn nothing_is_purged_past_a_transaction_that_is_running() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let (mut dump, mut person) = (schema.person().await, schema.person().await);
        login(&store, "a", "alice").await;
        dump.run("BEGIN").await;
        let _xid: String = dump.ask("SELECT pg_current_xact_id()::text").await;
        revoke(&store, Target::Token(token("a"))).await;
        person.run(OLD).await;
        assert_eq!(store.purge_journal(HOUR / 2).await.unwrap(), 0);
        let fresh = store.load(&[token("a")]).await.unwrap();
        let journal = store.journal_since(None).await.unwrap();
        assert!(journal.floor <= fresh.xmin);
        dump.run("COMMIT").await;
        purged(&store, HOUR / 2, 1).await;
        let fresh = store.load(&[token("a")]).await.unwrap();
        let journal = store.journal_since(None).await.unwrap();
        assert!(0 < journal.floor && journal.floor <= fresh.xmin);
    })
    .await;
}

#[tokio::test]
async fn a_position_of_another_life_reads_from_the_start() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        login(&store, "a", "alice").await;
        revoke(&store, Target::Token(token("a"))).await;
        let all = store.journal_since(None).await.unwrap();
        let beyond = JournalPosition {
            xid: all.next.xid + 1_000_000,
            ..all.next
        };
        let none = store.journal_since(Some(beyond)).await.unwrap();
        assert!(none.rows.is_empty());
        let promoted = JournalPosition {
            life: beyond.life ^ 1,
            ..beyond
        };
        let read = store.journal_since(Some(promoted)).await.unwrap();
        assert_eq!(read.rows, all.rows);
        assert_eq!(read.next.life, all.next.life);
    })
    .await;
}

#[tokio::test]
async fn the_sweeper_deletes_what_ended_long_ago_in_batches() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let mut person = schema.person().await;
        for name in ["alive", "r1", "r2", "expired", "fresh", "locked"] {
            login(&store, name, "alice").await;
        }
        person
            .run(
                "UPDATE sessions SET revoked_at = now() - interval '2 hours'
                  WHERE token_digest IN (sha256('r1'), sha256('r2'), sha256('locked'));
                 UPDATE sessions SET expires_at = now() - interval '2 hours'
                  WHERE token_digest = sha256('expired');
                 UPDATE sessions SET revoked_at = now() WHERE token_digest = sha256('fresh')",
            )
            .await;
        let journal = store.journal_since(None).await.unwrap().rows.len();
        let mut holder = schema.person().await;
        holder.run("BEGIN").await;
        holder
            .run("SELECT FROM sessions WHERE token_digest = sha256('locked') FOR UPDATE")
            .await;
        let mut swept = Vec::new();
        for _ in 0..3 {
            swept.push(store.sweep(HOUR, 2).await.unwrap());
        }
        assert_eq!(swept, [2, 1, 0], "in batches, and nobody waits for a lock");
        holder.run("COMMIT").await;
        assert_eq!(store.sweep(HOUR, 2).await.unwrap(), 1);

        alive(load(&store, "alive").await);
        assert!(matches!(load(&store, "fresh").await, Row::Revoked));
        assert!(matches!(load(&store, "r1").await, Row::Absent));
        let after = store.journal_since(None).await.unwrap().rows.len();
        assert_eq!(after, journal, "the dead are no news");
    })
    .await;
}

/// A role that may do to the rows what the application must do, and no more.
#[tokio::test]
async fn rights_on_the_rows_suffice() {
    in_schema(|schema| async move {
        let owner = schema.store().await;
        let mut person = schema.person().await;
        schema
            .role(&format!(
                "GRANT SELECT, INSERT, UPDATE ON sessions, session_users TO {0}; \
                 GRANT SELECT ON session_journal TO {0}",
                schema.name
            ))
            .await;
        let store = schema
            .builder_at(&super::support::url_with("role", &schema.name))
            .connect_lazy()
            .unwrap();
        login(&store, "a", "alice").await;
        revoke(&store, Target::Token(token("a"))).await;
        person.run(OLD).await;
        person
            .run("UPDATE sessions SET revoked_at = now() - interval '1 hour'")
            .await;
        person.run(OLD).await;
        purged(&store, Duration::from_secs(60), 2).await;
        assert_eq!(store.sweep(Duration::from_secs(60), 10).await.unwrap(), 1);
        assert!(matches!(load(&owner, "a").await, Row::Absent));
    })
    .await;
}
