//! The fixture of the tests on real servers: a sandbox, and sessions on it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use redis::aio::MultiplexedConnection;
use session_layer::cache::{RedisCache, SessionCache};
use session_layer::store::{PostgresStore, SessionStore};
use session_layer::{
    Created, LookupInfo, NewSession, SessionCacheLayer, Sessions, Source, Validation, Visibility,
};
use session_testkit::backends::{Backend, Backends, PostgresServer, RedisServer, Sandbox};
use session_testkit::deployment::{Deployment, DeploymentBuilder};
use session_testkit::wait;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::harness::{Failure, Outcome, default_backend, shared};

/// How long a condition may take to come true on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Servers, and a sandbox on them.
pub struct Servers {
    pub backends: Arc<Backends>,
    /// The Redis of the backends, or one that only this test uses.
    pub redis: RedisServer,
    pub sandbox: Sandbox,
}

impl Servers {
    /// Returns a sandbox on servers that other tests use as well.
    pub async fn shared() -> Result<Self, Failure> {
        Ok(Self::on(shared().await?))
    }

    pub fn on(backends: Arc<Backends>) -> Self {
        Self { redis: backends.redis().clone(), sandbox: backends.sandbox(), backends }
    }

    /// Starts both servers for this test, which breaks them.
    pub async fn own() -> Result<Self, Failure> {
        Self::own_on(default_backend().await?).await
    }

    pub async fn own_on(backend: Backend) -> Result<Self, Failure> {
        Ok(Self::on(Arc::new(Backends::builder().backend(backend).start().await?)))
    }

    /// Starts a Redis for this test, which breaks it. Postgres is shared.
    pub async fn own_redis() -> Result<Self, Failure> {
        Self::own_redis_with(&[]).await
    }

    pub async fn own_redis_with(arguments: &[&str]) -> Result<Self, Failure> {
        Self::own_redis_beside(shared().await?, default_backend().await?, arguments).await
    }

    pub async fn own_redis_beside(
        backends: Arc<Backends>,
        backend: Backend,
        arguments: &[&str],
    ) -> Result<Self, Failure> {
        let builder = Backends::builder().backend(backend);
        let redis = builder.redis_args(arguments.iter().copied()).start_redis().await?;
        Ok(Self { redis, sandbox: backends.sandbox(), backends })
    }

    pub fn postgres(&self) -> &PostgresServer {
        self.backends.postgres()
    }

    pub fn database_url(&self) -> &str {
        self.sandbox.database_url()
    }

    pub fn schema(&self) -> &str {
        self.sandbox.schema()
    }

    pub fn namespace(&self) -> &str {
        self.sandbox.namespace()
    }

    /// Creates a node. Its deadlines are generous: what is tested does not depend on the machine.
    pub async fn sessions(&self) -> Result<Sessions, Failure> {
        self.sessions_at(self.redis.url()).await
    }

    pub async fn sessions_at(&self, redis_url: &str) -> Result<Sessions, Failure> {
        Ok(built(cache_within(LOOK_UP, redis_url, &self.sandbox)?, self.store().await?))
    }

    /// Creates a node, and a session of alice that it serves from Redis.
    pub async fn cached(&self) -> Result<(Sessions, Created), Failure> {
        self.cached_at(self.redis.url()).await
    }

    pub async fn cached_at(&self, redis_url: &str) -> Result<(Sessions, Created), Failure> {
        let sessions = self.sessions_at(redis_url).await?;
        let alice = login(&sessions, "alice").await?;
        until_hit(&sessions, &alice).await?;
        Ok((sessions, alice))
    }

    pub async fn by_leases_alone(&self) -> Result<Sessions, Failure> {
        by_leases_alone(self.cache()?, self.store().await?).await
    }

    pub fn cache(&self) -> Result<RedisCache, Failure> {
        cache_within(LOOK_UP, self.redis.url(), &self.sandbox)
    }

    /// Returns the store after its migration.
    pub async fn store(&self) -> Result<PostgresStore, Failure> {
        store(&self.sandbox).await
    }

