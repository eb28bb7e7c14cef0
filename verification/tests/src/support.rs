//! What the tests of session-layer share: a service's sessions on a sandbox of real servers.

use std::time::Duration;

use session_layer::cache::{RedisCache, SessionCache};
use session_layer::store::{PostgresStore, SessionStore};
use session_layer::{Created, NewSession, Sessions, Validation, Visibility};
use session_testkit::backends::{Backend, Backends, PostgresServer, RedisServer, Sandbox};
use session_testkit::deployment::{Deployment, DeploymentBuilder};
use session_testkit::wait;
use sqlx::AssertSqlSafe;

use crate::harness::{Failure, Outcome, default_backend};

/// How long a condition may take to come true on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A Redis of the test's own, to be broken; Postgres is shared.
pub struct OwnRedis {
    pub redis: RedisServer,
    pub sandbox: Sandbox,
}

impl OwnRedis {
    pub async fn start(backends: &Backends) -> Result<Self, Failure> {
        Self::start_with(backends, &[]).await
    }

    pub async fn start_with(backends: &Backends, arguments: &[&str]) -> Result<Self, Failure> {
        Self::start_on(default_backend().await?, backends, arguments).await
    }

    pub async fn start_on(
        backend: Backend,
        backends: &Backends,
        arguments: &[&str],
    ) -> Result<Self, Failure> {
        let builder = Backends::builder().backend(backend);
        let redis = builder.redis_args(arguments.iter().copied()).start_redis().await?;
        Ok(Self { redis, sandbox: backends.sandbox() })
    }

    pub async fn sessions(&self) -> Result<Sessions, Failure> {
        sessions_on(self.redis.url(), &self.sandbox).await
    }
}

/// Sessions on this Redis and the sandbox's Postgres, with room in every deadline: what is tested
/// is what happens, not how fast this machine is.
pub async fn sessions_on(redis_url: &str, sandbox: &Sandbox) -> Result<Sessions, Failure> {
    Ok(built(cache(redis_url, sandbox)?, store(sandbox).await?))
}

pub async fn sessions(sandbox: &Sandbox) -> Result<Sessions, Failure> {
    sessions_on(sandbox.redis_url(), sandbox).await
}

/// A generous budget: a validation on a busy machine must end by its answer, not by its budget.
pub fn built<C: SessionCache, S: SessionStore>(cache: C, store: S) -> Sessions {
    Sessions::builder(cache, store)
        .validation_timeout(Duration::from_secs(5))
        .slow_lookup_threshold(Duration::from_secs(5))
        .change_wait(Duration::from_secs(5))
        .build()
        .expect("settings within their ranges")
}

/// The journal would catch a late fill within half a second. Here it is read when the node starts
/// and when it is registered, and both before anything happens.
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
    wait::until("the first two reads of the journal", SOON, async || {
        sessions.metrics().journal_reads >= 2
    })
    .await?;
    Ok(sessions)
}

pub fn cache(redis_url: &str, sandbox: &Sandbox) -> Result<RedisCache, Failure> {
    cache_within(Duration::from_millis(500), redis_url, sandbox)
}

/// One whose operations may take this long.
pub fn cache_within(
    deadline: Duration,
    redis_url: &str,
    sandbox: &Sandbox,
) -> Result<RedisCache, Failure> {
    let builder = RedisCache::builder(redis_url).namespace(sandbox.namespace());
    Ok(builder.deadline(deadline).build()?)
}

/// Migrated.
pub async fn store(sandbox: &Sandbox) -> Result<PostgresStore, Failure> {
    store_on(sandbox.database_url(), sandbox).await
}

pub async fn store_on(database_url: &str, sandbox: &Sandbox) -> Result<PostgresStore, Failure> {
    let store = PostgresStore::builder(database_url)
        .schema(sandbox.schema())
        .read_deadline(Duration::from_secs(3))
        .build()?;
    store.migrate().await?;
    Ok(store)
}

/// The key under which a session is cached.
pub fn key(sandbox: &Sandbox, created: &Created) -> String {
    format!("{}:2:{}", sandbox.namespace(), created.token.digest().to_base64url())
}

pub async fn login(sessions: &Sessions, user: &str) -> Result<Created, Failure> {
    Ok(sessions.create(NewSession::new(user)).await?)
}

/// The answer in a word.
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

/// Validates until the answer comes from the cache.
pub async fn until_hit(sessions: &Sessions, created: &Created) -> Result<Duration, Failure> {
    Ok(wait::until("an answer from the cache", SOON, async || {
        let hits = sessions.metrics().hits;
        assert_eq!(ask(sessions, created).await, "valid");
        sessions.metrics().hits > hits
    })
    .await?)
}

/// Until the cache answers PING and takes commands, as this node sees it.
pub async fn until_connected(sessions: &Sessions) -> Result<Duration, Failure> {
    Ok(wait::until("Redis to be in use", SOON, async || sessions.cache_status().connected).await?)
}

pub async fn until_disconnected(sessions: &Sessions) -> Result<Duration, Failure> {
    Ok(wait::until("Redis to be given up", SOON, async || !sessions.cache_status().connected)
        .await?)
}

/// What a person would do with psql.
pub async fn execute(postgres: &PostgresServer, statements: String) -> Outcome {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut postgres.connect().await?).await?;
    Ok(())
}

/// The answer of a full disk to whatever needs a new page; what is there can be read. (A disk is
/// not filled for it: the code is raised where Postgres would.)
pub async fn fill_disk(postgres: &PostgresServer, schema: &str) -> Outcome {
    let full = format!(
        "CREATE FUNCTION {schema}.full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
         END $$;
         CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON {schema}.sessions
           FOR EACH STATEMENT EXECUTE FUNCTION {schema}.full_disk()"
    );
    execute(postgres, full).await
}

/// There is space again.
pub async fn free_disk(postgres: &PostgresServer, schema: &str) -> Outcome {
    execute(postgres, format!("DROP FUNCTION {schema}.full_disk CASCADE")).await
}

/// "For ever" is a span as any other.
pub async fn lives_for_ever(sessions: &Sessions) -> Outcome {
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

/// A deployment with room in every deadline: what is tested is what happens, not how fast this
/// machine is.
pub fn roomy() -> DeploymentBuilder {
    Deployment::builder()
        .nodes(2)
        .ttl(Duration::from_secs(3))
        .deadlines(Duration::from_secs(2), Duration::from_secs(5))
}
