//! Postgres rolls a statement back because of a concurrent one: nothing was made, and it is sent
//! again.

use std::time::Duration;

use session_layer::error::StoreErrorKind;
use session_layer::store::{Creation, PostgresStore, SessionStore as _, Target};
use sqlx::Connection as _;
use sqlx::postgres::PgPoolOptions;

use super::support::{Person, Schema, in_schema, url, url_with};
use crate::stores::support::{json, login, made, new, of_user, revoke, token};

const SERIALIZABLE: (&str, &str) = ("default_transaction_isolation", "serializable");

/// A pool of ours, one of an application that has made SERIALIZABLE the default, and a pooler whose
/// sessions have.
async fn stores(schema: &Schema) -> [PostgresStore; 3] {
    let serializable = url_with(SERIALIZABLE.0, SERIALIZABLE.1);
    let ours = schema.store().await;
    let pool = PgPoolOptions::new().connect(&serializable).await.unwrap();
    let applications = PostgresStore::from_pool(pool)
        .schema(&schema.name)
        .change_deadline(Duration::from_secs(8))
        .build()
        .unwrap();
    let pooled = schema.builder_at(&serializable).pooled(true);
    [ours, applications, pooled.build().unwrap()]
}

/// The first statement that changes sessions, after each restart of the sequence, is rolled back.
fn rolls_back(code: &str) -> String {
    format!(
        "CREATE SEQUENCE changes;
         CREATE FUNCTION rolls_back() RETURNS trigger LANGUAGE plpgsql SET search_path FROM \
         CURRENT AS $$ BEGIN
           IF nextval('changes') = 1 THEN RAISE 'a conflict' USING ERRCODE = '{code}'; END IF;
           RETURN NULL;
         END $$;
         CREATE TRIGGER rolls_back AFTER INSERT OR UPDATE ON sessions
           FOR EACH STATEMENT EXECUTE FUNCTION rolls_back()"
    )
}

#[tokio::test]
async fn what_was_rolled_back_is_sent_again() {
    for code in ["40001", "40P01"] {
        in_schema(|schema| async move {
            let mut person = schema.person().await;
            let stores = stores(&schema).await;
            person.run(&rolls_back(code)).await;
            for (n, store) in stores.iter().enumerate() {
                let mut conflict = async || {
                    let tries: i64 = person.ask("SELECT last_value FROM changes").await;
                    assert!(n == 0 || tries > 1, "{code}: store {n} met no conflict");
                    person.run("ALTER SEQUENCE changes RESTART").await;
                };
                let [a, b, c] = ["a", "b", "c"].map(|name| token(&format!("{name} {n}")));
                let user = format!("user {n}");
                let begun = store.login_snapshot().await.unwrap();
                let log_in = async |digest| {
                    let mut login = new(&user);
                    login.begun = Some(begun.clone());
                    match store.create(digest, &login).await.unwrap() {
                        Creation::Created(session) => session,
                        other => panic!("{code}: store {n}: {other:?}"),
                    }
                };
                conflict().await;
                let session = log_in(a).await;
                conflict().await;
                log_in(c).await;
                conflict().await;
                let data = json("1");
                let update = store.update(session.id(), session.version(), &data);
                made(update.await.unwrap());
                conflict().await;
                made(store.rotate(a, b, Duration::ZERO).await.unwrap());
                conflict().await;
                made(store.touch(session.id(), Duration::ZERO).await.unwrap());
                conflict().await;
                assert_eq!(revoke(store, Target::Token(b)).await.ended, 1);
                conflict().await;
                assert_eq!(revoke(store, of_user(&user)).await.ended, 1);
            }
        })
        .await;
    }
}

/// The conflict itself: the row that a statement waits for was changed meanwhile.
#[tokio::test]
async fn a_change_that_waits_for_a_row_is_made_in_every_isolation() {
    in_schema(|schema| async move {
        for (n, store) in stores(&schema).await.into_iter().enumerate() {
            let (mut holder, mut watcher) = (schema.person().await, schema.person().await);
            let digest = token(&n.to_string());
            let created = store.create(digest, &new("alice")).await.unwrap();
            assert!(matches!(created, Creation::Created(_)), "{created:?}");
            let pid = holder.pid().await;
            holder.run("BEGIN; UPDATE sessions SET label = 'held' WHERE revoked_at IS NULL").await;
            let revoking = tokio::spawn({
                let store = store.clone();
                async move { store.revoke(&Target::Token(digest), "gone").await }
            });
            watcher.until_waiting_for(pid).await;
            holder.run("COMMIT").await;
            assert_eq!(revoking.await.unwrap().unwrap().ended, 1, "store {n}");
        }
    })
    .await;
}

