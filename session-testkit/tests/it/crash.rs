//! Postgres crashes, and hands out transaction ids again: those whose log had not reached the disk. To the journal's
//! readers and to logins under way a transaction says by its id when it was.
//!
//! Rolled back transactions use ids here, as do touches, whose commits wait for no disk. Whether the log had been
//! written all the same is Postgres' affair: each test tries until ids were used again.

use session_layer::store::{JournalPosition, PostgresStore, SessionStore as _};
use session_layer::{Error, NewSession};
use session_testkit::backends::{Backend, Backends};
use session_testkit::wait;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::harness::{Failure, Outcome, Registry};
use crate::support::{SOON, ask, execute, login, sessions, store};

pub(crate) fn tests(reg: &mut Registry) {
    reg.each_backend("a_change_with_an_id_used_again_is_in_the_journal", journal);
    reg.each_backend("a_login_from_before_the_crash_is_refused", begun_before);
    reg.each_backend("a_checkpoint_costs_a_read_and_nothing_else", checkpoint);
}

/// How often it is tried.
const TRIES: usize = 20;

/// Uses a hundred ids up.
async fn use_ids(backends: &Backends) -> Outcome {
    let mut person = backends.postgres().connect().await?;
    for _ in 0..100 {
        let mut transaction = person.begin().await?;
        sqlx::raw_sql("SELECT pg_current_xact_id()")
            .execute(&mut *transaction)
            .await?;
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
    position: Option<JournalPosition>,
) -> Result<session_layer::store::JournalRead, Failure> {
    let mut read = None;
    wait::until("the journal to be read", SOON, async || {
        read = store.journal_since(position).await.ok();
        read.is_some()
    })
    .await?;
    Ok(read.ok_or("the journal was not read")?)
}

async fn journal(backend: Backend) -> Outcome {
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let store = store(&sandbox).await?;
    let service = sessions(&sandbox).await?;
    for n in 0..TRIES {
        let alice = login(&service, &format!("alice {n}")).await?;
        use_ids(&backends).await?;
        let position = read_from(&store, None).await?.next;
        crash(&backends).await?;
        let revoke = format!(
            "UPDATE {}.sessions SET revoked_at = now() WHERE id = '{}'",
            sandbox.schema(),
            alice.session.id()
        );
        execute(backends.postgres(), revoke).await?;
        let read = read_from(&store, Some(position)).await?;
        let mut rows = read.rows.iter();
        let row = rows.find(|row| row.session_id == Some(alice.session.id()));
        let row = row.ok_or("the journal's reader has missed a revocation")?;
        if row.xid < position.xid {
            return Ok(());
        }
    }
    Err("no id was used again".into())
}

async fn begun_before(backend: Backend) -> Outcome {
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    for n in 0..TRIES {
        let user = format!("alice {n}");
        let old = login(&sessions, &user).await?;
        use_ids(&backends).await?;
        let begun = sessions.begin_login().await?;
        crash(&backends).await?;
        wait::until("Postgres to be there", SOON, async || {
            ask(&sessions, &old).await == "valid"
        })
        .await?;
        let _ = sessions.revoke_all(&user).await?;
        let refused = begun.create(NewSession::new(&user)).await;
        assert!(
            matches!(refused, Err(Error::LoginSuperseded)),
            "{refused:?}"
        );
        // Was its id visible to the login?
        let (_, snapshot) = begun.moment().as_str().split_once(':').ok_or("a moment")?;
        let visible = format!(
            "SELECT pg_visible_in_snapshot(raised_by, '{snapshot}') FROM {}.session_users \
             WHERE user_id = '{user}'",
            sandbox.schema()
        );
        let visible: bool = sqlx::query_scalar(AssertSqlSafe(visible))
            .fetch_one(&mut backends.postgres().connect().await?)
            .await?;
        sessions
            .begin_login()
            .await?
            .create(NewSession::new(&user))
            .await?;
        if visible {
            return Ok(());
        }
    }
    Err("no id was used again".into())
}

/// It is what a recovery is known by.
async fn checkpoint(backend: Backend) -> Outcome {
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let store = store(&sandbox).await?;
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    let _ = sessions.revoke(alice.token.reveal()).await?;
    let all = read_from(&store, None).await?;
    assert_eq!(all.rows.len(), 1);
    assert!(read_from(&store, Some(all.next)).await?.rows.is_empty());
    // A login that goes on over it is none from before a crash.
    let begun = sessions.begin_login().await?;
    execute(backends.postgres(), "CHECKPOINT".to_owned()).await?;
    let again = read_from(&store, Some(all.next)).await?;
    assert_eq!(again.rows, all.rows);
    assert!(read_from(&store, Some(again.next)).await?.rows.is_empty());
    begun.create(NewSession::new("alice")).await?;
    Ok(())
}
