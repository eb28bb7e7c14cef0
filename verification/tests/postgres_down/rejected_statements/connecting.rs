//! The way in is wrong: to a standby, with credentials that are not, through a pooler.

use session_layer::CacheMode;
use session_layer::store::PostgresStore;
use session_testkit::wait;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Service;
use crate::harness::{Outcome, default_backend};
use crate::support::{SOON, ask, built, cache, execute, login};

/// It answers, and may be behind: what it says of a session is not believed, in neither direction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_a_standby() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let ended = login(&service.owner, "ended").await?;
    let _ = service.owner.revoke(ended.token.reveal()).await?;
    let mark = "COPY (SELECT) TO PROGRAM 'cat > standby.signal'".to_owned();
    execute(service.backends.postgres(), mark).await?;
    service.backends.postgres().restart().await?;
    let node = service.lazy(&service.url)?;
    assert_eq!(ask(&node, &ended).await, "unavailable");
    service.refused(&node, &["replica in recovery", "primary"]).await?;
    execute(service.backends.postgres(), "SELECT pg_promote()".to_owned()).await?;
    service.until_valid(&node).await?;
    assert_eq!(ask(&node, &ended).await, "invalid");
    Ok(())
}

/// A wrong password, a user and a database that there are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_28p01_28000_3d000_lets_us_not_in() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let asked = format!(
        "COPY (SELECT) TO PROGRAM
           'cp pg_hba.conf was.conf; echo host all {} all scram-sha-256 | cat - was.conf > \
           pg_hba.conf';
         SELECT pg_reload_conf()",
        service.role
    );
    execute(service.backends.postgres(), asked).await?;
    let wrong = service.url.replace(":secret@", ":wr0ng@");
    // The server reads the file in its own time. A node that connects before that stays connected.
    wait::until("a wrong password to be refused", SOON, async || {
        PgConnection::connect(&wrong).await.is_err()
    })
    .await?;
    let credentials = &["user or password", "DATABASE_URL", "pg_hba.conf"][..];
    let (server, _) = service.url.rsplit_once('/').unwrap_or_default();
    for (url, says) in [
        (wrong, credentials),
        (service.url.replace("the_app:", "nobody_here:"), credentials),
        (format!("{server}/nowhere"), &["database of DATABASE_URL", "does not exist"]),
    ] {
        let node = service.lazy(&url)?;
        service.refused(&node, says).await?;
        let errors = node.recent_errors().join("\n");
        assert!(!errors.contains("wr0ng"), "{errors}");
    }
    // The password is changed under a node: its connections go on, and it gets no others.
    let node = service.lazy(&service.url)?;
    service.until_valid(&node).await?;
    // It is registered, so it opens no connection in the background for the next seconds. One that
    // is authenticated while the password changes would come after the others were ended.
    wait::until("the first two reads of the journal", SOON, async || {
        node.metrics().journal_reads >= 2
    })
    .await?;
    let password = |word: &str| format!("ALTER ROLE {} PASSWORD '{word}'", service.role);
    execute(service.backends.postgres(), password("another")).await?;
    assert_eq!(ask(&node, &service.alice).await, "valid");
    // Reads and changes have connections of their own. One that was being authenticated when the
    // password changed may appear after the others were ended, and is ended by the next round.
    let rounds = AtomicUsize::new(0);
    wait::until("its connections to be gone in three rounds", SOON, async || {
        let gone = service.end_connections().await.is_ok()
            && ask(&node, &service.alice).await == "unavailable"
            && node.list("alice").await.is_err();
        let round = if gone { rounds.load(Ordering::SeqCst) + 1 } else { 0 };
        rounds.store(round, Ordering::SeqCst);
        round == 3
    })
    .await?;
    service.refused(&node, credentials).await?;
    execute(service.backends.postgres(), password("secret")).await?;
    service.until_valid(&node).await
}

/// What was prepared over one connection to Postgres is missing on the next, or its name is taken
/// there, or it is another statement there, whose answer looks like ours. Hooks of a pool do all
/// three here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_26000_42p05_behind_a_pooler() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let forgets = PgPoolOptions::new().before_acquire(|connection, _| {
        Box::pin(async move {
            sqlx::raw_sql("DEALLOCATE ALL").execute(connection).await?;
            Ok(true)
        })
    });
    let taken = PgPoolOptions::new().after_connect(|connection, _| {
        Box::pin(async move {
            let names = (1..50).map(|n| format!("PREPARE sqlx_s_{n} AS SELECT 1;"));
            sqlx::raw_sql(AssertSqlSafe(names.collect::<String>())).execute(connection).await?;
            Ok(())
        })
    });
    let another = PgPoolOptions::new().before_acquire(|connection, _| {
        Box::pin(async move {
            let prepared = sqlx::raw_sql("SELECT name, statement FROM pg_prepared_statements")
                .fetch_all(&mut *connection)
                .await?;
            for row in prepared {
                let (name, was): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                // Asks for none of the tokens.
                let none = was.replace("unnest($1::bytea[])", "unnest(($1::bytea[])[2:1])");
                if none != was {
                    let replace = format!("DEALLOCATE {name}; PREPARE {name} AS {none}");
                    sqlx::raw_sql(AssertSqlSafe(replace)).execute(&mut *connection).await?;
                }
            }
            Ok(true)
        })
    });
    let says = &["pooler", "pooled(true)"][..];
    for (options, says) in
        [(forgets, says), (taken, says), (another, &["does not fit the statement", "pooled(true)"])]
    {
        let pool = options.max_connections(1).connect(&service.url).await?;
        let store =
            PostgresStore::from_pool(pool.clone()).schema(service.sandbox.schema()).build()?;
        let node = built(cache(service.sandbox.redis_url(), &service.sandbox)?, store);
        node.set_mode(CacheMode::Bypass);
        wait::until("a request that is refused", SOON, async || {
            let answer = ask(&node, &service.alice).await;
            assert_ne!(answer, "invalid");
            // The pool's one connection may be in use as well, by the journal.
            let errors = node.recent_errors().join("\n");
            answer == "unavailable" && says.iter().all(|text| errors.contains(text))
        })
        .await?;
        node.shutdown(SOON).await?;
        pool.close().await;
    }
    Ok(())
}
