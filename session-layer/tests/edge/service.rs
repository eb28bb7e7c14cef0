//! Tower's rules: readiness, errors, dropped futures, and what is `Send`.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE};
use http::{Request, Response};
use http_body_util::Full;
use session_layer::{
    HealthFuture, HealthService, Rejection, ResponseBody, ResponseFuture, SessionCacheLayer,
    SessionCacheService, SessionCookie, SetCookie, TokenSource,
};
use tower::{Layer as _, Service, ServiceExt as _};

use crate::stub::{Stub, answer, get, token};

type Body = Full<Bytes>;

/// An inner service of which one instance has to be ready, and is so only where it was polled. Readiness
/// is a slot that is counted, as a permit is.
#[derive(Debug, Default)]
struct Picky {
    ready: Option<Slot>,
    taken: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
    /// How often the inner future is pending.
    pending: usize,
}

#[derive(Debug)]
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Clone for Picky {
    /// A clone is not ready.
    fn clone(&self) -> Self {
        Self {
            ready: None,
            taken: Arc::clone(&self.taken),
            calls: Arc::clone(&self.calls),
            pending: self.pending,
        }
    }
}

impl Service<Request<Body>> for Picky {
    type Response = Response<Body>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Broken>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.ready.is_none() {
            self.taken.fetch_add(1, Ordering::SeqCst);
            self.ready = Some(Slot(Arc::clone(&self.taken)));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let slot = self
            .ready
            .take()
            .expect("called an instance that was not polled ready");
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut pending = self.pending;
        Box::pin(async move {
            let _held = slot;
            poll_fn(|cx| {
                if pending == 0 {
                    return Poll::Ready(());
                }
                pending -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            Ok(Response::default())
        })
    }
}

/// The inner service's own error, that nobody turns into another.
#[derive(Debug, PartialEq)]
struct Broken;

fn valid() -> Request<Body> {
    get(&[(COOKIE, "session={0}")])
}

#[tokio::test]
async fn only_the_instance_that_was_polled_is_called() {
    let stub = Stub::new().alive(0, "alice");
    let picky = Picky::default();
    for layer in [
        stub.layer(),
        stub.layer().optional(),
        stub.layer().skip(|_| true),
    ] {
        let mut service = layer.layer(picky.clone());
        for _ in 0..3 {
            for request in [valid(), get(&[]), get(&[(COOKIE, "session={1}")])] {
                service.ready().await.unwrap().call(request).await.unwrap();
            }
        }
        // Several at once, the service being made ready for each.
        let mut under_way = Vec::new();
        for _ in 0..5 {
            under_way.push(service.ready().await.unwrap().call(valid()));
        }
        futures_util::future::join_all(under_way).await;
        // And a clone, polled for itself.
        service.clone().oneshot(valid()).await.unwrap();
    }
    // Of three requests a required layer lets one through, the others all.
    assert_eq!(picky.calls.load(Ordering::SeqCst), 9 + 15 + 15);
}

#[tokio::test]
async fn readiness_is_the_inner_services() {
    #[derive(Clone)]
    struct Unready(bool);
    impl Service<Request<Body>> for Unready {
        type Response = Response<Body>;
        type Error = Broken;
        type Future = std::future::Ready<Result<Response<Body>, Broken>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
            if self.0 {
                Poll::Ready(Err(Broken))
            } else {
                Poll::Pending
            }
        }
        fn call(&mut self, _: Request<Body>) -> Self::Future {
            panic!("called without being ready");
        }
    }
    let layer = Stub::new().layer();
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(
        layer.layer(Unready(true)).poll_ready(&mut cx),
        Poll::Ready(Err(Broken))
    );
    assert_eq!(
        layer.layer(Unready(false)).poll_ready(&mut cx),
        Poll::Pending
    );
}

#[tokio::test]
async fn the_inner_services_error_comes_through_unchanged() {
    let stub = Stub::new().alive(0, "alice");
    let service = tower::service_fn(|_: Request<Body>| async { Err::<Response<Body>, _>(Broken) });
    let answered = stub.layer().layer(service).oneshot(valid()).await;
    assert_eq!(answered.unwrap_err(), Broken);
}

#[tokio::test]
async fn dropped_at_any_await_it_leaves_nothing_behind() {
    let stub = Stub::new().alive(0, "alice");
    let picky = Picky {
        pending: 3,
        ..Picky::default()
    };
    let service = stub.layer().layer(picky.clone());
    let mut finished = false;
    for polls in 0..1000 {
        let mut service = service.clone();
        service.ready().await.unwrap();
        {
            let mut future = pin!(service.call(valid()));
            for _ in 0..polls {
                if poll_once(future.as_mut()).await.is_ready() {
                    finished = true;
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        drop(service);
        assert_eq!(
            picky.taken.load(Ordering::SeqCst),
            0,
            "a slot stays taken after {polls} polls"
        );
        if finished {
            break;
        }
    }
    assert!(finished);
    // And the next request is answered as if nothing had been.
    let response = service.oneshot(valid()).await.unwrap();
    assert_eq!(response.status(), 200);
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

#[tokio::test]
async fn a_rejected_request_never_reaches_the_inner_service() {
    let stub = Stub::new().store_down(true);
    let picky = Picky::default();
    let service = stub.layer().layer(picky.clone());
    for request in [get(&[]), valid()] {
        service.clone().oneshot(request).await.unwrap();
    }
    assert_eq!(picky.calls.load(Ordering::SeqCst), 0);
}

/// Writes down every event of ours, with its fields.
struct Scribe(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Scribe {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("session_layer")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = event.metadata().level().to_string();
        event.record(
            &mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                text += &format!(" {field}={value:?}");
            },
        );
        self.0.lock().unwrap().push(text);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_rejection_is_one_event_without_secrets() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let _scribe = tracing::subscriber::set_default(Scribe(Arc::clone(&events)));
    let (unknown, outage) = (Stub::new(), Stub::new().store_down(true));
    for (stub, value, status) in [
        (&unknown, "Bearer {1}", "401"),
        (&unknown, "Bearer secret", "400"),
        (&outage, "Bearer {1}", "503"),
    ] {
        answer(stub.layer(), get(&[(AUTHORIZATION, value)])).await;
        let told = std::mem::take(&mut *events.lock().unwrap());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with("DEBUG") && told[0].contains(status),
            "{told:?}"
        );
        assert!(
            !told[0].contains(&token(1)) && !told[0].contains("secret"),
            "{told:?}"
        );
    }
}

#[test]
fn what_is_send_sync_and_clone() {
    fn is<T: Send + Sync + Clone + 'static>() {}
    fn is_send<T: Send + 'static>() {}
    is::<SessionCacheLayer>();
    is::<SessionCacheService<Picky>>();
    is::<SessionCookie>();
    is::<SetCookie>();
    is::<TokenSource>();
    is::<Rejection>();
    is::<HealthService>();
    is_send::<HealthFuture>();
    is_send::<ResponseFuture<Picky, Body>>();
    is_send::<ResponseBody<Body>>();
}
