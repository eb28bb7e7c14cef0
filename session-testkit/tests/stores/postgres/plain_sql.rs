//! What a person does with plain SQL counts like what we do ourselves.

use session_layer::store::{JournalRow, PostgresStore, Row, SessionStore, Target};

use super::support::{Person, Schema, in_schema};
use crate::support::{HOUR, alive, load, login, made, of_user, sorted};

async fn journal(store: &PostgresStore) -> Vec<JournalRow> {
    store.journal_since(None).await.unwrap().rows
}

async fn prepared(schema: &Schema) -> (PostgresStore, Person) {
    let store = schema.store().await;
    for name in ["a", "b", "c"] {
        login(&store, name, "alice").await;
    }
    (store, schema.person().await)
}

#[tokio::test]
async fn an_update_revokes_raises_the_version_and_is_in_the_journal() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        let a = alive(load(&store, "a").await);
        person
            .run("UPDATE sessions SET revoked_at = now() WHERE token_digest = sha256('a')")
            .await;
        assert!(matches!(load(&store, "a").await, Row::Revoked));
        let version: i64 = person
            .ask("SELECT version FROM sessions WHERE token_digest = sha256('a')")
            .await;
        assert_eq!(version, 2);
        let rows = journal(&store).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].session_id, Some(a.id()));
        assert_eq!(rows[0].digests, sorted(["a"]));
        assert_eq!(rows[0].least_version, None);
    })
    .await;
}

#[tokio::test]
async fn the_version_cannot_be_set_back() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        person
            .run("UPDATE sessions SET data = '7', version = 1")
            .await;
        person
            .run("UPDATE sessions SET version = -1 WHERE token_digest = sha256('a')")
            .await;
        assert_eq!(alive(load(&store, "a").await).version(), 3);
        assert_eq!(alive(load(&store, "b").await).version(), 2);
        let rows = journal(&store).await;
        let versions: Vec<_> = rows.iter().map(|row| row.least_version).collect();
        assert_eq!(versions, [Some(2), Some(2), Some(2), Some(3)]);
    })
    .await;
}

#[tokio::test]
async fn only_a_last_seen_at_that_moves_forward_alone_is_a_touch() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        person.run("UPDATE sessions SET last_seen_at = now()").await;
        person.run("UPDATE sessions SET label = label").await;
        assert!(journal(&store).await.is_empty());
        assert_eq!(alive(load(&store, "a").await).version(), 1);

        for change in [
            "last_seen_at = last_seen_at - interval '1 hour'",
            "last_seen_at = now(), label = 'x'",
            "data = '1.0'",
            // Equal to jsonb, not to whoever reads it.
            "data = '1.00'",
            "expires_at = 'infinity'",
            "idle_timeout_s = 60",
            "persistent = true",
            "user_epoch = 1",
        ] {
            let before = alive(load(&store, "a").await).version();
            person
                .run(&format!(
                    "UPDATE sessions SET {change} WHERE token_digest = sha256('a')"
                ))
                .await;
            let after = alive(load(&store, "a").await).version();
            assert_eq!(after, before + 1, "{change}");
        }
        assert_eq!(journal(&store).await.len(), 8);
    })
    .await;
}

#[tokio::test]
async fn a_delete_of_the_living_is_in_the_journal_one_of_the_dead_is_not() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        let (rotated, _) = made(
            store
                .rotate(crate::support::token("c"), crate::support::token("d"), HOUR)
                .await
                .unwrap(),
        );
        person
            .run(
                "UPDATE sessions SET revoked_at = now() WHERE token_digest = sha256('a');
                 UPDATE sessions SET expires_at = now() WHERE token_digest = sha256('b')",
            )
            .await;
        let before = journal(&store).await.len();
        assert_eq!(person.run("DELETE FROM sessions").await, 3);
        let rows = journal(&store).await;
        assert_eq!(rows.len(), before + 1);
        let last = rows.last().unwrap();
        assert_eq!(last.session_id, Some(rotated.id()));
        assert_eq!(last.digests, sorted(["c", "d"]));
        assert_eq!(last.least_version, None);
        assert!(matches!(load(&store, "d").await, Row::Absent));
    })
    .await;
}

#[tokio::test]
async fn an_idle_session_is_deleted_without_a_word() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        person
            .run("UPDATE sessions SET idle_timeout_s = 5, last_seen_at = now() - interval '1 hour'")
            .await;
        let before = journal(&store).await.len();
        person.run("DELETE FROM sessions").await;
        assert_eq!(journal(&store).await.len(), before);
    })
    .await;
}

#[tokio::test]
async fn truncate_is_one_entry_for_all() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        person.run("TRUNCATE sessions").await;
        let rows = journal(&store).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].session_id, None);
        assert_eq!(rows[0].least_version, None);
        assert!(matches!(load(&store, "a").await, Row::Absent));
    })
    .await;
}

