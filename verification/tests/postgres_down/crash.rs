//! Postgres crashes, and hands out transaction ids again: those whose log had not reached the disk.
//! To the journal's readers and to logins under way a transaction says by its id when it was.
//!
//! Rolled back transactions use ids here, as do touches, whose commits wait for no disk. Whether
//! the log had been written all the same is Postgres' affair: each test tries until ids were used
//! again.

use session_layer::store::{JournalChange, JournalPosition, PostgresStore, SessionStore as _};
use session_layer::{Error, NewSession, RevokeTarget};
use session_testkit::backends::Backends;
use session_testkit::wait;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::harness::{Failure, Outcome, default_backend};
use crate::support::{SOON, ask, execute, login, sessions, store, until_hit};

/// How often it is tried.
const TRIES: usize = 20;

/// Uses a hundred ids up.
async fn use_ids(backends: &Backends) -> Outcome {
    let mut person = backends.postgres().connect().await?;
    for _ in 0..100 {
        let mut transaction = person.begin().await?;
        sqlx::raw_sql("SELECT pg_current_xact_id()").execute(&mut *transaction).await?;
        transaction.rollback().await?;
    }
    Ok(())
}

async fn crash(backends: &Backends) -> Outcome {
    backends.postgres().kill().await?;
    Ok(backends.postgres().restart().await?)
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
async fn a_change_with_an_id_used_again_is_in_the_journal() -> Outcome {
    let backend = default_backend().await?;
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let store = store(&sandbox).await?;
    let service = sessions(&sandbox).await?;
    for n in 0..TRIES {
        let alice = login(&service, &format!("alice {n}")).await?;
        use_ids(&backends).await?;
        let position = read_from(&store, None).await?.next;
        crash(&backends).await?;
        // The next life begins with the first read. What was committed before it, every copy of
        // that life knows.
        wait::until("a read", SOON, async || store.load(&[]).await.is_ok()).await?;
        let revoke = format!(
            "UPDATE {}.sessions SET revoked_at = now() WHERE id = '{}'",
            sandbox.schema(),
            alice.session.id()
        );
        execute(backends.postgres(), revoke).await?;
        let read = read_from(&store, Some(&position)).await?;
        assert_ne!(read.store_id, position.store_id, "a crash ends a life");
        let mut rows = read.rows.iter();
        let row = rows.find(|row| {
            matches!(&row.change, JournalChange::Session { id, .. } if *id == alice.session.id())
        });
        let row = row.ok_or("the journal's reader has missed a revocation")?;
        // Was it taken for visible by the snapshot of before?
        let seen = position.seen.split(':').nth(1).and_then(|xmax| xmax.parse().ok());
        if row.xid < seen.ok_or("a snapshot")? {
            return Ok(());
        }
    }
    Err("no id was used again".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_from_before_the_crash_is_refused() -> Outcome {
    let backend = default_backend().await?;
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    for n in 0..TRIES {
        let user = format!("alice {n}");
        let old = login(&sessions, &user).await?;
        use_ids(&backends).await?;
        let begun = sessions.begin_login().await?;
        crash(&backends).await?;
        wait::until("Postgres to be there", SOON, async || ask(&sessions, &old).await == "valid")
            .await?;
        let _ = sessions.revoke(RevokeTarget::user(&user)).await?;
        let refused = begun.create(NewSession::new(&user)).await;
        assert!(matches!(refused, Err(Error::LoginSuperseded)), "{refused:?}");
        // Was its id visible to the login?
        let (_, snapshot) = begun.snapshot().as_str().split_once(':').ok_or("a moment")?;
        let visible = format!(
            "SELECT pg_visible_in_snapshot(raised_by, '{snapshot}') FROM {}.session_users \
             WHERE user_id = '{user}'",
            sandbox.schema()
        );
        let visible: bool = sqlx::query_scalar(AssertSqlSafe(visible))
            .fetch_one(&mut backends.postgres().connect().await?)
            .await?;
        sessions.begin_login().await?.create(NewSession::new(&user)).await?;
        if visible {
            return Ok(());
        }
    }
    Err("no id was used again".into())
}

/// A prepared transaction outlives a restart. Its row in the journal was written in the life
/// before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_prepared_before_a_restart_counts_at_commit() -> Outcome {
    let backend = default_backend().await?;
    let backends = Backends::builder().backend(backend).start().await?;
    let postgres = backends.postgres();
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    let allow = "ALTER SYSTEM SET max_prepared_transactions = 2".to_owned();
    execute(postgres, allow).await?;
    postgres.restart().await?;
    let prepare = format!(
        "BEGIN; UPDATE {}.sessions SET revoked_at = now() WHERE id = '{}'; PREPARE TRANSACTION \
         'logout'",
        sandbox.schema(),
        alice.session.id()
    );
    execute(postgres, prepare).await?;
    crash(&backends).await?;
    // A copy of this life, as of before its COMMIT.
    until_hit(&sessions, &alice).await?;
    execute(postgres, "COMMIT PREPARED 'logout'".to_owned()).await?;
    wait::until("the copy to be dead", SOON, async || ask(&sessions, &alice).await == "invalid")
        .await?;
    Ok(())
}

/// A recovery ends with one, and others come every few minutes: with each, every node would read
/// all of the journal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_changes_nothing() -> Outcome {
    let backend = default_backend().await?;
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let store = store(&sandbox).await?;
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    let _ = sessions.revoke(alice.token.reveal()).await?;
    let all = read_from(&store, None).await?;
    assert_eq!(all.rows.len(), 1);
    assert!(read_from(&store, Some(&all.next)).await?.rows.is_empty());
    // A login that goes on over it is none from before a crash.
    let begun = sessions.begin_login().await?;
    execute(backends.postgres(), "CHECKPOINT".to_owned()).await?;
    let again = read_from(&store, Some(&all.next)).await?;
    assert_eq!(again.rows, []);
    assert_eq!(again.store_id, all.store_id);
    begun.create(NewSession::new("alice")).await?;
    Ok(())
}
