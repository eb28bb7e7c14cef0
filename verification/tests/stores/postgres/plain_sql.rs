//! What a person does with plain SQL counts like what we do ourselves.

use session_layer::limits::LIST_PAGE;
use session_layer::store::{JournalChange, JournalRow, PostgresStore, Row, SessionStore, Target};

use super::support::{Person, Schema, in_schema};
use crate::stores::support::{HOUR, alive, changed, load, login, made, of_user, sorted};

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
        person.run("UPDATE sessions SET revoked_at = now() WHERE token_digest = sha256('a')").await;
        assert!(matches!(load(&store, "a").await, Row::Revoked));
        let version: i64 =
            person.ask("SELECT version FROM sessions WHERE token_digest = sha256('a')").await;
        assert_eq!(version, 2);
        let rows = journal(&store).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(changed(&rows[0]), (a.id(), sorted(["a"]), None));
    })
    .await;
}

#[tokio::test]
async fn the_version_cannot_be_set_back() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        person.run("UPDATE sessions SET data = '7', version = 1").await;
        person.run("UPDATE sessions SET version = -1 WHERE token_digest = sha256('a')").await;
        assert_eq!(alive(load(&store, "a").await).version(), 3);
        assert_eq!(alive(load(&store, "b").await).version(), 2);
        let rows = journal(&store).await;
        let versions: Vec<_> = rows.iter().map(|row| changed(row).2).collect();
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
                .run(&format!("UPDATE sessions SET {change} WHERE token_digest = sha256('a')"))
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
                .rotate(
                    crate::stores::support::token("c"),
                    crate::stores::support::token("d"),
                    HOUR,
                )
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
        assert_eq!(changed(last), (rotated.id(), sorted(["c", "d"]), None));
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
        assert_eq!(rows[0].change, JournalChange::All);
        assert!(matches!(load(&store, "a").await, Row::Absent));
    })
    .await;
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
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        person.run("UPDATE session_users SET epoch = epoch + 1").await;
        for name in ["a", "b", "c"] {
            assert!(matches!(load(&store, name).await, Row::Revoked));
        }
        let page = store.list("alice", None, LIST_PAGE).await.unwrap();
        assert!(page.sessions.is_empty());
        assert_eq!(changes(&store).await, [ended("alice", 1)]);
        login(&store, "d", "alice").await;
        alive(load(&store, "d").await);
        // Nothing is raised.
        person.run("UPDATE session_users SET epoch = epoch, user_id = user_id").await;
        alive(load(&store, "d").await);
        // Sessions that have ended are no news, whatever happens to their rows.
        person
            .run(
                "UPDATE sessions SET revoked_at = now() WHERE user_epoch = 0;
                 DELETE FROM sessions WHERE user_epoch = 0",
            )
            .await;
        assert_eq!(changes(&store).await, [ended("alice", 1)]);
    })
    .await;
}

#[tokio::test]
async fn revoking_all_but_one_writes_a_row_for_the_user_and_one_for_the_spared() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        login(&store, "bob", "bob").await;
        let spared = alive(load(&store, "b").await);
        let target = Target::User { user_id: "alice".to_owned(), keep: Some(spared.id()) };
        let revoked = store.revoke(&target, "stolen").await.unwrap();
        assert_eq!((revoked.ended, revoked.found, revoked.complete), (2, 2, true));
        alive(load(&store, "b").await);
        alive(load(&store, "bob").await);
        assert_eq!(changes(&store).await.len(), 2);
        assert!(changes(&store).await.contains(&ended("alice", 1)));

        // The rows are ended afterwards, and the journal does not grow.
        let user = revoked.user.unwrap();
        let mut after = None;
        let mut pages = 0;
        loop {
            pages += 1;
            after = store.end_rows(&user, "stolen", after).await.unwrap();
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, 2, "one page, and a look for the next");
        let ended: i64 = person
            .ask(
                "SELECT count(*) FROM sessions WHERE ended_reason = 'stolen' AND revoked_at IS \
                  NOT NULL",
            )
            .await;
        assert_eq!(ended, 2);
        alive(load(&store, "b").await);
        assert_eq!(changes(&store).await.len(), 2);
    })
    .await;
}

/// A session that was ended stays ended under another user, and one that was not is ended with the
/// other user's.
#[tokio::test]
async fn renamed_user_keeps_ended_sessions_ended_and_loses_none_to_revoke_all() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        store.revoke(&of_user("alice"), "stolen").await.unwrap();
        login(&store, "live", "alice").await;
        person.run("UPDATE sessions SET user_id = 'new'").await;
        for name in ["a", "b", "c"] {
            assert!(matches!(load(&store, name).await, Row::Revoked), "{name}");
        }
        alive(load(&store, "live").await);
        let revoked = store.revoke(&of_user("new"), "stolen").await.unwrap();
        assert_eq!(revoked.ended, 1);
        assert!(matches!(load(&store, "live").await, Row::Revoked));
    })
    .await;
}

/// A user's row that an operator has deleted takes the epoch along, and its sessions have a higher
/// one.
#[tokio::test]
async fn revoke_all_ends_sessions_of_a_user_whose_row_was_deleted() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        store.revoke(&of_user("alice"), "stolen").await.unwrap();
        login(&store, "live", "alice").await;
        person.run("DELETE FROM session_users").await;
        let revoked = store.revoke(&of_user("alice"), "stolen").await.unwrap();
        assert_eq!(revoked.ended, 1);
        assert!(matches!(load(&store, "live").await, Row::Revoked));
    })
    .await;
}

/// One statement raises the epoch, however many sessions there are. A hundred thousand took longer
/// than a change may.
#[tokio::test]
async fn revoking_a_hundred_thousand_sessions_writes_one_row() {
    in_schema(|schema| async move {
        let (store, mut person) = prepared(&schema).await;
        person
            .run(
                "INSERT INTO sessions (token_digest, user_id, expires_at)
                 SELECT sha256(n::text::bytea), 'alice', now() + interval '1 day'
                 FROM generate_series(1, 100000) n",
            )
            .await;
        let store_as_configured = schema
            .builder_at(&super::support::url())
            .change_deadline(session_layer::store::DEFAULT_CHANGE_DEADLINE)
            .build()
            .unwrap();
        let revoked = store_as_configured.revoke(&of_user("alice"), "stolen").await.unwrap();
        assert!(revoked.ended >= 10_000, "{}", revoked.ended);
        assert!(!revoked.complete && revoked.digests.is_empty());
        assert!(matches!(load(&store, "a").await, Row::Revoked));
        assert_eq!(changes(&store).await, [ended("alice", 1)]);
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
        let listed = store.list("alice", None, LIST_PAGE).await.unwrap().sessions;
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
