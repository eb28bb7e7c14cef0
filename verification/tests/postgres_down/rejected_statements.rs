//! Postgres refuses: who has a copy goes on, others get "unavailable", and the errors say what to
//! do.

mod connecting;

use std::time::{Duration, Instant};

use session_layer::store::PostgresStore;
use session_layer::{CacheMode, Created, Error, NewSession, SessionToken, Sessions};
use session_testkit::backends::{Backend, Backends, Sandbox};
use session_testkit::faults::{self, Fault, Target};
use session_testkit::wait;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPoolOptions;

use crate::harness::{Failure, Outcome, default_backend};
use crate::operation::health_errors::assert_says;
use crate::support::{
    SOON, ask, built, cache, execute, fill_disk, free_disk, login, sessions, store_on, word,
};

/// A service whose role is an ordinary one, and a session that Redis has no copy of.
struct Service {
    backends: Backends,
    sandbox: Sandbox,
    role: String,
    url: String,
    owner: Sessions,
    alice: Created,
}

impl Service {
    async fn start(backend: Backend) -> Result<Self, Failure> {
        let backends = Backends::builder().backend(backend).start().await?;
        let sandbox = backends.sandbox();
        let owner = sessions(&sandbox).await?;
        let alice = login(&owner, "alice").await?;
        let (schema, role) = (sandbox.schema(), "the_app".to_owned());
        let grants = format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'secret';
             GRANT USAGE ON SCHEMA {schema} TO {role};
             GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role};
             {}",
            session_layer::store::grants(schema, &role)
        );
        execute(backends.postgres(), grants).await?;
        let database = sandbox.database_url().rsplit('/').next().unwrap_or_default();
        let address = session_testkit::url::address(sandbox.database_url()).unwrap_or_default();
        let url = format!("postgres://{role}:secret@{address}/{database}");
        Ok(Self { backends, sandbox, role, url, owner, alice })
    }

    fn target(&self) -> Target {
        Target::new(&self.backends).role(&self.role).schema(self.sandbox.schema())
    }

    /// Asks Postgres each time.
    async fn node(&self) -> Result<Sessions, Failure> {
        let cache = cache(self.sandbox.redis_url(), &self.sandbox)?;
        let node = built(cache, store_on(&self.url, &self.sandbox).await?);
        node.set_mode(CacheMode::Bypass);
        Ok(node)
    }

    /// As [`node`](Self::node), of a Postgres that may not let it in.
    fn lazy(&self, url: &str) -> Result<Sessions, Failure> {
        let store = PostgresStore::builder(url)
            .schema(self.sandbox.schema())
            .read_deadline(Duration::from_secs(3))
            .build()?;
        let node = built(cache(self.sandbox.redis_url(), &self.sandbox)?, store);
        node.set_mode(CacheMode::Bypass);
        Ok(node)
    }

    /// Those that it has open now.
    async fn end_connections(&self) -> Outcome {
        execute(self.backends.postgres(), self.terminate()).await
    }

    fn terminate(&self) -> String {
        format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'",
            self.role
        )
    }

    /// Nobody is told "invalid", and what is wrong is said.
    async fn refused(&self, node: &Sessions, says: &[&str]) -> Outcome {
        // On a busy machine a deadline may come before the reason.
        wait::until(format!("{says:?} to be said"), SOON, async || {
            assert_eq!(ask(node, &self.alice).await, "unavailable");
            let errors = node.recent_errors().join("\n");
            says.iter().all(|say| errors.contains(say))
        })
        .await?;
        let revoked = node.revoke(self.alice.token.reveal()).await;
        assert!(revoked.as_ref().is_err_and(Error::is_outage), "{revoked:?}");
        assert!(!node.health().await.session_store.healthy);
        Ok(())
    }

    async fn until_valid(&self, node: &Sessions) -> Outcome {
        let valid = async || ask(node, &self.alice).await == "valid";
        wait::until("a valid answer", SOON, valid).await?;
        Ok(())
    }
}

/// One that is not used for longer than its idle timeout ends; its use is due to be noted.
async fn due(service: &Service, user: &str) -> Result<Created, Failure> {
    let new = NewSession::new(user).idle_timeout(SOON * 60);
    let created = service.owner.create(new).await?;
    let unused = format!(
        "UPDATE {}.sessions SET last_seen_at = now() - interval '10 minutes' WHERE user_id = \
         '{user}'",
        service.sandbox.schema()
    );
    execute(service.backends.postgres(), unused).await?;
    Ok(created)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_57p01_costs_one_more_try() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let node = service.node().await?;
    assert_eq!(ask(&node, &service.alice).await, "valid");
    let broken = faults::inject(&Fault::PostgresTerminate, &service.target()).await?;
    assert!(broken.heal().await?.touched_something());
    assert_eq!(ask(&node, &service.alice).await, "valid");
    assert!(node.recent_errors().is_empty(), "{:?}", node.recent_errors());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_53300_no_connection_left() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let node = service.node().await?;
    assert_eq!(ask(&node, &service.alice).await, "valid");
    let broken = faults::inject(&Fault::PostgresConnectionLimit, &service.target()).await?;
    service.end_connections().await?;
    service.refused(&node, &["53300", "max_connections"]).await?;
    broken.heal().await?;
    service.until_valid(&node).await
}

