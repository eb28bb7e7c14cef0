//! What is measured.

use std::convert::Infallible;
use std::sync::Arc;

use clap::ValueEnum;
use futures_util::StreamExt as _;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use session_benches::key;
use session_layer::cache::RedisCache;
use session_layer::store::PostgresStore;
use session_layer::{
    CacheMode, Session, SessionCacheLayer, SessionCacheService, Sessions, TokenDigest,
};
use session_testkit::backends::{Backends, Sandbox};
use sqlx::postgres::PgPoolOptions;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgPool, Row as _, SqlSafeStr as _, SqlStr,
};
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

use crate::Error;
use crate::load::Load;

/// Callers that warm a cache.
const WARMING: usize = 64;
/// A near cache that holds every session.
const NEAR_CACHE: usize = 256 << 20;
/// Connections of the bare pool.
const POOL: u32 = 10;

/// The names of the subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// GET over one multiplexed connection of redis-rs.
    RedisGet,
    /// A request that the layer answers from Redis.
    Hit,
    /// The same with sealed entries.
    HitSealed,
    /// A request that the layer answers from the near cache.
    NearHit,
    /// A look-up by primary key over a pool of sqlx.
    PostgresGet,
    /// A request that the layer answers from Postgres alone.
    PostgresAlone,
}

impl Kind {
    /// Returns the bare command beside which this is measured.
    pub(crate) fn bare(self) -> Self {
        match self {
            Self::RedisGet | Self::Hit | Self::HitSealed | Self::NearHit => Self::RedisGet,
            Self::PostgresGet | Self::PostgresAlone => Self::PostgresGet,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RedisGet => "bare GET",
            Self::Hit => "Redis hit",
            Self::HitSealed => "Redis hit, sealed",
            Self::NearHit => "near hit",
            Self::PostgresGet => "bare look-up by primary key",
            Self::PostgresAlone => "Postgres alone",
        }
    }
}

type Inner = fn(Request<()>) -> std::future::Ready<Result<Response<()>, Infallible>>;
type Guarded = SessionCacheService<tower::util::ServiceFn<Inner>>;

/// A subject that one caller calls. Clones share connections.
#[derive(Clone)]
pub(crate) enum Subject {
    Redis(MultiplexedConnection, Arc<[String]>),
    Layer(Guarded, Arc<[HeaderValue]>, Sessions),
    Postgres(PgPool, SqlStr, Arc<[TokenDigest]>),
}

