//! Housekeeping removes what is old, and nothing that a node still needs.

use std::time::Duration;

use session_layer::cache::CacheId;
use session_layer::store::{JournalChange, NodeRegistration, Row, SessionStore, Target};

use session_testkit::wait;

use super::support::Schema;
use crate::stores::support::{
    HOUR, alive, changed, journal_from, load, login, of_user, purged, revoke, token,
};
use crate::support::SOON;

const OLD: &str = "UPDATE session_journal SET at = now() - interval '1 hour'";

#[tokio::test]
async fn purging_raises_the_floor_past_what_it_removes() {
    let (schema, store) = Schema::with_store().await;
    for name in ["a", "b", "c"] {
        login(&store, name, "alice").await;
    }
    revoke(&store, Target::Token(token("a"))).await;
    revoke(&store, Target::Token(token("b"))).await;
    schema.run(OLD).await;
    revoke(&store, Target::Token(token("c"))).await;
    let before = store.journal_since(None).await.unwrap();
    assert_eq!((before.rows.len(), before.floor), (3, 0));

    assert_eq!(store.purge_journal(HOUR * 2).await.unwrap(), 0);
    purged(&store, HOUR / 2, 2).await;
    let after = store.journal_since(None).await.unwrap();
    assert_eq!(after.rows, before.rows[2..]);
    assert_eq!(after.floor, before.rows[1].xid + 1);
    // A read from an older position returns it too.
    let since = store.journal_since(Some(&before.next)).await.unwrap();
    assert_eq!(since.floor, after.floor);
    assert_eq!(store.purge_journal(HOUR / 2).await.unwrap(), 0);
    let again = store.journal_since(None).await.unwrap();
    assert_eq!(again.floor, after.floor, "the floor never falls");
}

#[tokio::test]
async fn emptying_the_journal_by_sql_raises_the_floor() {
    let (_schema, store, mut operator) = Schema::with_operator().await;
    for name in ["a", "b", "c"] {
        login(&store, name, "alice").await;
    }
    let read_before = store.load(&[token("a")]).await.unwrap();
    revoke(&store, Target::Token(token("a"))).await;
    let journal = store.journal_since(None).await.unwrap();
    operator.run("DELETE FROM session_journal").await;
    let after = store.journal_since(None).await.unwrap();
    assert_eq!((after.rows.len(), after.floor), (0, journal.rows[0].xid + 1));
    assert!(read_before.xmin < after.floor, "no entry of that read is served");

    let read_before = store.load(&[token("b")]).await.unwrap();
    revoke(&store, Target::Token(token("b"))).await;
    operator.run("TRUNCATE session_journal").await;
    let after = store.journal_since(None).await.unwrap();
    assert!(matches!(&after.rows[..], [row] if row.change == JournalChange::All));
    assert!(read_before.xmin < after.floor);

    operator.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    let refused = operator.try_run("TRUNCATE session_journal").await;
    assert!(refused.is_err(), "its snapshot may be older than the lost rows");
    operator.run("ROLLBACK").await;

    // Ids of another server, far beyond this one's, do not stop fresh entries from being served.
    revoke(&store, Target::Token(token("c"))).await;
    operator
        .run(
            "UPDATE session_journal SET xid = '9999999999'; \
                 DELETE FROM session_journal; DELETE FROM session_journal",
        )
        .await;
    let after = store.journal_since(None).await.unwrap();
    login(&store, "d", "alice").await;
    // Transactions of other tests on this server hold xmin back.
    wait::until("a fresh read", SOON, async || {
        store.load(&[token("d")]).await.unwrap().xmin >= after.floor
    })
    .await
    .unwrap();
}

