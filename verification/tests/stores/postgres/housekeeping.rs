//! What is old goes, and nothing that anyone still needs goes with it.

use std::time::Duration;

use session_layer::cache::CacheId;
use session_layer::store::{
    JournalChange, JournalPosition, NodeRegistration, PostgresStore, Row, SessionStore, Target,
    grants,
};

use super::support::in_schema;
use crate::stores::support::{
    HOUR, alive, changed, journal_from, load, login, of_user, revoke, token,
};

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
        let since = store.journal_since(Some(&before.next)).await.unwrap();
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
        assert!(matches!(&after.rows[..], [row] if row.change == JournalChange::All));
        assert!(read_before.xmin < after.floor);

        person.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
        let refused = person.try_run("TRUNCATE session_journal").await;
        assert!(refused.is_err(), "its snapshot may be older than what is lost");
        person.run("ROLLBACK").await;

        // Of another server, and far beyond this one's: fresh copies are served all the same.
        revoke(&store, Target::Token(token("c"))).await;
        person
            .run(
                "UPDATE session_journal SET xid = '9999999999'; \
                 DELETE FROM session_journal; DELETE FROM session_journal",
            )
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

/// A page is bounded, and so is what a node holds of a journal with any number of rows.
#[tokio::test]
async fn a_large_journal_is_read_in_pages_and_each_row_once() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let empty = store.journal_since(None).await.unwrap();
        assert!(empty.rows.is_empty() && empty.is_complete());
        let mut person = schema.person().await;
        person
            .run(
                "INSERT INTO session_journal (kind, session_id)
                 SELECT 'revoked', gen_random_uuid() FROM generate_series(1, 12000)",
            )
            .await;
        let mut dump = schema.person().await;
        dump.run("BEGIN").await;
        let _xid: String = dump.ask("SELECT pg_current_xact_id()::text").await;
        let first = store.journal_since(None).await.unwrap();
        assert_eq!((first.rows.len(), first.is_complete()), (5_000, false));
        // Committed between two pages: of a transaction that the first page's snapshot does not
        // show.
        dump.run(
            "INSERT INTO session_journal (kind, session_id) VALUES ('revoked', gen_random_uuid())",
        )
        .await;
        dump.run("COMMIT").await;
        let second = store.journal_since(Some(&first.next)).await.unwrap();
        let third = journal_from(&store, Some(&second.next)).await;
        let rest = journal_from(&store, Some(&third.next)).await;
        let mut ids: Vec<_> = [&first, &second, &third, &rest]
            .iter()
            .flat_map(|read| read.rows.iter().map(|row| changed(row).0))
            .collect();
        assert!(!rest.rows.is_empty(), "the one that committed late");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 12_001);
        // What was visible does not come again, though a transaction is open all the while.
        dump.run("BEGIN").await;
        let _xid: String = dump.ask("SELECT pg_current_xact_id()::text").await;
        let seen = journal_from(&store, Some(&rest.next)).await;
        assert_eq!(seen.rows.len(), 0);
        let again = journal_from(&store, Some(&seen.next)).await;
        assert_eq!(again.rows.len(), 0);
        dump.run("COMMIT").await;
    })
    .await;
}

/// Every read says as its xmin that the transaction is running: purged past it, no fresh copy would
/// be believed for as long.
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
        let none = store.journal_since(Some(&all.next)).await.unwrap();
        assert!(none.rows.is_empty());
        let other = JournalPosition { store_id: [1; 16], ..all.next.clone() };
        let read = store.journal_since(Some(&other)).await.unwrap();
        assert_eq!(read.rows, all.rows);
        assert_eq!(read.store_id, all.store_id);
    })
    .await;
}

/// Rows that came with a dump, or from before the server's start: no node reads them, and they are
/// removed.
#[tokio::test]
async fn journal_rows_of_no_transaction_of_this_life_are_neither_read_nor_kept() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let mut person = schema.person().await;
        for name in ["a", "b", "c"] {
            login(&store, name, "alice").await;
            revoke(&store, Target::Token(token(name))).await;
        }
        for foreign in ["900000000000", "3"] {
            person
                .run(&format!(
                    "UPDATE session_journal SET xid = '{foreign}' WHERE id = (
                       SELECT min(id) FROM session_journal WHERE xid NOT IN ('900000000000', '3'))"
                ))
                .await;
        }
        assert_eq!(store.journal_since(None).await.unwrap().rows.len(), 1);
        assert_eq!(store.purge_journal(HOUR).await.unwrap(), 2);
        let after = store.journal_since(None).await.unwrap();
        // Their transaction ids say nothing here.
        assert_eq!((after.rows.len(), after.floor), (1, 0));
    })
    .await;
}

/// With either, every live session or every row that a node needs could be removed.
#[tokio::test]
async fn housekeeping_refuses_negative_spans_and_strangers() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        login(&store, "a", "alice").await;
        let mut owner = schema.person().await;
        for call in [
            "sweep_sessions(interval '-1 day', 100)",
            "sweep_sessions(NULL, 100)",
            "sweep_sessions(interval '1 day', -1)",
            "purge_journal(interval '-1 second')",
            // More than none where a month has 30 days, and less in the calendar.
            "sweep_sessions(interval '-1200 months 36000 days', 100)",
            "purge_journal(interval '-1200 months 36000 days')",
            "sweep_users(interval '-1200 months 36000 days', NULL, 100)",
            "purge_journal(NULL)",
            "sweep_users(interval '-1 day', NULL, 100)",
        ] {
            let refused = owner.try_run(&format!("SELECT {call}")).await.unwrap_err();
            let code = refused.as_database_error().and_then(|e| e.code().map(|c| c.into_owned()));
            assert_eq!(code.as_deref(), Some("22023"), "{call}: {refused}");
        }
        let role = schema.role("").await;
        let mut stranger = schema.person_as(Some(&role)).await;
        for call in [
            "sweep_sessions(interval '0', 100)",
            "purge_journal(interval '0')",
            "sweep_users(interval '0', NULL, 100)",
            "begin_life()",
            "register_node(gen_random_uuid(), sha256('x'), interval '1 day')",
            "forget_node(gen_random_uuid())",
        ] {
            let refused = stranger.try_run(&format!("SELECT {call}")).await.unwrap_err();
            assert!(refused.to_string().contains("permission denied"), "{call}: {refused}");
        }
        alive(load(&store, "a").await);
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
        holder.run("SELECT FROM sessions WHERE token_digest = sha256('locked') FOR UPDATE").await;
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