    pub async fn store_at(&self, database_url: &str) -> Result<PostgresStore, Failure> {
        let store = PostgresStore::builder(database_url)
            .schema(self.schema())
            .read_deadline(Duration::from_secs(3))
            .build()?;
        store.migrate().await?;
        Ok(store)
    }

    /// Returns the key under which a session is cached.
    pub fn key(&self, created: &Created) -> String {
        format!("{}:2:{}", self.namespace(), created.token.digest().to_base64url())
    }

    pub async fn redis(&self) -> Result<MultiplexedConnection, Failure> {
        Ok(self.redis.connect().await?)
    }

    /// Connects to Postgres as an operator does. Statements refer to the sandbox's schema.
    pub async fn operator(&self) -> Result<PgConnection, Failure> {
        let options: PgConnectOptions = self.database_url().parse()?;
        Ok(options.options([("search_path", self.schema())]).connect().await?)
    }

    /// Executes direct SQL.
    pub async fn sql(&self, statements: impl Into<String>) -> Outcome {
        run(&mut self.operator().await?, statements).await
    }

    pub async fn revoke_by_sql(&self, created: &Created) -> Outcome {
        let id = created.session.id();
        self.sql(format!("UPDATE sessions SET revoked_at = now() WHERE id = '{id}'")).await
    }

    pub async fn delete_by_sql(&self, created: &Created) -> Outcome {
        self.sql(format!("DELETE FROM sessions WHERE id = '{}'", created.session.id())).await
    }

    /// Makes every statement that needs space fail as on a full disk. Rows can be read.
    pub async fn fill_disk(&self) -> Outcome {
        self.sql(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
             END $$;
             CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON sessions
               FOR EACH STATEMENT EXECUTE FUNCTION full_disk()",
        )
        .await
    }

    pub async fn free_disk(&self) -> Outcome {
        self.sql("DROP FUNCTION full_disk CASCADE").await
    }
}

const LOOK_UP: Duration = Duration::from_millis(500);

/// Builds a node whose validations end by their reply and not by their budget.
pub fn built<C: SessionCache, S: SessionStore>(cache: C, store: S) -> Sessions {
    Sessions::builder(cache, store)
        .validation_timeout(Duration::from_secs(5))
        .slow_lookup_threshold(Duration::from_secs(5))
        .change_wait(Duration::from_secs(5))
        .build()
        .expect("settings within their ranges")
}

/// Builds a node that reads the journal when it starts and when it is registered, and not again.
/// Otherwise the journal would end a late fill within half a second.
pub async fn by_leases_alone<C: SessionCache, S: SessionStore>(
    cache: C,
    store: S,
) -> Result<Sessions, Failure> {
    let sessions = Sessions::builder(cache, store)
        .validation_timeout(Duration::from_secs(5))
        .slow_lookup_threshold(SOON)
        .change_wait(SOON)
        .journal_interval(Duration::from_secs(3600))
        .build()?;
    until_journal_reads(&sessions, 2).await?;
    Ok(sessions)
}

pub fn cache_within(
    deadline: Duration,
    redis_url: &str,
    sandbox: &Sandbox,
) -> Result<RedisCache, Failure> {
    let builder = RedisCache::builder(redis_url).namespace(sandbox.namespace());
    Ok(builder.deadline(deadline).build()?)
}

/// Returns the store of a sandbox after its migration.
pub async fn store(sandbox: &Sandbox) -> Result<PostgresStore, Failure> {
    let store = PostgresStore::builder(sandbox.database_url())
        .schema(sandbox.schema())
        .read_deadline(Duration::from_secs(3))
        .build()?;
    store.migrate().await?;
    Ok(store)
}

pub async fn login(sessions: &Sessions, user: &str) -> Result<Created, Failure> {
    Ok(sessions.create(NewSession::new(user)).await?)
}

/// Validates a session and returns the result in a word.
pub async fn ask(sessions: &Sessions, created: &Created) -> &'static str {
    word(&sessions.validate(created.token.reveal()).await)
}