// A page is bounded, and therefore the memory of a node that reads a large journal.
#[tokio::test]
async fn large_journal_is_read_in_pages_and_each_row_once() {
    let (schema, store) = Schema::with_store().await;
    let empty = store.journal_since(None).await.unwrap();
    assert!(empty.rows.is_empty() && empty.is_complete());
    let mut operator = schema.operator().await;
    operator
        .run(
            "INSERT INTO session_journal (kind, session_id)
                 SELECT 'revoked', gen_random_uuid() FROM generate_series(1, 12000)",
        )
        .await;
    let mut dump = schema.operator().await;
    dump.run("BEGIN; SELECT pg_current_xact_id()").await;
    let first = store.journal_since(None).await.unwrap();
    assert_eq!((first.rows.len(), first.is_complete()), (5_000, false));
    // The transaction commits between two pages. The first page's snapshot does not show it.
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
    assert!(!rest.rows.is_empty(), "the row that was committed late");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 12_001);
    // No row is read twice although a transaction is open.
    dump.run("BEGIN; SELECT pg_current_xact_id()").await;
    let seen = journal_from(&store, Some(&rest.next)).await;
    assert_eq!(seen.rows.len(), 0);
    let again = journal_from(&store, Some(&seen.next)).await;
    assert_eq!(again.rows.len(), 0);
    dump.run("COMMIT").await;
}

// The xmin of every read shows that the transaction is running. A purge past it would reject every
// fresh entry until the transaction ends.
#[tokio::test]
async fn purge_stops_at_a_running_transaction() {
    let (schema, store) = Schema::with_store().await;
    let (mut dump, mut operator) = (schema.operator().await, schema.operator().await);
    login(&store, "a", "alice").await;
    dump.run("BEGIN; SELECT pg_current_xact_id()").await;
    revoke(&store, Target::Token(token("a"))).await;
    operator.run(OLD).await;
    assert_eq!(store.purge_journal(HOUR / 2).await.unwrap(), 0);
    let fresh = store.load(&[token("a")]).await.unwrap();
    let journal = store.journal_since(None).await.unwrap();
    assert!(journal.floor <= fresh.xmin);
    dump.run("COMMIT").await;
    purged(&store, HOUR / 2, 1).await;
    let fresh = store.load(&[token("a")]).await.unwrap();
    let journal = store.journal_since(None).await.unwrap();
    assert!(0 < journal.floor && journal.floor <= fresh.xmin);
}

// Such rows came with a dump, or are from before the server's start.
#[tokio::test]
async fn journal_rows_of_other_lives_are_neither_read_nor_kept() {
    let (schema, store) = Schema::with_store().await;
    for name in ["a", "b", "c"] {
        login(&store, name, "alice").await;
        revoke(&store, Target::Token(token(name))).await;
    }
    for foreign in ["900000000000", "3"] {
        schema
            .run(&format!(
                "UPDATE session_journal SET xid = '{foreign}' WHERE id = (
                       SELECT min(id) FROM session_journal WHERE xid NOT IN ('900000000000', '3'))"
            ))
            .await;
    }
    assert_eq!(store.journal_since(None).await.unwrap().rows.len(), 1);
    assert_eq!(store.purge_journal(HOUR).await.unwrap(), 2);
    let after = store.journal_since(None).await.unwrap();
    // Their transaction ids do not count here.
    assert_eq!((after.rows.len(), after.floor), (1, 0));
}

// Otherwise a call could remove every active session, or every row that a node needs.
#[tokio::test]
async fn housekeeping_rejects_negative_spans_and_other_roles() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "a", "alice").await;
    let mut owner = schema.operator().await;
    for call in [
        "sweep_sessions(interval '-1 day', 100)",
        "sweep_sessions(NULL, 100)",
        "sweep_sessions(interval '1 day', -1)",
        "purge_journal(interval '-1 second')",
        // Positive if a month has 30 days, and negative in the calendar.
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
    let mut other = schema.operator_as(role).await;
    for call in [
        "sweep_sessions(interval '0', 100)",
        "purge_journal(interval '0')",
        "sweep_users(interval '0', NULL, 100)",
        "begin_life()",
        "register_node(gen_random_uuid(), sha256('x'), interval '1 day')",
        "forget_node(gen_random_uuid())",
    ] {
        let refused = other.try_run(&format!("SELECT {call}")).await.unwrap_err();
        assert!(refused.to_string().contains("permission denied"), "{call}: {refused}");
    }
    alive(load(&store, "a").await);
}

