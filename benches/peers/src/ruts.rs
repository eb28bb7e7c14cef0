//! ruts on Redis.

use std::sync::Arc;

use axum_core::extract::FromRequestParts as _;
use fred::prelude::{HashesInterface as _, Key, KeysInterface as _, Pool};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use ruts::store::redis::RedisStore;
use ruts::store::serialize_value;
use ruts::{CookieOptions, Id, Session, SessionLayer};
use session_benches::Error;
use session_benches::validations::{Load, Subject};
use tower::{Layer as _, service_fn};
use tower_cookies::CookieManagerLayer;

use crate::cookies::{Answer, COOKIE_NAME, Cookies, DATA, USER, answer};
use crate::{CREATING, LIFETIME};

/// Creates the sessions as hashes, because ruts itself writes with commands of Redis 7.4. Its reads
/// work with older servers.
pub(crate) async fn redis(redis: &Pool, load: &Load) -> Result<(impl Subject, Vec<Key>), Error> {
    let created = (0..load.tokens.len()).map(async |number| {
        let id = Id::default();
        let key = Key::from(&id);
        let user = serialize_value(&format!("user-{number}"))?;
        let data = serialize_value(&load.data)?;
        let fields = [(USER, user.as_slice()), (DATA, data.as_slice())];
        let () = redis.hset(&key, fields.to_vec()).await?;
        let () = redis.expire(&key, LIFETIME.whole_seconds(), None).await?;
        Ok::<_, Error>((id, key))
    });
    let created = stream::iter(created).buffered(CREATING);
    let (ids, keys): (Vec<_>, Vec<_>) = created.try_collect::<Vec<_>>().await?.into_iter().unzip();

    let store = RedisStore::new(Arc::new(redis.clone())).await?;
    let layer = SessionLayer::new(Arc::new(store));
    let layer = layer.with_cookie_options(CookieOptions::build().name(COOKIE_NAME));
    let service = CookieManagerLayer::new().layer(layer.layer(service_fn(current_user)));
    Ok((Cookies::new(service, ids)?, keys))
}

async fn current_user(request: Request<()>) -> Answer {
    let (mut parts, ()) = request.into_parts();
    let session = Session::<RedisStore>::from_request_parts(&mut parts, &()).await;
    let Ok(session) = session else { return answer(None) };
    answer(session.get(USER).await.ok().flatten())
}