pub fn word(validation: &Validation) -> &'static str {
    match validation {
        Validation::Valid(_) => "valid",
        Validation::Invalid => "invalid",
        Validation::Unavailable => "unavailable",
        _ => "something else",
    }
}

/// Waits until a validation returns this word.
pub async fn until(sessions: &Sessions, created: &Created, word: &str) -> Outcome {
    let what = format!("the session to be {word}");
    wait::until(what, SOON, async || ask(sessions, created).await == word).await?;
    Ok(())
}

/// Validates until the reply comes from the cache. It asks each reply for its source, because other
/// validations may hit at the same time.
pub async fn until_hit(sessions: &Sessions, created: &Created) -> Outcome {
    let handler = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(())));
    let layer = SessionCacheLayer::new(sessions.clone()).lookup_info(true);
    wait::until("a hit", SOON, async || {
        let bearer = format!("Bearer {}", created.token.reveal());
        let request = Request::get("/")
            .header(AUTHORIZATION, bearer)
            .body(())
            .expect("a token is a header value");
        let Ok(response) = layer.layer(handler).oneshot(request).await;
        assert_eq!(response.status(), 200);
        let source = response.extensions().get().map(|info: &LookupInfo| info.source);
        matches!(source, Some(Source::Cache | Source::Near))
    })
    .await?;
    Ok(())
}

/// Waits until the cache responds to PING and accepts commands, as this node sees it.
pub async fn until_connected(sessions: &Sessions) -> Outcome {
    wait::until("a connection", SOON, async || sessions.cache_status().connected).await?;
    Ok(())
}

pub async fn until_disconnected(sessions: &Sessions) -> Outcome {
    wait::until("the connection's end", SOON, async || !sessions.cache_status().connected).await?;
    Ok(())
}

/// Waits until a node has read the journal this often.
pub async fn until_journal_reads(sessions: &Sessions, reads: u64) -> Outcome {
    let what = "reads of the journal";
    wait::until(what, SOON, async || sessions.metrics().journal_reads >= reads).await?;
    Ok(())
}

/// Waits until a read of the journal that began later has ended.
pub async fn until_journal_is_read(sessions: &Sessions) -> Outcome {
    until_journal_reads(sessions, sessions.metrics().journal_reads + 2).await
}

/// Executes statements on a connection.
pub async fn run(connection: &mut PgConnection, statements: impl Into<String>) -> Outcome {
    sqlx::raw_sql(AssertSqlSafe(statements.into())).execute(connection).await?;
    Ok(())
}

/// Executes statements as a superuser, outside of a sandbox.
pub async fn execute(postgres: &PostgresServer, statements: String) -> Outcome {
    run(&mut postgres.connect().await?, statements).await
}

/// Asserts that the longest duration is accepted as any other.
pub async fn assert_longest_durations_work(sessions: &Sessions) -> Outcome {
    let alice = login(sessions, "alice").await?;
    until_hit(sessions, &alice).await?;
    let rotated = sessions.rotate(alice.token.reveal(), Duration::MAX).await?;
    until_hit(sessions, &alice).await?;
    let token = rotated.value.token;
    let revoked = sessions.revoke(token.reveal()).wait(Duration::MAX).await?;
    assert_eq!((revoked.value, revoked.visibility), (1, Visibility::Propagated));
    assert_eq!(ask(sessions, &alice).await, "invalid");
    Ok(())
}

/// Returns what the health document reports as wrong, as one text.
pub async fn health_errors(sessions: &Sessions) -> String {
    let report = sessions.health().await;
    assert_eq!(report.http_status(), 200, "{report:?}");
    report.errors.join("\n")
}

pub fn assert_contains(text: &str, words: &[&str], of: &dyn std::fmt::Display) {
    for word in words {
        assert!(text.contains(word), "{of}: no `{word}` in\n{text}");
    }
}

/// Returns a deployment with generous deadlines.
pub fn roomy() -> DeploymentBuilder {
    Deployment::builder()
        .nodes(2)
        .ttl(Duration::from_secs(3))
        .deadlines(Duration::from_secs(2), Duration::from_secs(5))
}
