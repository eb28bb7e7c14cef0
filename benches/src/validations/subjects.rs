//! What is measured.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use futures_util::StreamExt as _;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
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

use super::floor::{Least, Mget, Together, least_key};
use super::{Load, Row, Subject};
use crate::{Error, key};

/// Callers that warm a cache.
const WARMING: usize = 64;
/// A near cache that holds every session.
const NEAR_CACHE: usize = 256 << 20;
/// The deadline of a validation. A stall of the machine must not end the measurement.
const PATIENCE: Duration = Duration::from_secs(5);
/// The bytes of an entry beside the data, with the id of the user.
const ENTRY: usize = 110;
/// Connections of the bare pool.
const POOL: u32 = 10;

/// The names of the subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// GET over one multiplexed connection of redis-rs.
    RedisGet,
    /// Concurrent GETs that travel together as one MGET.
    RedisMget,
    /// A request whose token is looked up in that way, without any check: the floor of a hit.
    LeastLayer,
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
    #[must_use]
    pub fn bare(self) -> Self {
        match self {
            Self::PostgresGet | Self::PostgresAlone => Self::PostgresGet,
            _ => Self::RedisGet,
        }
    }

    /// Returns the name of its row.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RedisGet => "bare GET",
            Self::RedisMget => "bare GETs as one MGET",
            Self::LeastLayer => "least layer over it",
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

/// GET over one multiplexed connection.
#[derive(Clone)]
struct Get(MultiplexedConnection, Arc<[String]>);

impl Subject for Get {
    async fn call(&mut self, session: usize) -> Result<(), Error> {
        let value: Vec<u8> = self.0.get(&self.1[session]).await?;
        if value.is_empty() { Err("the session is not in Redis".into()) } else { Ok(()) }
    }
}

/// A request through the layer.
#[derive(Clone)]
struct Guard(Guarded, Arc<[HeaderValue]>, Sessions);

impl Subject for Guard {
    async fn call(&mut self, session: usize) -> Result<(), Error> {
        let mut request = Request::new(());
        request.headers_mut().insert(AUTHORIZATION, self.1[session].clone());
        let response = self.0.ready().await?.call(request).await?;
        if response.status().is_success() {
            return Ok(());
        }
        let reasons = self.2.health().await.errors.join("\n");
        Err(format!("the layer's answer was {}: {reasons}", response.status()).into())
    }
}

/// A look-up by primary key.
#[derive(Clone)]
struct Select(PgPool, SqlStr, Arc<[TokenDigest]>);

impl Subject for Select {
    async fn call(&mut self, session: usize) -> Result<(), Error> {
        let digest = self.2[session].as_bytes().as_slice();
        let row = sqlx::query(self.1.clone()).bind(digest).fetch_one(&self.0).await?;
        row.try_get::<&str, _>("user_id")?;
        Ok(())
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
pub struct Deployment {
    /// The servers.
    pub backends: Backends,
    /// The schema and the namespace of keys.
    pub sandbox: Sandbox,
}

impl Deployment {
    /// Starts servers, or uses the given ones, and creates the sessions in Postgres.
    ///
    /// # Errors
    /// If servers cannot be started or used. The error states what to do.
    pub async fn start(load: &Load) -> Result<Self, Error> {
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
        Ok(builder
            .schema(self.sandbox.schema())
            .max_connections(20)
            .read_deadline(PATIENCE)
            .build()?)
    }

    fn sessions(&self, namespace: &str, kind: Kind) -> Result<Sessions, Error> {
        let mut cache = RedisCache::builder(self.sandbox.redis_url()).namespace(namespace);
        if kind == Kind::HitSealed {
            cache = cache.encryption_keys(format!("bench:{}A=", "b".repeat(42)).parse()?);
        }
        let sessions = Sessions::builder(cache.build()?, self.store()?)
            .near_cache(if kind == Kind::NearHit { NEAR_CACHE } else { 0 })
            .validation_timeout(PATIENCE)
            .ttl(Duration::from_secs(3600))
            .build()?;
        #[cfg(feature = "metrics")]
        super::metrics::publish(&sessions, kind.name())?;
        Ok(sessions)
    }

    /// Starts a subject, with all sessions in its cache.
    ///
    /// # Errors
    /// If a server rejects a command.
    pub async fn row(&self, kind: Kind, load: &Load) -> Result<Row, Error> {
        let name = kind.name();
        let digests = load.tokens.iter().map(|token| TokenDigest::of(token));
        let namespace = format!("{}:{}", self.sandbox.namespace(), kind.name().replace(' ', "-"));
        let row = match kind {
            Kind::RedisGet => {
                let keys: Arc<[String]> = digests.map(|digest| key(&namespace, &digest)).collect();
                Row::new(name, Get(self.with_values(&keys, load).await?, keys))
            }
            Kind::RedisMget | Kind::LeastLayer => {
                let prefix: Arc<[u8]> = namespace.as_bytes().into();
                let keys: Arc<[_]> = digests.map(|digest| least_key(&prefix, &digest)).collect();
                let first = self.with_values(&keys, load).await?;
                let together = Together::start([first, self.backends.redis().connect().await?]);
                if kind == Kind::RedisMget {
                    Row::new(name, Mget(together, keys))
                } else {
                    let headers = headers(load)?;
                    Row::new(name, Least { together, prefix, headers })
                }
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
                Row::new(name, Select(pool, statement, digests.collect()))
            }
            Kind::Hit | Kind::HitSealed | Kind::NearHit => {
                let sessions = self.sessions(&namespace, kind)?;
                warm(&sessions, load).await?;
                Row::new(name, layer(sessions, load)?)
            }
            Kind::PostgresAlone => {
                let sessions = self.sessions(&namespace, kind)?;
                sessions.set_mode(CacheMode::Bypass);
                Row::new(name, layer(sessions, load)?)
            }
        };
        let bare = kind.bare();
        Ok(if kind == bare { row } else { row.ratio(name, bare.name()) })
    }

    /// Sets a value of an entry's size under each key. Returns the connection.
    async fn with_values<K: redis::ToRedisArgs + redis::ToSingleRedisArg + Send + Sync>(
        &self,
        keys: &[K],
        load: &Load,
    ) -> Result<MultiplexedConnection, Error> {
        let mut connection = self.backends.redis().connect().await?;
        let value = "v".repeat(load.data.len() + ENTRY);
        for keys in keys.chunks(1_000) {
            let pairs: Vec<_> = keys.iter().map(|key| (key, &value)).collect();
            let () = connection.mset(&pairs).await?;
        }
        Ok(connection)
    }

    /// Removes the schema and the keys.
    ///
    /// # Errors
    /// If a server rejects a command.
    pub async fn stop(self) -> Result<(), Error> {
        Ok(self.sandbox.cleanup().await?)
    }
}

fn layer(sessions: Sessions, load: &Load) -> Result<Guard, Error> {
    let service = SessionCacheLayer::new(sessions.clone()).layer(service_fn(answer as Inner));
    Ok(Guard(service, headers(load)?, sessions))
}

/// Returns the header with each token.
fn headers(load: &Load) -> Result<Arc<[HeaderValue]>, Error> {
    let header = |token| HeaderValue::try_from(format!("Bearer {token}"));
    Ok(load.tokens.iter().map(header).collect::<Result<_, _>>()?)
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
