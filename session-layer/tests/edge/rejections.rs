//! A request that is rejected: nobody hears of it but the log, and that without its secrets.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE};
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer as _, ServiceExt as _};

use crate::stub::{Stub, answer, get, token};

#[tokio::test]
async fn it_never_reaches_the_inner_service() {
    let calls = Arc::new(AtomicUsize::new(0));
    let inner = {
        let calls = Arc::clone(&calls);
        tower::service_fn(move |_: Request<Full<Bytes>>| {
            calls.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
        })
    };
    let stub = Stub::new().store_down(true);
    let service = stub.layer().layer(inner);
    for request in [get(&[]), get(&[(COOKIE, "session={0}")])] {
        service.clone().oneshot(request).await.unwrap();
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
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
async fn it_is_one_event_without_secrets() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let _scribe = tracing::subscriber::set_default(Scribe(Arc::clone(&events)));
    let (unknown, outage) = (Stub::new(), Stub::new().store_down(true));
    for (stub, value, status) in [
        (&unknown, "Bearer {1}", "401"),
        (&unknown, "Bearer secret", "400"),
        (&outage, "Bearer {1}", "503"),
    ] {
        answer(stub.layer(), get(&[(AUTHORIZATION, value)])).await;
        let mut told = std::mem::take(&mut *events.lock().unwrap());
        // That its store does not answer a node tells too, once, whatever is asked of it.
        told.retain(|event| !event.contains("does not answer yet"));
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