#[tokio::test]
async fn sweeper_deletes_sessions_that_ended_long_ago_in_batches() {
    let (schema, store, mut operator) = Schema::with_operator().await;
    for name in ["alive", "r1", "r2", "expired", "fresh", "locked"] {
        login(&store, name, "alice").await;
    }
    operator
        .run(
            "UPDATE sessions SET revoked_at = now() - interval '2 hours'
                  WHERE token_digest IN (sha256('r1'), sha256('r2'), sha256('locked'));
                 UPDATE sessions SET expires_at = now() - interval '2 hours'
                  WHERE token_digest = sha256('expired');
                 UPDATE sessions SET revoked_at = now() WHERE token_digest = sha256('fresh')",
        )
        .await;
    let journal = store.journal_since(None).await.unwrap().rows.len();
    let mut holder = schema.operator().await;
    holder.run("BEGIN").await;
    holder.run("SELECT FROM sessions WHERE token_digest = sha256('locked') FOR UPDATE").await;
    let mut swept = Vec::new();
    for _ in 0..3 {
        swept.push(store.sweep(HOUR, 2).await.unwrap());
    }
    assert_eq!(swept, [2, 1, 0], "in batches and without waiting for a lock");
    holder.run("COMMIT").await;
    assert_eq!(store.sweep(HOUR, 2).await.unwrap(), 1);

    alive(load(&store, "alive").await);
    assert!(matches!(load(&store, "fresh").await, Row::Revoked));
    assert!(matches!(load(&store, "r1").await, Row::Absent));
    let after = store.journal_since(None).await.unwrap().rows.len();
    assert_eq!(after, journal, "the removal of ended sessions writes no journal rows");
}

#[tokio::test]
async fn users_without_sessions_are_removed_unless_a_login_needs_them() {
    let (schema, store, mut operator) = Schema::with_operator().await;
    for user in ["active", "idle", "raised", "raised before", "young"] {
        login(&store, user, user).await;
    }
    for user in ["raised", "raised before"] {
        revoke(&store, of_user(user)).await;
    }
    operator
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
    // A user that a login holds is kept.
    let mut holder = schema.operator().await;
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
    let left: String =
        operator.ask("SELECT string_agg(user_id, ', ' ORDER BY user_id) FROM session_users").await;
    assert_eq!(left, "active, raised, young");
    login(&store, "again", "raised before").await;
    alive(load(&store, "again").await);
}

// Otherwise one transaction with very many rows could delay a node beyond its bound. One row stands
// for the rest, and rejects everything from before it.
#[tokio::test]
async fn rows_of_a_huge_transaction_are_truncated() {
    let (schema, store) = Schema::with_store().await;
    let before = journal_from(&store, None).await.next;
    for rows in [20_000, 70_000] {
        schema
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
}

// A node may need its TTL (at most a day), D (at most four days) and a minute. With less, it would
// serve entries after its registration has expired.
#[tokio::test]
async fn registration_lasts_as_long_as_any_node_needs() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let (_schema, store, mut operator) = Schema::with_operator().await;
    for (days, shown) in [(6, 6), (400, 7)] {
        let node =
            NodeRegistration { id: [7; 16], cache: CacheId::of(&[b"a cache"]), lasts: days * DAY };
        store.register_node(&node).await.unwrap();
        let lasts: i32 = operator
            .ask(
                "SELECT round(extract(epoch FROM until - now()) / 86400)::integer FROM \
                      session_nodes",
            )
            .await;
        assert_eq!(lasts, shown);
    }
}
