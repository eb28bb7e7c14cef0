//! Roles with few rights, and policies that hide rows.

use session_layer::error::{StoreError, StoreErrorKind};
use session_layer::limits::LIST_PAGE;
use session_layer::store::{PostgresStore, Row, SessionStore, Target};
use session_testkit::wait;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::support::Schema;
use crate::stores::support::{HOUR, alive, json, load, login, made, new, of_user, token};
use crate::support::SOON;

/// Returns a store of the role with a pool of its own, which sets `row_security=off`.
fn ours(schema: &Schema) -> PostgresStore {
    schema.store_at(&schema.url_with("role", &schema.name))
}

/// Returns a store of the role with the application's pool, which does not.
fn theirs(schema: &Schema) -> PostgresStore {
    let options: PgConnectOptions = schema.url().parse().unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .connect_lazy_with(options.options([("role", &schema.name)]));
    PostgresStore::from_pool(pool)
        .schema(&schema.name)
        .read_deadline(std::time::Duration::from_secs(60))
        .change_deadline(std::time::Duration::from_secs(60))
        .build()
        .unwrap()
}

#[track_caller]
fn is(kind: StoreErrorKind, error: &StoreError) -> String {
    assert_eq!(error.kind(), kind, "{error:?}");
    error.to_string()
}

/// Returns the grants that the documentation demands for an application's role.
fn granted(schema: &Schema) -> String {
    session_layer::store::grants(&schema.name, &schema.name)
}

