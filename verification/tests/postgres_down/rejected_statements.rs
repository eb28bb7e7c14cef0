//! Postgres rejects statements. Cached sessions stay valid, others are "unavailable", and the
//! errors name the remedy.

mod connecting;

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::store::PostgresStore;
use session_layer::{CacheMode, Created, Error, NewSession, SessionToken, Sessions};
use session_testkit::faults::{self, Fault, Target};
use session_testkit::wait;
use sqlx::postgres::PgPoolOptions;

use crate::harness::{Failure, Outcome};
use crate::support::{
    SOON, Servers, ask, assert_contains, built, execute, login, run, until, until_hit, word,
};

/// The role of the application.
const ROLE: &str = "the_app";

/// A service with an ordinary role, and a session that is not cached.
struct Service {
    servers: Servers,
    url: String,
    owner: Sessions,
    alice: Created,
}

impl Service {
    async fn start() -> Result<Self, Failure> {
        let servers = Servers::own().await?;
        let owner = servers.sessions().await?;
        let alice = login(&owner, "alice").await?;
        let schema = servers.schema();
        let grants = format!(
            "CREATE ROLE {ROLE} LOGIN PASSWORD 'secret';
             GRANT USAGE ON SCHEMA {schema} TO {ROLE};
             GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {ROLE};
             {}",
            session_layer::store::grants(schema, ROLE)
        );
        servers.sql(grants).await?;
        let database = servers.database_url().rsplit('/').next().unwrap_or_default();
        let address = session_testkit::url::address(servers.database_url()).unwrap_or_default();
        let url = format!("postgres://{ROLE}:secret@{address}/{database}");
        Ok(Self { servers, url, owner, alice })
    }

    async fn inject(&self, fault: Fault) -> Result<faults::FaultGuard, Failure> {
        let target = Target::new(&self.servers.backends).role(ROLE).schema(self.servers.schema());
        Ok(faults::inject(&fault, &target).await?)
    }

    /// Creates a node over this store. It reads Postgres for each validation.
    fn over(&self, store: PostgresStore) -> Result<Sessions, Failure> {
        let node = built(self.servers.cache()?, store);
        node.set_mode(CacheMode::Bypass);
        Ok(node)
    }

    async fn node(&self) -> Result<Sessions, Failure> {
        self.over(self.servers.store_at(&self.url).await?)
    }

    /// Creates a node whose connections may be rejected.
    fn lazy(&self, url: &str) -> Result<Sessions, Failure> {
        let store = PostgresStore::builder(url)
            .schema(self.servers.schema())
            .read_deadline(Duration::from_secs(3))
            .build()?;
        self.over(store)
    }

    /// Executes statements as a superuser, outside of a transaction.
    async fn execute(&self, statements: impl Into<String>) -> Outcome {
        execute(self.servers.postgres(), statements.into()).await
    }

    /// Ends the role's connections.
    async fn end_connections(&self) -> Outcome {
        self.execute(TERMINATE).await
    }

    /// Asserts that the node reports an outage with these words, and never "invalid".
    async fn assert_outage(&self, node: &Sessions, words: &[&str]) -> Outcome {
        // On a busy machine, a deadline may come before the reason.
        wait::until(format!("{words:?} in the errors"), SOON, async || {
            assert_eq!(ask(node, &self.alice).await, "unavailable");
            let errors = node.recent_errors().join("\n");
            words.iter().all(|word| errors.contains(word))
        })
        .await?;
        self.assert_revocation_fails(node).await;
        assert!(!node.health().await.session_store.healthy);
        Ok(())
    }

    async fn assert_revocation_fails(&self, node: &Sessions) {
        let revoked = node.revoke(self.alice.token.reveal()).await;
        assert!(revoked.as_ref().is_err_and(Error::is_outage), "{revoked:?}");
    }

    async fn until_valid(&self, node: &Sessions) -> Outcome {
        until(node, &self.alice, "valid").await
    }

    /// Creates a session that is due for a touch.
    async fn due(&self, user: &str) -> Result<Created, Failure> {
        let new = NewSession::new(user).idle_timeout(SOON * 60);
        let created = self.owner.create(new).await?;
        let unused = "UPDATE sessions SET last_seen_at = now() - interval '10 minutes'";
        self.servers.sql(format!("{unused} WHERE user_id = '{user}'")).await?;
        Ok(created)
    }
}