impl Subject {
    /// Asks for this session, which is valid.
    pub(crate) async fn call(&mut self, session: usize) -> Result<(), Error> {
        match self {
            Self::Redis(connection, keys) => {
                let value: Vec<u8> = connection.get(&keys[session]).await?;
                if value.is_empty() { Err("the session is not in Redis".into()) } else { Ok(()) }
            }
            Self::Layer(service, headers, sessions) => {
                let mut request = Request::new(());
                request.headers_mut().insert(AUTHORIZATION, headers[session].clone());
                let response = service.ready().await?.call(request).await?;
                if response.status().is_success() {
                    Ok(())
                } else {
                    let reasons = sessions.health().await.errors.join("\n");
                    Err(format!("the layer's answer was {}: {reasons}", response.status()).into())
                }
            }
            Self::Postgres(pool, statement, digests) => {
                let digest = digests[session].as_bytes().as_slice();
                let row = sqlx::query(statement.clone()).bind(digest).fetch_one(&*pool).await?;
                row.try_get::<&str, _>("user_id")?;
                Ok(())
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a service takes its request")]
fn answer(request: Request<()>) -> std::future::Ready<Result<Response<()>, Infallible>> {
    let mut response = Response::new(());
    if request.extensions().get::<Session>().is_none() {
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    }
    std::future::ready(Ok(response))
}

/// The servers, with the sessions in Postgres.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) backends: Backends,
    sandbox: Sandbox,
}

impl Deployment {
    pub(crate) async fn start(load: &Load) -> Result<Self, Error> {
        let backends = Backends::start().await?;
        let sandbox = backends.sandbox();
        let deployment = Self { backends, sandbox };
        deployment.store()?.migrate().await?;
        let mut connection = deployment.backends.postgres().connect().await?;
        let schema = deployment.sandbox.schema();
        let insert = format!(
            "WITH users AS (INSERT INTO {schema}.session_users (user_id) \
               SELECT 'user-' || n FROM generate_series(1, cardinality($1)) n) \
             INSERT INTO {schema}.sessions (token_digest, user_id, data, expires_at) \
             SELECT d, 'user-' || n, $2::json, now() + interval '1 day' \
             FROM unnest($1) WITH ORDINALITY AS d(d, n)"
        );
        let digests: Vec<Vec<u8>> =
            load.tokens.iter().map(|token| TokenDigest::of(token).as_bytes().to_vec()).collect();
        let insert =
            sqlx::query(AssertSqlSafe(insert).into_sql_str()).bind(digests).bind(&load.data);
        insert.execute(&mut connection).await?;
        connection.execute("VACUUM ANALYZE").await?;
        connection.close().await?;
        Ok(deployment)
    }

    fn store(&self) -> Result<PostgresStore, Error> {
        let builder = PostgresStore::builder(self.sandbox.database_url());
        Ok(builder.schema(self.sandbox.schema()).max_connections(20).build()?)
    }

    fn sessions(&self, namespace: &str, kind: Kind) -> Result<Sessions, Error> {
        let mut cache = RedisCache::builder(self.sandbox.redis_url()).namespace(namespace);
        if kind == Kind::HitSealed {
            cache = cache.encryption_keys(format!("bench:{}A=", "b".repeat(42)).parse()?);
        }
        Ok(Sessions::builder(cache.build()?, self.store()?)
            .near_cache(if kind == Kind::NearHit { NEAR_CACHE } else { 0 })
            .ttl(std::time::Duration::from_secs(3600))
            .build()?)
    }

    /// Starts a subject, with all sessions in its cache.
    pub(crate) async fn subject(&self, kind: Kind, load: &Load) -> Result<Subject, Error> {
        let digests = load.tokens.iter().map(|token| TokenDigest::of(token));
        let namespace = format!("{}:{}", self.sandbox.namespace(), kind.name().replace(' ', "-"));
        Ok(match kind {
            Kind::RedisGet => {
                let mut connection = self.backends.redis().connect().await?;
                let keys: Arc<[String]> = digests.map(|digest| key(&namespace, &digest)).collect();
                for keys in keys.chunks(1_000) {
                    let value = "v".repeat(load.data.len() + 150);
                    let pairs: Vec<_> = keys.iter().map(|key| (key, &value)).collect();
                    let () = connection.mset(&pairs).await?;
                }
                Subject::Redis(connection, keys)
            }
            Kind::PostgresGet => {
                let schema = self.sandbox.schema();
                let pool = PgPoolOptions::new().max_connections(POOL);
                let pool = pool.connect(self.sandbox.database_url()).await?;
                let statement = format!(
                    "SELECT id, user_id, data::text, expires_at FROM {schema}.sessions \
                     WHERE token_digest = $1"
                );
                let statement = AssertSqlSafe(statement).into_sql_str();
                Subject::Postgres(pool, statement, digests.collect())
            }
            Kind::Hit | Kind::HitSealed | Kind::NearHit => {
                let sessions = self.sessions(&namespace, kind)?;
                warm(&sessions, load).await?;
                layer(sessions, load)?
            }
            Kind::PostgresAlone => {
                let sessions = self.sessions(&namespace, kind)?;
                sessions.set_mode(CacheMode::Bypass);
                layer(sessions, load)?
            }
        })
    }

    pub(crate) async fn stop(self) -> Result<(), Error> {
        Ok(self.sandbox.cleanup().await?)
    }
}

fn layer(sessions: Sessions, load: &Load) -> Result<Subject, Error> {
    let service = SessionCacheLayer::new(sessions.clone()).layer(service_fn(answer as Inner));
    let header = |token| HeaderValue::try_from(format!("Bearer {token}"));
    let headers = load.tokens.iter().map(header).collect::<Result<_, _>>()?;
    Ok(Subject::Layer(service, headers, sessions))
}

/// Validates each session until the cache has answered for all of them.
async fn warm(sessions: &Sessions, load: &Load) -> Result<(), Error> {
    loop {
        let hits = sessions.metrics().hits;
        let validations = load.tokens.iter().map(|token| sessions.validate(token));
        futures_util::stream::iter(validations).buffer_unordered(WARMING).count().await;
        if sessions.metrics().hits - hits == load.tokens.len() as u64 {
            return Ok(());
        }
    }
}