/// Also a login that has no moment from before: the revoke-all that it met must not be forgotten by
/// the next try.
#[tokio::test]
async fn a_login_that_meets_a_revoke_all_is_refused_in_every_isolation() {
    in_schema(|schema| async move {
        for (n, store) in stores(&schema).await.into_iter().enumerate() {
            let (mut holder, mut watcher) = (schema.person().await, schema.person().await);
            let old = store.create(token(&format!("old {n}")), &new("alice")).await;
            assert!(matches!(old.unwrap(), Creation::Created(_)));
            let pid = holder.pid().await;
            holder
                .run("BEGIN; UPDATE session_users SET epoch = epoch + 1 WHERE user_id = 'alice'")
                .await;
            let login = tokio::spawn(async move {
                store.create(token(&format!("new {n}")), &new("alice")).await
            });
            watcher.until_waiting_for(pid).await;
            holder.run("COMMIT").await;
            let created = login.await.unwrap().unwrap();
            assert!(matches!(created, Creation::Superseded), "store {n}: {created:?}");
        }
    })
    .await;
}

/// An old server that a cut-over left up and read-only does not know the sessions of the new one.
#[tokio::test]
async fn a_read_only_server_does_not_say_that_there_is_nothing_to_change() {
    in_schema(|schema| async move {
        login(&schema.store().await, "known", "alice").await;
        let read_only = schema.builder_at(&url_with("default_transaction_read_only", "on"));
        let store = read_only.build().unwrap();
        let known = store.digests(&Target::Token(token("known"))).await;
        assert_eq!(known.unwrap(), [token("known")]);
        let unknown = store.digests(&Target::Token(token("unknown"))).await;
        assert_eq!(unknown.unwrap_err().kind(), StoreErrorKind::Denied);
    })
    .await;
}

/// Its connection may lead to an old server that a cut-over left up: the next one leads to where
/// the address leads then.
#[tokio::test]
async fn connection_to_a_read_only_server_is_closed() {
    in_schema(|schema| async move {
        login(&schema.store().await, "a", "alice").await;
        let read_only = url_with("default_transaction_read_only", "on");
        let named = format!("{read_only}&application_name={}", schema.name);
        let store = schema.builder_at(&named).build().unwrap();
        let refused = store.revoke(&Target::Token(token("a")), "test").await;
        assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Denied);
        let mut watcher = schema.person().await;
        let open = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' AND query LIKE \
             '%UPDATE%'",
            schema.name
        );
        for _ in 0..500 {
            if watcher.ask::<i64>(&open).await == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the connection is still open");
    })
    .await;
}

/// A look-up in an index, which does not walk over the pages of rows that are dead.
#[tokio::test]
async fn the_readiness_probe_reads_no_dead_pages() {
    in_schema(|schema| async move {
        schema.store().await.close().await;
        let mut person = schema.person().await;
        let writer = person.pid().await;
        person
            .run(
                "ALTER TABLE sessions SET (autovacuum_enabled = false);
                 INSERT INTO sessions (id, token_digest, user_id, user_epoch, data, expires_at)
                 SELECT gen_random_uuid(), sha256(n::text::bytea), 'alice', 0, '{}', now()
                 FROM generate_series(1, 20000) n;
                 DELETE FROM sessions",
            )
            .await;
        person.0.close().await.unwrap();
        let mut watcher = schema.person().await;
        let mark = if url().contains('?') { '&' } else { '?' };
        let named = format!("{}{mark}application_name={}", url(), schema.name);
        let store = schema.builder_at(&named).build().unwrap();
        let before = scans(&mut watcher, &format!("pid = {writer}")).await;
        for _ in 0..10 {
            store.probe().await.unwrap();
        }
        store.close().await;
        let probing = format!("application_name = '{}'", schema.name);
        let after = scans(&mut watcher, &probing).await;
        assert_eq!(after - before, 0, "scans of the whole table");
    })
    .await;
}

/// How often the whole table was read, as of when these connections were gone: each reports at its
/// end.
async fn scans(watcher: &mut Person, connections: &str) -> i64 {
    let open = format!("SELECT count(*) FROM pg_stat_activity WHERE {connections}");
    while watcher.ask::<i64>(&open).await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    watcher.ask("SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'sessions'::regclass").await
}
