//! axum_session on Redis, with its default: each session stays in memory for an hour.
//!
//! Without that memory it is not measured. Requests that overlap on one session then find it
//! without its data.

use axum_session::{DatabasePool as _, Session, SessionConfig, SessionLayer, SessionStore};
use axum_session_redispool::SessionRedisPool;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use redis_pool::SingleRedisPool;
use serde_json::json;
use session_benches::Error;
use session_benches::validations::{Deployment, Load, Subject};
use time::OffsetDateTime;
use tower::{Layer as _, service_fn};

use crate::cookies::{Answer, COOKIE_NAME, Cookies, DATA, USER, answer};
use crate::{CREATING, LIFETIME, REDIS_POOL};

/// Every session is read once, and stays in memory.
pub(crate) async fn in_memory(
    deployment: &Deployment,
    load: &Load,
) -> Result<impl Subject + use<>, Error> {
    let client = redis::Client::open(deployment.sandbox.redis_url())?;
    let pool = SingleRedisPool::new(client, REDIS_POOL, Some(REDIS_POOL));
    let pool = SessionRedisPool::from(pool);
    let table = deployment.sandbox.namespace();
    let ids: Vec<_> = load.tokens.iter().map(|token| format!("axum-{token}")).collect();
    let expires = (OffsetDateTime::now_utc() + LIFETIME).unix_timestamp();
    let created = ids.iter().enumerate().map(async |(number, id)| {
        // The crate's own form of a session. Each value is JSON in a string.
        let data = json!({ USER: json!(format!("user-{number}")).to_string(), DATA: load.data });
        let session = json!({ "data": data, "longterm": false }).to_string();
        pool.store(id, &session, expires, table).await
    });
    stream::iter(created).buffer_unordered(CREATING).try_for_each(async |()| Ok(())).await?;

    let config = SessionConfig::default().with_table_name(table.to_owned());
    let config = config.with_session_name(COOKIE_NAME);
    let store = SessionStore::new(Some(pool), config).await?;
    let service = SessionLayer::new(store).layer(service_fn(current_user));
    let mut subject = Cookies::new(service, ids)?;
    for session in 0..load.tokens.len() {
        subject.call(session).await?;
    }
    Ok(subject)
}

async fn current_user(request: Request<()>) -> Answer {
    let session = request.extensions().get::<Session<SessionRedisPool>>();
    answer(session.and_then(|session| session.get(USER)))
}