#[tokio::test]
async fn users_without_sessions_go_if_no_login_needs_their_epoch() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let mut person = schema.person().await;
        for user in ["active", "idle", "raised", "raised before", "young"] {
            login(&store, user, user).await;
        }
        for user in ["raised", "raised before"] {
            revoke(&store, of_user(user)).await;
        }
        person
            .run(
                "DELETE FROM sessions WHERE user_id <> 'active';
                 ALTER TABLE session_users DISABLE TRIGGER USER;
                 UPDATE session_users SET raised_in = now() WHERE user_id = 'raised before';
                 UPDATE session_users SET created_at = now() - interval '2 hours', raised_at = \
                 raised_at - interval '2 hours'
                  WHERE user_id <> 'young';
                 ALTER TABLE session_users ENABLE TRIGGER USER",
            )
            .await;
        // One that a login holds is left alone.
        let mut holder = schema.person().await;
        holder.run("BEGIN; SELECT FROM session_users WHERE user_id = 'idle' FOR SHARE").await;
        let mut removed = Vec::new();
        let mut after = None;
        loop {
            let swept = store.sweep_users(HOUR, after.as_deref(), 2).await.unwrap();
            removed.push(swept.removed);
            after = swept.last;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(removed, [0, 1, 0, 0], "two at a time");
        holder.run("COMMIT").await;
        assert_eq!(store.sweep_users(HOUR, None, 100).await.unwrap().removed, 1);
        let left: String = person
            .ask("SELECT string_agg(user_id, ', ' ORDER BY user_id) FROM session_users")
            .await;
        assert_eq!(left, "active, raised, young");
        login(&store, "again", "raised before").await;
        alive(load(&store, "again").await);
    })
    .await;
}

/// A role that may do to the rows what the application must do, and no more.
#[tokio::test]
async fn rights_on_the_rows_suffice() {
    in_schema(|schema| async move {
        let owner = schema.store().await;
        let mut person = schema.person().await;
        schema.role(&grants(&schema.name, &schema.name)).await;
        let store =
            schema.builder_at(&super::support::url_with("role", &schema.name)).build().unwrap();
        login(&store, "a", "alice").await;
        revoke(&store, Target::Token(token("a"))).await;
        person.run(OLD).await;
        person.run("UPDATE sessions SET revoked_at = now() - interval '1 hour'").await;
        person.run(OLD).await;
        purged(&store, Duration::from_secs(60), 2).await;
        assert_eq!(store.sweep(Duration::from_secs(60), 10).await.unwrap(), 1);
        assert!(matches!(load(&owner, "a").await, Row::Absent));
    })
    .await;
}

/// One transaction with very many rows does not keep a node from its bound: the rest of its rows
/// count as one that stands for everything from before it.
#[tokio::test]
async fn rows_of_one_huge_transaction_are_cut_short() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let before = journal_from(&store, None).await.next;
        let mut person = schema.person().await;
        for rows in [20_000, 70_000] {
            person
                .run(&format!(
                    "INSERT INTO session_journal (kind, session_id)
                     SELECT 'revoked', gen_random_uuid() FROM generate_series(1, {rows})"
                ))
                .await;
        }
        login(&store, "a", "alice").await;
        revoke(&store, Target::Token(token("a"))).await;
        let rows = journal_from(&store, Some(&before)).await.rows;
        let huge = rows[20_000].xid;
        let of_huge: Vec<_> = rows.iter().filter(|row| row.xid == huge).collect();
        // The first page of them has the last 5,000 of the others.
        assert_eq!((rows.len(), of_huge.len()), (20_000 + 50_000 + 1 + 1, 50_001));
        assert_eq!(of_huge[50_000].change, JournalChange::All);
        assert!(rows.iter().filter(|row| row.change == JournalChange::All).count() == 1);
        let last = rows.last().unwrap();
        assert!(matches!(last.change, JournalChange::Session { .. }) && last.xid > huge);
    })
    .await;
}

/// A node may ask for its TTL (at most a day), D (at most four days) and a minute: for less, it
/// would serve copies after its registration has lapsed.
#[tokio::test]
async fn registration_lasts_for_as_long_as_any_node_may_ask() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    in_schema(|schema| async move {
        let store = schema.store().await;
        let mut person = schema.person().await;
        for (days, shown) in [(6, 6), (400, 7)] {
            let node = NodeRegistration {
                id: [7; 16],
                cache: CacheId::of(&[b"a cache"]),
                lasts: days * DAY,
            };
            store.register_node(&node).await.unwrap();
            let lasts: i32 = person
                .ask(
                    "SELECT round(extract(epoch FROM until - now()) / 86400)::integer FROM \
                      session_nodes",
                )
                .await;
            assert_eq!(lasts, shown);
        }
    })
    .await;
}
