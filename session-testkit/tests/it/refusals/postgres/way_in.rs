//! The way in is wrong: to a standby, with credentials that are not, through a pooler.

use session_layer::Mode;
use session_layer::store::PostgresStore;
use session_testkit::backends::Backend;
use session_testkit::wait;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Row as _};

use super::{Service, assert_says};
use crate::harness::{Outcome, Registry};
use crate::support::{SOON, ask, built, cache, execute, login};

pub(super) fn tests(reg: &mut Registry) {
    reg.each_backend("postgres_is_a_standby", standby);
    reg.each_backend("postgres_28p01_28000_3d000_lets_us_not_in", not_let_in);
    reg.each_backend("postgres_26000_42p05_behind_a_pooler", pooler);
}

/// It answers, and may be behind: what it says of a session is not believed, in neither direction.
async fn standby(backend: Backend) -> Outcome {
    let service = Service::start(backend).await?;
    let ended = login(&service.owner, "ended").await?;
    let _ = service.owner.revoke(ended.token.reveal()).await?;
    let mark = "COPY (SELECT) TO PROGRAM 'cat > standby.signal'".to_owned();
    execute(service.backends.postgres(), mark).await?;
    service.backends.postgres().restart().await?;
    let node = service.lazy(&service.url)?;
    assert_eq!(ask(&node, &ended).await, "unavailable");
    service
        .refused(&node, &["replica in recovery", "primary"])
        .await?;
    execute(
        service.backends.postgres(),
        "SELECT pg_promote()".to_owned(),
    )
    .await?;
    service.until_valid(&node).await?;
    assert_eq!(ask(&node, &ended).await, "invalid");
    Ok(())
}

/// A wrong password, a user and a database that there are not.
async fn not_let_in(backend: Backend) -> Outcome {
    let service = Service::start(backend).await?;
    let asked = format!(
        "COPY (SELECT) TO PROGRAM
           'cp pg_hba.conf was.conf; echo host all {} all scram-sha-256 | cat - was.conf > pg_hba.conf';
         SELECT pg_reload_conf()",
        service.role
    );
    execute(service.backends.postgres(), asked).await?;
    let credentials = &["user or password", "DATABASE_URL", "pg_hba.conf"][..];
    let (server, _) = service.url.rsplit_once('/').unwrap_or_default();
    for (url, says) in [
        (service.url.replace(":secret@", ":wr0ng@"), credentials),
        (service.url.replace("the_app:", "nobody_here:"), credentials),
        (
            format!("{server}/nowhere"),
            &["database of DATABASE_URL", "does not exist"],
        ),
    ] {
        let node = service.lazy(&url)?;
        service.refused(&node, says).await?;
        let errors = node.recent_errors().join("\n");
        assert!(!errors.contains("wr0ng"), "{errors}");
    }
    // The password is changed under a node: its connections go on, and it gets no others.
    let node = service.lazy(&service.url)?;
    service.until_valid(&node).await?;
    let password = |word: &str| format!("ALTER ROLE {} PASSWORD '{word}'", service.role);
    execute(service.backends.postgres(), password("another")).await?;
    assert_eq!(ask(&node, &service.alice).await, "valid");
    service.end_connections().await?;
    service.refused(&node, credentials).await?;
    execute(service.backends.postgres(), password("secret")).await?;
    service.until_valid(&node).await
}

/// What was prepared over one connection to Postgres is missing on the next, or its name is taken there, or it is
/// another statement there, whose answer looks like ours. Hooks of a pool do all three here.
async fn pooler(backend: Backend) -> Outcome {
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
            sqlx::raw_sql(AssertSqlSafe(names.collect::<String>()))
                .execute(connection)
                .await?;
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
                    sqlx::raw_sql(AssertSqlSafe(replace))
                        .execute(&mut *connection)
                        .await?;
                }
            }
            Ok(true)
        })
    });
    let says = &["pooler", "pooled(true)"][..];
    for (options, says) in [
        (forgets, says),
        (taken, says),
        (another, &["something else than was asked", "pooled(true)"]),
    ] {
        let pool = options.max_connections(1).connect(&service.url).await?;
        let store = PostgresStore::from_pool(pool.clone()).schema(service.sandbox.schema())?;
        let node = built(cache(service.sandbox.redis_url(), &service.sandbox)?, store);
        node.set_mode(Mode::Bypass);
        wait::until("a request that is refused", SOON, async || {
            let answer = ask(&node, &service.alice).await;
            assert_ne!(answer, "invalid");
            answer == "unavailable"
        })
        .await?;
        let errors = node.recent_errors().join("\n");
        assert_says(&errors, says, &"26000, 42P05");
        node.shutdown(SOON).await?;
        pool.close().await;
    }
    Ok(())
}
