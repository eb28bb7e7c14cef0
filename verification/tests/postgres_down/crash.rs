//! Postgres crashes and reuses the transaction ids whose log had not reached the disk. Readers of
//! the journal and logins order transactions by their ids.
//!
//! Rolled back transactions use ids here, as do touches, whose commits do not wait for the disk.
//! Postgres may have written the log nevertheless, therefore each test tries until ids are reused.

use session_layer::store::{JournalChange, JournalPosition, PostgresStore, SessionStore as _};
use session_layer::{Error, NewSession, RevokeTarget};
use session_testkit::wait;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, login, until, until_hit};

/// The maximum number of tries.
const TRIES: usize = 20;

/// Uses a hundred transaction ids.
async fn use_ids(servers: &Servers) -> Outcome {
    let mut operator = servers.operator().await?;
    for _ in 0..100 {
        let mut transaction = operator.begin().await?;
        sqlx::raw_sql("SELECT pg_current_xact_id()").execute(&mut *transaction).await?;
        transaction.rollback().await?;
    }
    Ok(())
}

async fn crash(servers: &Servers) -> Outcome {
    servers.postgres().kill().await?;
    Ok(servers.postgres().restart().await?)
}

async fn read_from(
    store: &PostgresStore,
    position: Option<&JournalPosition>,
) -> Result<session_layer::store::JournalRead, Failure> {
    let mut read = None;
    wait::until("the journal to be read", SOON, async || {
        read = store.journal_since(position).await.ok();
        read.is_some()
    })
    .await?;
    Ok(read.ok_or("the journal was not read")?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_with_a_reused_id_is_in_the_journal() -> Outcome {
    let servers = Servers::own().await?;
    let store = servers.store().await?;
    let service = servers.sessions().await?;
    for n in 0..TRIES {
        let alice = login(&service, &format!("alice {n}")).await?;
        use_ids(&servers).await?;
        let position = read_from(&store, None).await?.next;
        crash(&servers).await?;
        // The next life begins with the first read. Every entry of that life includes what was
        // committed before it.
        wait::until("a read", SOON, async || store.load(&[]).await.is_ok()).await?;
        servers.revoke_by_sql(&alice).await?;
        let read = read_from(&store, Some(&position)).await?;
        assert_ne!(read.store_id, position.store_id, "a crash ends a life");
        let mut rows = read.rows.iter();
        let row = rows.find(|row| {
            matches!(&row.change, JournalChange::Session { id, .. } if *id == alice.session.id())
        });
        let row = row.ok_or("the reader of the journal missed a revocation")?;
        // The test succeeds if the earlier snapshot would show this id.
        let seen = position.seen.split(':').nth(1).and_then(|xmax| xmax.parse().ok());
        if row.xid < seen.ok_or("no snapshot")? {
            return Ok(());
        }
    }
    Err("no id was reused".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_from_before_a_crash_is_refused() -> Outcome {
    let servers = Servers::own().await?;
    let sessions = servers.sessions().await?;
    for n in 0..TRIES {
        let user = format!("alice {n}");
        let old = login(&sessions, &user).await?;
        use_ids(&servers).await?;
        let begun = sessions.begin_login().await?;
        crash(&servers).await?;
        until(&sessions, &old, "valid").await?;
        let _ = sessions.revoke(RevokeTarget::user(&user)).await?;
        let refused = begun.create(NewSession::new(&user)).await;
        assert!(matches!(refused, Err(Error::LoginSuperseded)), "{refused:?}");
        // The test succeeds if the login's snapshot would show the id.
        let (_, snapshot) = begun.snapshot().as_str().split_once(':').ok_or("no snapshot")?;
        let visible = format!(
            "SELECT pg_visible_in_snapshot(raised_by, '{snapshot}') FROM session_users
             WHERE user_id = '{user}'"
        );
        let visible: bool = sqlx::query_scalar(AssertSqlSafe(visible))
            .fetch_one(&mut servers.operator().await?)
            .await?;
        sessions.begin_login().await?.create(NewSession::new(&user)).await?;
        if visible {
            return Ok(());
        }
    }
    Err("no id was reused".into())
}

// A prepared transaction outlives a restart. Its journal row is from the previous life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_prepared_before_a_restart_counts_at_commit() -> Outcome {
    let servers = Servers::own().await?;
    let sessions = servers.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    servers.sql("ALTER SYSTEM SET max_prepared_transactions = 2").await?;
    servers.postgres().restart().await?;
    let prepare = "BEGIN; UPDATE sessions SET revoked_at = now(); PREPARE TRANSACTION 'logout'";
    servers.sql(prepare).await?;
    crash(&servers).await?;
    // An entry of this life, from before the COMMIT.
    until_hit(&sessions, &alice).await?;
    servers.sql("COMMIT PREPARED 'logout'").await?;
    until(&sessions, &alice, "invalid").await?;
    Ok(())
}

// Otherwise every node would read the whole journal after each checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_begins_no_life() -> Outcome {
    let servers = Servers::own().await?;
    let store = servers.store().await?;
    let sessions = servers.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    let _ = sessions.revoke(alice.token.reveal()).await?;
    let all = read_from(&store, None).await?;
    assert_eq!(all.rows.len(), 1);
    assert!(read_from(&store, Some(&all.next)).await?.rows.is_empty());
    // A login across the checkpoint is not one from before a crash.
    let begun = sessions.begin_login().await?;
    servers.sql("CHECKPOINT").await?;
    let again = read_from(&store, Some(&all.next)).await?;
    assert_eq!(again.rows, []);
    assert_eq!(again.store_id, all.store_id);
    begun.create(NewSession::new("alice")).await?;
    Ok(())
}