#[tokio::test]
async fn raising_the_epoch_by_hand_ends_every_session_and_no_later_one() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        person
            .run("UPDATE session_users SET epoch = epoch + 1")
            .await;
        for name in ["a", "b", "c"] {
            assert!(matches!(load(&store, name).await, Row::Revoked));
        }
        assert!(store.list("alice").await.unwrap().is_empty());
        // Also as copies: each is in the journal.
        let rows = journal(&store).await;
        let ended = rows.iter().filter(|row| row.least_version.is_none());
        assert_eq!(ended.count(), 3, "{rows:?}");
        login(&store, "d", "alice").await;
        alive(load(&store, "d").await);
        // Nothing is raised.
        person
            .run("UPDATE session_users SET epoch = epoch, user_id = user_id")
            .await;
        alive(load(&store, "d").await);
        assert_eq!(journal(&store).await.len(), 3);
        // A snapshot from before may lack a login that is under way.
        let older = "BEGIN ISOLATION LEVEL REPEATABLE READ; \
                     UPDATE session_users SET epoch = epoch + 1; COMMIT";
        let older = person.try_run(older).await.unwrap_err().to_string();
        assert!(older.contains("READ COMMITTED only"), "{older}");
        alive(load(&store, "d").await);
    })
    .await;
}

/// What was spared goes on, and nobody else's ends.
#[tokio::test]
async fn revoking_a_users_sessions_ends_each_once() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        login(&store, "bob", "bob").await;
        let spared = alive(load(&store, "b").await);
        store
            .revoke(
                &Target::User {
                    user_id: "alice".to_owned(),
                    keep: Some(spared.id()),
                },
                "stolen",
            )
            .await
            .unwrap();
        alive(load(&store, "b").await);
        alive(load(&store, "bob").await);
        let rows = journal(&store).await;
        assert_eq!(rows.len(), 3, "{rows:?}");
        let reason: String = person
            .ask("SELECT DISTINCT ended_reason FROM sessions WHERE revoked_at IS NOT NULL")
            .await;
        assert_eq!(reason, "stolen");
    })
    .await;
}

#[tokio::test]
async fn infinity_and_odd_values_do_not_hurt_a_read() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        person
            .run(
                "UPDATE sessions SET expires_at = 'infinity', created_at = '-infinity',
                   authenticated_at = '0044-03-15 BC', ip = '10.0.0.0/8', label = ''",
            )
            .await;
        let session = alive(load(&store, "a").await);
        assert!(session.expires_at().to_string().starts_with("9999-12-31"));
        let listed = store.list("alice").await.unwrap();
        assert_eq!(listed.len(), 3);
        assert_eq!(listed[0].ip, Some([10, 0, 0, 0].into()));
    })
    .await;
}

#[tokio::test]
async fn a_session_inserted_by_hand_is_one() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let mut person = schema.person().await;
        person
            .run(
                "INSERT INTO sessions (token_digest, user_id, expires_at)
                 VALUES (sha256(convert_to('a', 'UTF8')), 'alice', now() + interval '1 day')",
            )
            .await;
        let session = alive(load(&store, "a").await);
        assert_eq!(session.data_json(), "{}");
        let short = person
            .try_run(
                "INSERT INTO sessions (token_digest, user_id, expires_at)
                 VALUES ('short', 'alice', now())",
            )
            .await;
        assert!(short.is_err());
    })
    .await;
}

/// Else nobody of them could log in until it is that late again.
#[tokio::test]
async fn a_raise_from_before_the_clock_was_set_back_refuses_nobody() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        store.revoke(&of_user("alice"), "stolen").await.unwrap();
        let ahead = "UPDATE session_users SET raised_at = raised_at + interval '1 hour'";
        assert_eq!(person.run(ahead).await, 1);
        login(&store, "d", "alice").await;
        alive(load(&store, "d").await);
    })
    .await;
}

#[tokio::test]
async fn a_user_whose_epoch_came_with_a_dump_can_log_in() {
    in_schema(|schema| async move {
        let store = schema.store().await;
        let mut person = schema.person().await;
        login(&store, "a", "alice").await;
        // As after restoring a dump of a server that had counted far more transactions.
        person
            .run(
                "ALTER TABLE session_users DISABLE TRIGGER USER;
                 UPDATE session_users SET epoch = 3, raised_by = '900000000000';
                 ALTER TABLE session_users ENABLE TRIGGER USER",
            )
            .await;
        assert!(matches!(load(&store, "a").await, Row::Revoked));
        login(&store, "b", "alice").await;
        alive(load(&store, "b").await);
    })
    .await;
}