/// The node's three pools may open ten. Changes that took what there was give a connection up for
/// validations, and these then share it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn role_limited_to_three_connections() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let node = service.node().await?;
    assert_eq!(ask(&node, &service.alice).await, "valid");
    wait::until("the journal to be read", SOON, async || node.metrics().journal_age.is_some())
        .await?;
    let limit = format!("ALTER ROLE {} CONNECTION LIMIT 3", service.role);
    execute(service.backends.postgres(), limit).await?;
    service.end_connections().await?;
    let mut admin = service.backends.postgres().connect().await?;
    // In a transaction Postgres shows what it has shown before.
    let mut watch = service.backends.postgres().connect().await?;
    let alice = format!(
        "BEGIN; SELECT FROM {}.session_users WHERE user_id = 'alice' FOR UPDATE",
        service.sandbox.schema()
    );
    sqlx::raw_sql(AssertSqlSafe(alice)).execute(&mut admin).await?;
    let logins = [(); 2].map(|()| {
        let node = node.clone();
        tokio::spawn(async move { node.create(NewSession::new("alice")).await })
    });
    wait::until("the role to have all its connections", SOON, async || {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
        let count = sqlx::query_scalar(count).bind(&service.role);
        matches!(count.fetch_one(&mut watch).await, Ok(3_i64))
    })
    .await?;
    sqlx::raw_sql("COMMIT").execute(&mut admin).await?;
    for login in logins {
        // Or its lock was held for too long. What counts is that it has a connection.
        let _ = login.await?;
    }
    assert_eq!(ask(&node, &service.alice).await, "valid");
    let mut asking = Vec::new();
    for _ in 0..50 {
        let (node, token) = (node.clone(), SessionToken::generate()?);
        asking.push(tokio::spawn(async move { word(&node.validate(token.reveal()).await) }));
    }
    for one in asking {
        assert_eq!(one.await?, "invalid");
    }
    node.create(NewSession::new("alice")).await?;
    Ok(())
}

