//! An application under session-layer, in this process: what `bench` and `verify` send requests to.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use session_layer::{Answered, ResponseBody, Session, SessionCacheLayer, Sessions};
use tower::{Layer as _, ServiceExt as _, service_fn};

/// Header fields of a request.
pub(crate) type Fields<'a> = &'a [(HeaderName, &'a str)];

/// One route, which says whose session it was called with.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) sessions: Sessions,
    layer: SessionCacheLayer,
}

/// An answer, read to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// How the token was looked up, if there was one to look up.
    pub(crate) answered: Option<Answered>,
    /// `null` if the body is no JSON.
    pub(crate) body: Value,
}

impl App {
    pub(crate) fn new(sessions: Sessions) -> Self {
        let layer = SessionCacheLayer::new(sessions.clone());
        Self { sessions, layer }
    }

    /// One request through the layer; the body is not read.
    pub(crate) async fn call(
        &self,
        fields: Fields<'_>,
    ) -> Option<Response<ResponseBody<Full<Bytes>>>> {
        let mut request = Request::new(());
        for (name, value) in fields {
            request.headers_mut().append(name, value.parse().ok()?);
        }
        let guarded = self.layer.layer(service_fn(who));
        let Ok(response) = guarded.oneshot(request).await;
        Some(response)
    }

    /// One request, and its whole answer. One that can't be sent has the status 0.
    pub(crate) async fn get(&self, fields: Fields<'_>) -> Answer {
        match self.call(fields).await {
            Some(response) => read(response).await,
            None => Answer::default(),
        }
    }

    /// One request with this Bearer token.
    pub(crate) async fn ask(&self, token: &str) -> Answer {
        self.get(&[(AUTHORIZATION, &format!("Bearer {token}"))])
            .await
    }
}

async fn who(request: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    let who = match request.extensions().get::<Session>() {
        Some(session) => json!({ "user": session.user_id(), "data": session.data_json() }),
        None => Value::Null,
    };
    Ok(Response::new(Full::from(who.to_string())))
}

/// Any answer, to its end.
pub(crate) async fn read<B: BodyExt>(response: Response<B>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.ok();
    let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        answered: parts.extensions.get().copied(),
        body: serde_json::from_slice(&bytes).unwrap_or_default(),
    }
}
