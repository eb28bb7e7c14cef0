//! A row that no client would write affects only its own session.

use session_layer::limits::LIST_PAGE;
use session_layer::store::{JournalChange, Row, SessionStore as _, Target};
use sqlx::types::Uuid;

use super::support::Schema;
use crate::stores::support::{HOUR, alive, load, login, of_user, revoke, token};

#[tokio::test]
async fn unreadable_row_affects_only_its_session() {
    let (schema, store) = Schema::with_store().await;
    let names: Vec<String> = (0..128).map(|n| format!("t{n}")).collect();
    for name in &names {
        login(&store, name, name).await;
    }
    let mut operator = schema.operator().await;
    operator
        .run("ALTER TABLE sessions ALTER user_id DROP NOT NULL, ALTER expires_at DROP NOT NULL")
        .await;
    let large = "('\"' || repeat('x', 70000) || '\"')::json";
    for (name, change) in [
        ("t10", format!("data = {large}")),
        // It is stored as half a megabyte and read as 40 MB.
        ("t20", format!("data = {}", large.replace("70000", "40000000"))),
        ("t30", "user_id = NULL".to_owned()),
        ("t40", "expires_at = NULL".to_owned()),
        // These can be read, or have ended.
        ("t50", "last_seen_at = '294276-12-31', idle_timeout_s = 100".to_owned()),
        ("t60", "created_at = '-infinity', idle_timeout_s = 2147483647".to_owned()),
        ("t70", format!("revoked_at = now(), data = {large}")),
        ("t80", format!("expires_at = now() - interval '1 day', data = {large}")),
    ] {
        let changed = operator
            .run(&format!("UPDATE sessions SET {change} WHERE token_digest = sha256('{name}')"))
            .await;
        assert_eq!(changed, 1, "{name}");
    }
    let digests: Vec<_> = names.iter().map(|name| token(name)).collect();
    let loaded = store.load(&digests).await.unwrap();
    for (name, row) in names.iter().zip(loaded.rows) {
        match (name.as_str(), row) {
            ("t10" | "t20" | "t30" | "t40", Row::Unreadable(row)) => {
                let id: Uuid = operator
                    .ask(&format!("SELECT id FROM sessions WHERE token_digest = sha256('{name}')"))
                    .await;
                assert!(row.to_string().contains(&id.to_string()), "{row}");
            }
            ("t70", Row::Revoked) | ("t80", Row::Absent) => {}
            ("t10" | "t20" | "t30" | "t40" | "t70" | "t80", row) => panic!("{name}: {row:?}"),
            (_, row) => drop(alive(row)),
        }
    }
    // The list does not read data.
    let page = store.list("t10", None, LIST_PAGE).await.unwrap();
    assert_eq!(page.sessions.len(), 1);
    // The session can be ended whatever the row contains.
    for name in ["t10", "t30", "t50"] {
        assert_eq!(revoke(&store, Target::Token(token(name))).await.ended, 1);
        assert!(matches!(load(&store, name).await, Row::Revoked));
    }
    let rest = "DELETE FROM sessions WHERE revoked_at IS NULL";
    assert!(operator.run(rest).await > 100);
}

#[tokio::test]
async fn odd_digest_does_not_prevent_a_revocation() {
    let (schema, store) = Schema::with_store().await;
    for name in ["a", "b"] {
        login(&store, name, "alice").await;
    }
    schema
        .run("UPDATE sessions SET former_digests = ARRAY['short', NULL, sha256('c')]::bytea[]")
        .await;
    let one = revoke(&store, Target::Token(token("a"))).await;
    assert_eq!(one.digests, crate::stores::support::sorted(["a", "c"]));
    let all = revoke(&store, of_user("alice")).await;
    assert_eq!((all.ended, all.complete), (1, true));
}

#[tokio::test]
async fn odd_row_does_not_stop_the_journal() {
    let (schema, store) = Schema::with_store().await;
    let alice = login(&store, "a", "alice").await;
    let odd = [
        "(kind) VALUES ('updated')",
        "(kind, session_id, digest) VALUES ('updated', gen_random_uuid(), 'short')",
        "(kind, user_epoch) VALUES ('user', 3)",
        "(kind, user_id) VALUES ('user', 'bob')",
        "(kind, session_id, xid) VALUES ('revoked', gen_random_uuid(), '18446744073709551610')",
    ];
    for odd in odd {
        schema.run(&format!("INSERT INTO session_journal {odd}")).await;
    }
    revoke(&store, Target::Token(token("a"))).await;
    let rows = store.journal_since(None).await.unwrap().rows;
    let all = rows.iter().filter(|row| row.change == JournalChange::All);
    assert_eq!(all.count(), 3);
    let ended = rows.iter().filter_map(|row| match &row.change {
        JournalChange::Session { id, least_version: None, .. } => Some(*id),
        _ => None,
    });
    let ended: Vec<_> = ended.collect();
    assert_eq!(ended.len(), 2, "no transaction has had the last one's id");
    assert!(ended.contains(&alice.id()));
    assert_eq!(store.purge_journal(HOUR).await.unwrap(), 1);
}