/// A "smart" shutdown waits for those who are connected, and lets nobody in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_57p03_shutting_down() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let node = service.node().await?;
    let mut held = service.backends.postgres().connect().await?;
    let stop = "COPY (SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)) TO PROGRAM \
                'read postmaster; kill -TERM $postmaster'";
    sqlx::raw_sql(stop).execute(&mut held).await?;
    wait::until("Postgres to let nobody in", SOON, async || {
        service.backends.postgres().connect().await.is_err()
    })
    .await?;
    // The node's own would go on.
    sqlx::raw_sql(AssertSqlSafe(service.terminate())).execute(&mut held).await?;
    service.refused(&node, &["starting up or shutting down"]).await?;
    drop(held);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_57014_cancelled() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    // The application's pool, with no timeout of its own; ours sets one.
    let pool = PgPoolOptions::new().connect(&service.url).await?;
    let store = PostgresStore::from_pool(pool.clone())
        .schema(service.sandbox.schema())
        .read_deadline(Duration::from_secs(3))
        .build()?;
    let node = built(cache(service.sandbox.redis_url(), &service.sandbox)?, store);
    node.set_mode(CacheMode::Bypass);
    assert_eq!(ask(&node, &service.alice).await, "valid");
    let broken = faults::inject(&Fault::PostgresTableLock, &service.target()).await?;
    let set = format!("ALTER ROLE {} SET statement_timeout = '200ms'", service.role);
    execute(service.backends.postgres(), set).await?;
    // The setting counts for connections from now on.
    service.end_connections().await?;
    assert_eq!(ask(&node, &service.alice).await, "unavailable");
    let errors = node.recent_errors().join("\n");
    assert_says(&errors, &["cancelled the statement", "statement_timeout"], &"57014");
    broken.heal().await?;
    service.until_valid(&node).await?;
    pool.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_25006_read_only() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let node = service.node().await?;
    let broken = faults::inject(&Fault::PostgresReadOnly, &service.target()).await?;
    assert_eq!(ask(&node, &service.alice).await, "valid", "it can be read");
    let revoked = node.revoke(service.alice.token.reveal()).await;
    assert!(revoked.as_ref().is_err_and(Error::is_outage), "{revoked:?}");
    let errors = node.recent_errors().join("\n");
    assert_says(&errors, &["read-only", "primary"], &"25006");
    broken.heal().await?;
    // Each of its connections hears of it at some time.
    wait::until("a change to be made", SOON, async || {
        node.revoke(service.alice.token.reveal()).await.is_ok()
    })
    .await?;
    assert_eq!(ask(&node, &service.alice).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_42501_denied_and_hidden() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let node = service.node().await?;
    // As it can be pasted.
    let visible = format!("ALTER TABLE \"{}\".\"session", service.sandbox.schema());
    for (fault, says) in [
        (Fault::PostgresRevokedGrant, &["GRANT", "SELECT"][..]),
        (
            Fault::PostgresForcedRls,
            &[
                "row-level security",
                "ALTER ROLE \"the_app\" BYPASSRLS;",
                visible.as_str(),
                "\" DISABLE ROW LEVEL SECURITY;",
            ],
        ),
    ] {
        assert_eq!(ask(&node, &service.alice).await, "valid", "{fault}");
        let broken = faults::inject(&fault, &service.target()).await?;
        service.refused(&node, says).await?;
        broken.heal().await?;
        service.until_valid(&node).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_42p01_no_tables() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let node = service.node().await?;
    let schema = service.sandbox.schema();
    let away = format!("ALTER TABLE {schema}.sessions RENAME TO sessions_away");
    execute(service.backends.postgres(), away).await?;
    service.refused(&node, &["tables are missing", "SESSION_DB_MIGRATE"]).await?;
    let back = format!("ALTER TABLE {schema}.sessions_away RENAME TO sessions");
    execute(service.backends.postgres(), back).await?;
    service.until_valid(&node).await?;
    assert_eq!(ask(&service.owner, &service.alice).await, "valid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_53100_disk_full() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let node = service.node().await?;
    let carol = due(&service, "carol").await?;
    let schema = service.sandbox.schema();
    fill_disk(service.backends.postgres(), schema).await?;
    for created in [&service.alice, &carol] {
        assert_eq!(ask(&node, created).await, "valid", "it can be read");
    }
    let refused = node.revoke(service.alice.token.reveal()).await;
    assert!(refused.as_ref().is_err_and(Error::is_outage), "{refused:?}");
    let refused = node.create(NewSession::new("dave")).await;
    assert!(refused.as_ref().is_err_and(Error::is_outage), "{refused:?}");
    let errors = node.recent_errors().join("\n");
    assert_says(&errors, &["53100", "disk is full", "free space", "touching a session"], &"53100");
    free_disk(service.backends.postgres(), schema).await?;
    let _ = node.revoke(service.alice.token.reveal()).await?;
    assert_eq!(ask(&node, &service.alice).await, "invalid");
    assert_eq!(ask(&node, &carol).await, "valid");
    Ok(())
}

/// As CREATE INDEX holds it, for as long as that takes. What reads goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_locked_against_changes_alone() -> Outcome {
    let backend = default_backend().await?;
    let service = Service::start(backend).await?;
    let node = service.node().await?;
    let mut due_now = Vec::new();
    for n in 0..12 {
        due_now.push(due(&service, &format!("due {n}")).await?);
    }
    let mut person = service.backends.postgres().connect().await?;
    let lock = format!("BEGIN; LOCK TABLE {}.sessions IN SHARE MODE", service.sandbox.schema());
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut person).await?;
    for _ in 0..2 {
        assert_eq!(ask(&node, &service.alice).await, "valid");
        let asked = due_now.iter().map(|created| ask(&node, created));
        for answer in futures_util::future::join_all(asked).await {
            assert_eq!(answer, "valid", "its use is noted later");
        }
    }
    let began = Instant::now();
    let revoked = node.revoke(service.alice.token.reveal()).await;
    assert!(revoked.as_ref().is_err_and(Error::is_outage), "{revoked:?}");
    assert!(!matches!(revoked, Err(Error::Unknown(_))), "{revoked:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let errors = node.recent_errors().join("\n");
    assert_says(&errors, &["a lock was held", "pg_locks"], &"a SHARE lock");
    assert!(node.health().await.session_store.healthy, "it can be read");
    wait::until("a touch to be given up", SOON, async || {
        let is_it =
            |error: &String| error.contains("a lock was held") && error.contains("touching");
        node.recent_errors().iter().any(is_it)
    })
    .await?;
    sqlx::raw_sql("COMMIT").execute(&mut person).await?;
    let _ = node.revoke(service.alice.token.reveal()).await?;
    for created in &due_now {
        assert_eq!(ask(&node, created).await, "valid");
    }
    Ok(())
}