#[tokio::test]
async fn rights_on_the_rows_suffice() {
    let schema = Schema::new().await;
    schema.store().await;
    schema.role(&granted(&schema)).await;
    for (name, store) in [("ours", ours(&schema)), ("theirs", theirs(&schema))] {
        store.migrate().await.unwrap();
        login(&store, name, "alice").await;
        made(store.rotate(token(name), token("x"), HOUR).await.unwrap());
        let all = store.revoke(&of_user("alice"), &"test".into()).await.unwrap();
        assert_eq!(all.ended, 1);
        store.journal_since(None).await.unwrap();
        store.probe().await.unwrap();
        schema
            .run(
                "UPDATE session_journal SET at = now() - interval '1 hour';
                 UPDATE sessions SET revoked_at = now() - interval '1 hour'",
            )
            .await;
        // Other tests may hold the floor for a while.
        let purged = async || store.purge_journal(HOUR / 2).await.unwrap() > 0;
        wait::until("a purge", SOON, purged).await.unwrap();
        assert_eq!(store.sweep(HOUR / 2, 10).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn rights_on_sessions_suffice_for_direct_sql() {
    let (schema, store) = Schema::with_store().await;
    for name in ["a", "b"] {
        login(&store, name, "alice").await;
    }
    let role = schema
        .role(&format!("GRANT SELECT, UPDATE, DELETE, TRUNCATE ON sessions TO {}", schema.name))
        .await;
    let mut operator = schema.operator_as(role).await;
    assert!(operator.try_run("SELECT FROM session_journal").await.is_err());
    operator.run("UPDATE sessions SET revoked_at = now() WHERE token_digest = sha256('a')").await;
    operator.run("DELETE FROM sessions").await;
    operator.run("TRUNCATE sessions").await;
    let rows = store.journal_since(None).await.unwrap().rows;
    assert_eq!(rows.len(), 3);
}

#[tokio::test]
async fn other_roles_cannot_write_the_journal() {
    let schema = Schema::new().await;
    schema.store().await;
    let role = schema.role(&format!("GRANT CREATE ON SCHEMA {0} TO {0}", schema.name)).await;
    let mut operator = schema.operator_as(role).await;
    operator.run("CREATE TABLE mine (id uuid)").await;
    let refused = operator
        .try_run(
            "CREATE TRIGGER t AFTER TRUNCATE ON mine
                 FOR EACH STATEMENT EXECUTE FUNCTION sessions_write_journal()",
        )
        .await;
    assert!(refused.is_err());
}

// SQL operators with closer types than Postgres' own would run with the owner's rights.
#[tokio::test]
async fn operators_of_another_role_do_not_run_with_the_owners_rights() {
    let (schema, store) = Schema::with_store().await;
    login(&store, "a", "alice").await;
    let role = schema.role(&format!("GRANT CREATE ON SCHEMA {0} TO {0}", schema.name)).await;
    let mut attacker = schema.operator_as(role).await;
    attacker
        .run(
            "CREATE FUNCTION theirs(bigint, integer) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
                   RAISE EXCEPTION 'run as %', current_user; END $$;
                 CREATE OPERATOR | (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = theirs);
                 CREATE OPERATOR << (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = theirs);
                 CREATE OPERATOR + (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = theirs);
                 CREATE FUNCTION silent(sessions, sessions) RETURNS boolean LANGUAGE plpgsql AS
                   'BEGIN RETURN true; END';
                 CREATE OPERATOR *= (LEFTARG = sessions, RIGHTARG = sessions, FUNCTION = silent)",
        )
        .await;
    let mut owner = schema.operator().await;
    for call in [
        "SELECT purge_journal(interval '0')",
        "SELECT sweep_sessions(interval '0', 100)",
        "SELECT sweep_users(interval '0', NULL, 100)",
        "UPDATE sessions SET revoked_at = now()",
        "DELETE FROM session_journal",
    ] {
        owner.run(call).await;
    }
    assert!(matches!(load(&store, "a").await, Row::Revoked));
    let mut owner = schema.operator().await;
    let version: i64 = owner.ask("SELECT version FROM sessions").await;
    assert_eq!(version, 2, "the trigger still raises the version");
}

#[tokio::test]
async fn lost_grant_is_an_outage_that_names_the_right() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    login(&owner, "a", "alice").await;
    schema.role("").await;
    for store in [ours(&schema), theirs(&schema)] {
        let error = store.load(&[token("a")]).await.unwrap_err();
        let message = is(StoreErrorKind::Denied, &error);
        let to_whom = format!("TO \"{}\"", schema.name);
        assert!(message.contains("GRANT") && message.contains(&to_whom), "{message}");
        let target = Target::Token(token("a"));
        let error = store.revoke(&target, &"test".into()).await.unwrap_err();
        is(StoreErrorKind::Denied, &error);
        is(StoreErrorKind::Denied, &store.probe().await.unwrap_err());
    }
    alive(load(&owner, "a").await);
}

#[tokio::test]
async fn hidden_rows_are_an_outage() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    let session = login(&owner, "a", "alice").await;
    schema
        .role(&format!("{} ALTER TABLE sessions ENABLE ROW LEVEL SECURITY", granted(&schema)))
        .await;
    for store in [ours(&schema), theirs(&schema)] {
        let check = |error: StoreError| {
            let message = is(StoreErrorKind::NotAuthoritative, &error);
            assert!(message.contains(&schema.name), "{message}");
            assert!(message.contains("sessions"), "{message}");
            assert!(message.contains("BYPASSRLS"), "{message}");
        };
        check(store.load(&[token("a")]).await.unwrap_err());
        let all_but_one = Target::User { user_id: "alice".to_owned(), keep: Some(session.id()) };
        for target in [Target::Token(token("a")), all_but_one] {
            check(store.revoke(&target, &"test".into()).await.unwrap_err());
        }
        check(store.digests(&Target::Token(token("a"))).await.unwrap_err());
        check(store.list("alice", None, LIST_PAGE).await.unwrap_err());
        check(store.rotate(token("a"), token("b"), HOUR).await.unwrap_err());
        check(store.probe().await.unwrap_err());
    }
    alive(load(&owner, "a").await);
}

#[tokio::test]
async fn hidden_change_is_an_outage() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    let session = login(&owner, "a", "alice").await;
    schema
        .role(&format!(
            "{} ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
                 CREATE POLICY seen ON sessions FOR SELECT USING (true)",
            granted(&schema)
        ))
        .await;
    let store = theirs(&schema);
    alive(load(&store, "a").await);
    let hidden = StoreErrorKind::NotAuthoritative;
    is(hidden, &store.load(&[token("b")]).await.unwrap_err());
    let all_but_one = Target::User { user_id: "alice".to_owned(), keep: Some(session.id()) };
    for target in [Target::Id(session.id()), all_but_one] {
        is(hidden, &store.revoke(&target, &"test".into()).await.unwrap_err());
    }
    let data = json("1");
    let change = store.update(session.id(), 1, &data).await;
    is(hidden, &change.unwrap_err());
    is(hidden, &store.touch(session.id(), std::time::Duration::ZERO).await.unwrap_err());
    alive(load(&owner, "a").await);
}

#[tokio::test]
async fn hidden_epoch_is_an_outage() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    login(&owner, "a", "alice").await;
    schema
        .role(&format!("{} ALTER TABLE session_users ENABLE ROW LEVEL SECURITY", granted(&schema)))
        .await;
    schema.run("UPDATE session_users SET epoch = 1").await;
    assert!(matches!(load(&owner, "a").await, Row::Revoked));
    for store in [ours(&schema), theirs(&schema)] {
        let error = store.load(&[token("a")]).await.unwrap_err();
        is(StoreErrorKind::NotAuthoritative, &error);
    }
}

#[tokio::test]
async fn read_only_server_still_validates() {
    let schema = Schema::new().await;
    let owner = schema.store().await;
    login(&owner, "a", "alice").await;
    let store = schema.store_at(&schema.url_with("default_transaction_read_only", "on"));
    alive(load(&store, "a").await);
    let error = store.revoke(&Target::Token(token("a")), &"test".into()).await.unwrap_err();
    assert!(is(StoreErrorKind::Denied, &error).contains("read-only"));
    let error = store.create(token("b"), &new("alice")).await.unwrap_err();
    is(StoreErrorKind::Denied, &error);
}
