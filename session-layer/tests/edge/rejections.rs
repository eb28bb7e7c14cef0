//! A rejected request does not reach the inner service. It is logged once, without its secrets.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE};
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer as _, ServiceExt as _};

use super::stub::{Stub, answer, get};
use crate::ports::token;

#[tokio::test]
async fn rejected_request_does_not_reach_the_inner_service() {
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

/// A subscriber that records every event of this crate with its fields.
struct Recorder(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Recorder {
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
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            text += &format!(" {field}={value:?}");
        });
        self.0.lock().unwrap().push(text);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn rejection_is_logged_once_without_secrets() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let _recorder = tracing::subscriber::set_default(Recorder(Arc::clone(&events)));
    let (unknown, outage) = (Stub::new(), Stub::new().store_down(true));
    for (stub, value, status) in [
        (&unknown, "Bearer {1}", "401"),
        (&unknown, "Bearer secret", "400"),
        (&outage, "Bearer {1}", "503"),
    ] {
        answer(stub.layer(), get(&[(AUTHORIZATION, value)])).await;
        let mut logged = std::mem::take(&mut *events.lock().unwrap());
        // A node also logs once that its store does not respond, whatever the request.
        logged.retain(|event| !event.contains("cannot be read yet"));
        assert_eq!(logged.len(), 1, "{logged:?}");
        assert!(logged[0].starts_with("DEBUG") && logged[0].contains(status), "{logged:?}");
        assert!(!logged[0].contains(&token(1)) && !logged[0].contains("secret"), "{logged:?}");
    }
}
