//! Arbitrary bodies of requests and responses.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::COOKIE;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty, Full};
use session_layer::SessionCacheLayer;
use tower::{Layer as _, Service, ServiceExt as _};

use super::stub::{Stub, get};

/// A body whose data is not `Bytes`, with its own error, trailers, and an unknown length.
#[derive(Default)]
struct Odd(u8);

#[derive(Debug)]
struct OddData(Bytes);

#[derive(Debug, PartialEq)]
struct OddError;

impl From<Bytes> for OddData {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Buf for OddData {
    fn remaining(&self) -> usize {
        self.0.remaining()
    }
    fn chunk(&self) -> &[u8] {
        self.0.chunk()
    }
    fn advance(&mut self, cnt: usize) {
        self.0.advance(cnt);
    }
}

impl Body for Odd {
    type Data = OddData;
    type Error = OddError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<OddData>, OddError>>> {
        self.0 += 1;
        Poll::Ready(Some(match self.0 {
            1 => Ok(Frame::data(OddData(Bytes::from_static(b"odd")))),
            2 => Ok(Frame::trailers(http::HeaderMap::new())),
            _ => Err(OddError),
        }))
    }
    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_upper(77);
        hint
    }
}

/// Returns the responses to a valid request and to one without a session.
async fn responses<B>() -> [Response<session_layer::http::ResponseBody<B>>; 2]
where
    B: Default,
{
    let layer = Stub::new().active(0, "alice").layer();
    let inner = tower::service_fn(|_| async { Ok::<_, Infallible>(Response::new(B::default())) });
    let service = layer.layer(inner);
    let valid = service.clone().oneshot(get(&[(COOKIE, "session={0}")])).await;
    [valid.unwrap(), service.oneshot(get(&[])).await.unwrap()]
}

#[tokio::test]
async fn inner_body_is_unchanged() {
    let [response, _] = responses::<Odd>().await;
    let mut body = response.into_body();
    assert_eq!((body.size_hint().upper(), body.is_end_stream()), (Some(77), false));
    let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(data.0, "odd");
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    assert_eq!(body.frame().await.unwrap().unwrap_err(), OddError);

    let [response, _] = responses::<Empty<Bytes>>().await;
    assert!(response.body().is_end_stream());
    assert_eq!(response.body().size_hint().exact(), Some(0));
}

#[tokio::test]
async fn rejection_body_has_its_length_and_ends() {
    let [_, response] = responses::<Odd>().await;
    assert_eq!(response.status(), 401);
    let mut body = response.into_body();
    let length = body.size_hint().exact().unwrap();
    assert!(!body.is_end_stream());
    let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(data.remaining() as u64, length);
    assert!(body.is_end_stream() && body.frame().await.is_none());
    assert_eq!(body.size_hint().exact(), Some(0));

    let [_, response] = responses::<Full<Bytes>>().await;
    let length = response.body().size_hint().exact().unwrap();
    assert_eq!(response.collect().await.unwrap().to_bytes().len() as u64, length);
}

#[tokio::test]
async fn request_body_needs_no_bounds() {
    struct NotEvenABody(Rc<u8>);
    let layer = Stub::new().active(0, "alice").layer();
    let service = layer.layer(tower::service_fn(|request: Request<NotEvenABody>| async move {
        assert_eq!(*request.into_body().0, 5);
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let request = get(&[(COOKIE, "session={0}")]).map(|_| NotEvenABody(Rc::new(5)));
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
}

// The bounds of `tonic::transport::Server::layer` (0.14), copied because tonic's transport would
// be a long build. `servers.rs` uses tonic's router and hyper's connections.
#[test]
fn layer_satisfies_the_bounds_of_tonic() {
    fn tonic<L, S, ResBody>(_: L, _: S)
    where
        L: tower::Layer<S>,
        L::Service:
            Service<Request<Full<Bytes>>, Response = Response<ResBody>> + Clone + Send + 'static,
        <L::Service as Service<Request<Full<Bytes>>>>::Future: Send,
        <L::Service as Service<Request<Full<Bytes>>>>::Error:
            Into<Box<dyn std::error::Error + Send + Sync>> + Send,
        ResBody: Body<Data = Bytes> + Send + 'static,
        ResBody::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
    }
    fn inner() -> impl Service<
        Request<Full<Bytes>>,
        Response = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send {
        tower::service_fn(|_| async { Ok(Response::new(Empty::new().boxed_unsync())) })
    }
    let _fits = |layer: SessionCacheLayer| tonic(layer, inner());
}
