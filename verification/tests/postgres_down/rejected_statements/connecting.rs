//! Connections to a standby, with wrong credentials, and through a pooler.

use session_layer::store::PostgresStore;
use session_testkit::wait;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{ROLE, Service};
use crate::harness::Outcome;
use crate::support::{SOON, ask, login, until_journal_reads};

// A standby may be behind, therefore neither "valid" nor "invalid" is based on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_is_a_standby_is_unavailable() -> Outcome {
    let service = Service::start().await?;
    let ended = login(&service.owner, "ended").await?;
    let _ = service.owner.revoke(ended.token.reveal()).await?;
    service.execute("COPY (SELECT) TO PROGRAM 'cat > standby.signal'").await?;
    service.servers.postgres().restart().await?;
    let node = service.lazy(&service.url)?;
    assert_eq!(ask(&node, &ended).await, "unavailable");
    service.assert_outage(&node, &["replica in recovery", "primary"]).await?;
    service.execute("SELECT pg_promote()").await?;
    service.until_valid(&node).await?;
    assert_eq!(ask(&node, &ended).await, "invalid");
    Ok(())
}

// A wrong password, an unknown user and an unknown database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_28p01_28000_3d000_rejects_the_connection() -> Outcome {
    let service = Service::start().await?;
    let demand_password = format!(
        "COPY (SELECT) TO PROGRAM
           'cp pg_hba.conf was.conf; echo host all {ROLE} all scram-sha-256 | cat - was.conf > \
           pg_hba.conf';
         SELECT pg_reload_conf()"
    );
    service.execute(demand_password).await?;
    let wrong = service.url.replace(":secret@", ":wr0ng@");
    // The server reads the file later. A node that connects before that stays connected.
    wait::until("a wrong password to be rejected", SOON, async || {
        PgConnection::connect(&wrong).await.is_err()
    })
    .await?;
    let credentials = &["user or password", "DATABASE_URL", "pg_hba.conf"][..];
    let (server, _) = service.url.rsplit_once('/').unwrap_or_default();
    for (url, words) in [
        (wrong, credentials),
        (service.url.replace("the_app:", "unknown_user:"), credentials),
        (format!("{server}/nowhere"), &["database of DATABASE_URL", "does not exist"]),
    ] {
        let node = service.lazy(&url)?;
        service.assert_outage(&node, words).await?;
        let errors = node.recent_errors().join("\n");
        assert!(!errors.contains("wr0ng"), "{errors}");
    }
    // After a change of the password, open connections work and new ones are rejected.
    let node = service.lazy(&service.url)?;
    service.until_valid(&node).await?;
    // The node is registered and opens no connection in the background for the next seconds.
    // Otherwise one could be authenticated after the others have ended.
    until_journal_reads(&node, 2).await?;
    let password = |word: &str| format!("ALTER ROLE {ROLE} PASSWORD '{word}'");
    service.execute(password("another")).await?;
    assert_eq!(ask(&node, &service.alice).await, "valid");
    // A connection that was being authenticated when the password changed may appear after the
    // others have ended. The next round ends it.
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
    service.assert_outage(&node, credentials).await?;
    service.execute(password("secret")).await?;
    service.until_valid(&node).await
}

// Behind a pooler, a prepared statement is missing on the next connection, its name is taken there,
// or it is another statement of the same form. Hooks of a pool produce all three.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_26000_42p05_behind_a_pooler() -> Outcome {
    let service = Service::start().await?;
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
                // It reads none of the tokens.
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
            PostgresStore::from_pool(pool.clone()).schema(service.servers.schema()).build()?;
        let node = service.over(store)?;
        wait::until("a request that is rejected", SOON, async || {
            let answer = ask(&node, &service.alice).await;
            assert_ne!(answer, "invalid");
            // The journal may be using the pool's only connection.
            let errors = node.recent_errors().join("\n");
            answer == "unavailable" && says.iter().all(|text| errors.contains(text))
        })
        .await?;
        node.shutdown(SOON).await?;
        pool.close().await;
    }
    Ok(())
}
