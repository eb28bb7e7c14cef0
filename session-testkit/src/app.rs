//! An application with session-layer in this process, to which `bench` and `verify` send requests.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use session_layer::http::ResponseBody;
use session_layer::{LookupInfo, Session, SessionCacheLayer, Sessions};
use tower::{Layer as _, ServiceExt as _, service_fn};

/// The header fields of a request.
pub(crate) type Fields<'a> = &'a [(HeaderName, &'a str)];

/// An application with one route, which returns the user and data of the request's session.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) sessions: Sessions,
    layer: SessionCacheLayer,
}

/// A response with its whole body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// The look-up of the token, if there was one.
    pub(crate) lookup: Option<LookupInfo>,
    /// The body, or `null` if it is not JSON.
    pub(crate) body: Value,
}

impl App {
    pub(crate) fn new(sessions: Sessions) -> Self {
        let layer = SessionCacheLayer::new(sessions.clone()).lookup_info(true);
        Self { sessions, layer }
    }

    /// Sends one request through the layer, without reading the body.
    pub(crate) async fn call(
        &self,
        fields: Fields<'_>,
    ) -> Option<Response<ResponseBody<Full<Bytes>>>> {
        let mut request = Request::new(());
        for (name, value) in fields {
            request.headers_mut().append(name, value.parse().ok()?);
        }
        let guarded = self.layer.layer(service_fn(current_session));
        let Ok(response) = guarded.oneshot(request).await;
        Some(response)
    }

    /// Sends one request and reads the response. The status is 0 if the request can't be sent.
    pub(crate) async fn get(&self, fields: Fields<'_>) -> Answer {
        match self.call(fields).await {
            Some(response) => read(response).await,
            None => Answer::default(),
        }
    }

    /// Sends one request with this Bearer token.
    pub(crate) async fn send(&self, token: &str) -> Answer {
        self.get(&[(AUTHORIZATION, &format!("Bearer {token}"))]).await
    }
}

async fn current_session(request: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    let session = match request.extensions().get::<Session>() {
        Some(session) => json!({ "user": session.user_id(), "data": session.data_json() }),
        None => Value::Null,
    };
    Ok(Response::new(Full::from(session.to_string())))
}

/// Reads a response to its end.
pub(crate) async fn read<B: BodyExt>(response: Response<B>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.ok();
    let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        lookup: parts.extensions.get().copied(),
        body: serde_json::from_slice(&bytes).unwrap_or_default(),
    }
}