const TERMINATE: &str =
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'the_app'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_57p01_costs_one_retry() -> Outcome {
    let service = Service::start().await?;
    let node = service.node().await?;
    // Until the first hit the node registers itself, which the fault could interrupt.
    node.set_mode(CacheMode::On);
    until_hit(&node, &service.alice).await?;
    node.set_mode(CacheMode::Bypass);
    let broken = service.inject(Fault::PostgresTerminate).await?;
    assert!(broken.heal().await?.touched_something());
    assert_eq!(ask(&node, &service.alice).await, "valid");
    assert!(node.recent_errors().is_empty(), "{:?}", node.recent_errors());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_53300_no_connection_left() -> Outcome {
    let service = Service::start().await?;
    let node = service.node().await?;
    assert_eq!(ask(&node, &service.alice).await, "valid");
    let broken = service.inject(Fault::PostgresConnectionLimit).await?;
    service.end_connections().await?;
    service.assert_outage(&node, &["53300", "max_connections"]).await?;
    broken.heal().await?;
    service.until_valid(&node).await
}

// The node's three pools may open ten connections. Changes release one for validations, which share
// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn role_limited_to_three_connections() -> Outcome {
    let service = Service::start().await?;
    let node = service.node().await?;
    assert_eq!(ask(&node, &service.alice).await, "valid");
    wait::until("the journal to be read", SOON, async || node.metrics().journal_age.is_some())
        .await?;
    let limit = format!("ALTER ROLE {ROLE} CONNECTION LIMIT 3");
    service.execute(limit).await?;
    service.end_connections().await?;
    let mut admin = service.servers.operator().await?;
    // Within a transaction, Postgres repeats the statistics of its first query.
    let mut watch = service.servers.operator().await?;
    let alice = "BEGIN; SELECT FROM session_users WHERE user_id = 'alice' FOR UPDATE";
    run(&mut admin, alice).await?;
    let logins = [(); 2].map(|()| {
        let node = node.clone();
        tokio::spawn(async move { node.create(NewSession::new("alice")).await })
    });
    wait::until("the role to have all its connections", SOON, async || {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
        let count = sqlx::query_scalar(count).bind(ROLE);
        matches!(count.fetch_one(&mut watch).await, Ok(3_i64))
    })
    .await?;
    run(&mut admin, "COMMIT").await?;
    for login in logins {
        // The login may fail because its lock was held for too long. It only needs a connection.
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

// A "smart" shutdown waits for open connections and accepts no new ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_57p03_shutting_down() -> Outcome {
    let service = Service::start().await?;
    let node = service.node().await?;
    let mut held = service.servers.operator().await?;
    let stop = "COPY (SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)) TO PROGRAM \
                'read postmaster; kill -TERM $postmaster'";
    run(&mut held, stop).await?;
    wait::until("Postgres to reject connections", SOON, async || {
        service.servers.postgres().connect().await.is_err()
    })
    .await?;
    // The node's open connections would continue.
    run(&mut held, TERMINATE).await?;
    service.assert_outage(&node, &["starting up or shutting down"]).await?;
    drop(held);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_57014_cancelled() -> Outcome {
    let service = Service::start().await?;
    // The application's pool has no timeout. The store sets one.
    let pool = PgPoolOptions::new().connect(&service.url).await?;
    let store = PostgresStore::from_pool(pool.clone())
        .schema(service.servers.schema())
        .read_deadline(Duration::from_secs(3))
        .build()?;
    let node = service.over(store)?;
    assert_eq!(ask(&node, &service.alice).await, "valid");
    let broken = service.inject(Fault::PostgresTableLock).await?;
    let set = format!("ALTER ROLE {ROLE} SET statement_timeout = '200ms'");
    service.execute(set).await?;
    // The setting applies to new connections.
    service.end_connections().await?;
    assert_eq!(ask(&node, &service.alice).await, "unavailable");
    let errors = node.recent_errors().join("\n");
    assert_contains(&errors, &["cancelled the statement", "statement_timeout"], &"57014");
    broken.heal().await?;
    service.until_valid(&node).await?;
    pool.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_25006_read_only() -> Outcome {
    let service = Service::start().await?;
    let node = service.node().await?;
    let broken = service.inject(Fault::PostgresReadOnly).await?;
    assert_eq!(ask(&node, &service.alice).await, "valid", "it can be read");
    service.assert_revocation_fails(&node).await;
    let errors = node.recent_errors().join("\n");
    assert_contains(&errors, &["read-only", "primary"], &"25006");
    broken.heal().await?;
    // Each connection learns of it with its next statement.
    wait::until("a change to be made", SOON, async || {
        node.revoke(service.alice.token.reveal()).await.is_ok()
    })
    .await?;
    assert_eq!(ask(&node, &service.alice).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_42501_denied_and_hidden() -> Outcome {
    let service = Service::start().await?;
    let node = service.node().await?;
    // The statement can be pasted.
    let visible = format!("ALTER TABLE \"{}\".\"session", service.servers.schema());
    for (fault, words) in [
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
        let broken = service.inject(fault).await?;
        service.assert_outage(&node, words).await?;
        broken.heal().await?;
        service.until_valid(&node).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_42p01_no_tables() -> Outcome {
    let service = Service::start().await?;
    let node = service.node().await?;
    service.servers.sql("ALTER TABLE sessions RENAME TO sessions_away").await?;
    service.assert_outage(&node, &["tables are missing", "SESSION_DB_MIGRATE"]).await?;
    service.servers.sql("ALTER TABLE sessions_away RENAME TO sessions").await?;
    service.until_valid(&node).await?;
    assert_eq!(ask(&service.owner, &service.alice).await, "valid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_53100_disk_full() -> Outcome {
    let service = Service::start().await?;
    let node = service.node().await?;
    let carol = service.due("carol").await?;
    service.servers.fill_disk().await?;
    for created in [&service.alice, &carol] {
        assert_eq!(ask(&node, created).await, "valid", "it can be read");
    }
    service.assert_revocation_fails(&node).await;
    let refused = node.create(NewSession::new("dave")).await;
    assert!(refused.as_ref().is_err_and(Error::is_outage), "{refused:?}");
    let errors = node.recent_errors().join("\n");
    assert_contains(
        &errors,
        &["53100", "disk is full", "free space", "touching a session"],
        &"53100",
    );
    service.servers.free_disk().await?;
    let _ = node.revoke(service.alice.token.reveal()).await?;
    assert_eq!(ask(&node, &service.alice).await, "invalid");
    assert_eq!(ask(&node, &carol).await, "valid");
    Ok(())
}

// CREATE INDEX holds the same lock. Reads continue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_locked_against_changes_alone() -> Outcome {
    let service = Service::start().await?;
    let node = service.node().await?;
    let mut due_now = Vec::new();
    for n in 0..12 {
        due_now.push(service.due(&format!("due {n}")).await?);
    }
    let mut operator = service.servers.operator().await?;
    run(&mut operator, "BEGIN; LOCK TABLE sessions IN SHARE MODE").await?;
    for _ in 0..2 {
        assert_eq!(ask(&node, &service.alice).await, "valid");
        let asked = due_now.iter().map(|created| ask(&node, created));
        for answer in join_all(asked).await {
            assert_eq!(answer, "valid", "the touch is made later");
        }
    }
    let refused = node.revoke(service.alice.token.reveal()).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "nothing was changed: {refused:?}");
    let errors = node.recent_errors().join("\n");
    assert_contains(&errors, &["a lock was held", "pg_locks"], &"a SHARE lock");
    assert!(node.health().await.session_store.healthy, "it can be read");
    wait::until("a touch to time out", SOON, async || {
        let is_it =
            |error: &String| error.contains("a lock was held") && error.contains("touching");
        node.recent_errors().iter().any(is_it)
    })
    .await?;
    run(&mut operator, "COMMIT").await?;
    let _ = node.revoke(service.alice.token.reveal()).await?;
    for created in &due_now {
        assert_eq!(ask(&node, created).await, "valid");
    }
    Ok(())
}
