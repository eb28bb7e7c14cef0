//! tower-sessions on Redis, on Postgres, and with every session in memory over Postgres.

use fred::prelude::{Key, Pool};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use serde_json::Value;
use session_benches::Error;
use session_benches::validations::{Deployment, Load, Subject};
use sqlx::postgres::PgPoolOptions;
use time::OffsetDateTime;
use tower::{Layer as _, service_fn};
use tower_sessions::session::{Id, Record};
use tower_sessions::{CachingSessionStore, Session, SessionManagerLayer, SessionStore};
use tower_sessions_moka_store::MokaStore;
use tower_sessions_redis_store::RedisStore;
use tower_sessions_sqlx_store::PostgresStore;

use crate::cookies::{Answer, COOKIE_NAME, Cookies, DATA, USER, answer};
use crate::{CREATING, LIFETIME, POSTGRES_POOL};

pub(crate) async fn redis(redis: &Pool, load: &Load) -> Result<(impl Subject, Vec<Key>), Error> {
    let store = RedisStore::new(redis.clone());
    let ids = create(&store, load).await?;
    let keys = ids.iter().map(|id| id.to_string().into()).collect();
    Ok((subject(store, &ids)?, keys))
}

pub(crate) async fn postgres(
    deployment: &Deployment,
    load: &Load,
) -> Result<impl Subject + use<>, Error> {
    let store = store(deployment, "tower_sessions").await?;
    let ids = create(&store, load).await?;
    subject(store, &ids)
}

/// Every session is read once, and stays in memory.
pub(crate) async fn in_memory(
    deployment: &Deployment,
    load: &Load,
) -> Result<impl Subject + use<>, Error> {
    let store = store(deployment, "tower_sessions_in_memory").await?;
    let ids = create(&store, load).await?;
    let store = CachingSessionStore::new(MokaStore::new(None), store);
    let reads = ids.iter().map(|id| store.load(id));
    stream::iter(reads).buffer_unordered(CREATING).try_for_each(async |_| Ok(())).await?;
    subject(store, &ids)
}

async fn store(deployment: &Deployment, table: &str) -> Result<PostgresStore, Error> {
    let pool = PgPoolOptions::new().max_connections(POSTGRES_POOL);
    let pool = pool.connect(deployment.sandbox.database_url()).await?;
    let schema = deployment.sandbox.schema();
    let store = PostgresStore::new(pool).with_schema_name(schema)?.with_table_name(table)?;
    store.migrate().await?;
    Ok(store)
}

async fn create(store: &impl SessionStore, load: &Load) -> Result<Vec<Id>, Error> {
    let created = (0..load.tokens.len()).map(async |number| {
        let fields = [(USER, format!("user-{number}")), (DATA, load.data.clone())];
        let mut record = Record {
            id: Id::default(),
            data: fields.map(|(name, value)| (name.to_owned(), Value::String(value))).into(),
            expiry_date: OffsetDateTime::now_utc() + LIFETIME,
        };
        store.create(&mut record).await?;
        Ok(record.id)
    });
    stream::iter(created).buffered(CREATING).try_collect().await
}

fn subject<S: SessionStore + Clone>(store: S, ids: &[Id]) -> Result<impl Subject + use<S>, Error> {
    let layer = SessionManagerLayer::new(store).with_name(COOKIE_NAME);
    Cookies::new(layer.layer(service_fn(current_user)), ids)
}

async fn current_user(request: Request<()>) -> Answer {
    let Some(session) = request.extensions().get::<Session>() else { return answer(None) };
    answer(session.get(USER).await.ok().flatten())
}
