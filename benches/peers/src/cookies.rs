//! A middleware that reads the session of a cookie, as a subject of the harness.

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use fred::prelude::{Key, KeysInterface as _, Pool};
use http::header::COOKIE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use session_benches::Error;
use session_benches::validations::Subject;
use tower::{Service, ServiceExt as _};

/// The name of the cookie of every peer.
pub(crate) const COOKIE_NAME: &str = "session";
/// The name of the user's field in a session.
pub(crate) const USER: &str = "user";
/// The name of the data's field in a session.
pub(crate) const DATA: &str = "data";

/// The response of the guarded service.
pub(crate) type Answer = Result<Response<Empty<Bytes>>, Infallible>;

/// A middleware around a service, with a cookie for each session.
#[derive(Clone)]
pub(crate) struct Cookies<S> {
    service: S,
    headers: Arc<[HeaderValue]>,
}

impl<S> Cookies<S> {
    pub(crate) fn new(
        service: S,
        ids: impl IntoIterator<Item = impl Display>,
    ) -> Result<Self, Error> {
        let header = |id| HeaderValue::try_from(format!("{COOKIE_NAME}={id}"));
        let headers = ids.into_iter().map(header).collect::<Result<_, _>>()?;
        Ok(Self { service, headers })
    }
}

impl<S> Subject for Cookies<S>
where
    S: Service<Request<()>, Response = Response<Empty<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    async fn call(&mut self, session: usize) -> Result<(), Error> {
        let mut request = Request::new(());
        request.headers_mut().insert(COOKIE, self.headers[session].clone());
        let response = self.service.ready().await?.call(request).await?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(format!("the answer was {status}").into()) }
    }
}

/// Returns 200 if the session has this user.
pub(crate) fn answer(user: Option<String>) -> Answer {
    let mut response = Response::new(Empty::new());
    if user.is_none() {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
    }
    Ok(response)
}

/// Removes keys without a prefix from Redis, which the harness does not know.
pub(crate) async fn remove(redis: &Pool, keys: &[Key]) -> Result<(), Error> {
    for keys in keys.chunks(1_000) {
        let _: i64 = redis.unlink(keys.to_vec()).await?;
    }
    Ok(())
}
