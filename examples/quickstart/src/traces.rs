//! The log on standard error, and the export of traces by OTLP over HTTP.
//!
//! Traces are exported if `OTEL_EXPORTER_OTLP_ENDPOINT` is set. The SDK reads the other variables
//! of OpenTelemetry. A thread of its own sends the spans, and drops those that do not fit into its
//! queue. A collector that is down therefore delays no request.

use std::env;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::field::Empty;
use tracing::{Instrument as _, Level};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::problem;
use crate::run::Failure;

/// The target of the span of a request.
const TARGET: &str = "quickstart::request";
/// The time for one export.
const EXPORT: Duration = Duration::from_secs(10);
/// The time for the last export. With the other parts of a stop, it stays below the 10 s after
/// which orchestrators kill.
const FLUSH: Duration = Duration::from_secs(1);

/// The export of traces, if there is one.
#[derive(Debug)]
pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Starts the log and the export. Must be called within a Tokio runtime.
    pub(crate) fn start() -> Result<Self, Failure> {
        let provider = provider()?;
        let spans = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("quickstart"))
                // These describe the program, not the request.
                .with_location(false)
                .with_target(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                // The events of the log stay in the log.
                .with_filter(
                    filter_fn(|metadata| {
                        metadata.is_span()
                            && *metadata.level() <= Level::DEBUG
                            && [TARGET, session_layer::traces::TARGET].contains(&metadata.target())
                    })
                    .with_max_level_hint(LevelFilter::DEBUG),
                )
        });
        let log = fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .with_filter(log_filter()?);
        tracing_subscriber::registry().with(log).with(spans).init();
        Ok(Self(provider))
    }

    /// Returns whether traces are exported.
    pub(crate) fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// Exports what is left, for [`FLUSH`] at most.
    pub(crate) async fn stop(self) {
        let Some(provider) = self.0 else { return };
        let flushing = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH));
        match tokio::time::timeout(FLUSH, flushing).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!("the last traces are lost: {error}"),
            Ok(Err(_)) | Err(_) => tracing::warn!("the last traces are lost: no reply in time"),
        }
    }
}

/// Wraps a request in its span, whose parent is the one of the header `traceparent`. The span has
/// the route and not the path, because a path may name a session.
pub(crate) async fn trace(request: Request, next: Next) -> Response {
    let method = known(request.method());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let name = route.as_ref().map_or_else(|| method.to_owned(), |it| format!("{method} {it}"));
    let span = tracing::debug_span!(
        target: TARGET,
        "request",
        "otel.name" = name,
        "otel.kind" = "server",
        "otel.status_code" = Empty,
        "error.type" = Empty,
        "http.request.method" = method,
        "http.route" = route,
        "http.response.status_code" = Empty,
        "url.scheme" = "http",
    );
    let caller = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
    // It fails only for a span that no layer exports.
    let _ = span.set_parent(caller);
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status.as_str());
    }
    response
}

/// Returns the name of a method. A client may send any text as one, and names of spans are few.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "_OTHER",
    }
}

fn log_filter() -> Result<EnvFilter, Failure> {
    let configured = env::var("RUST_LOG").unwrap_or_default();
    let filter = if configured.trim().is_empty() {
        // A stopping Postgres sends a notice on each connection.
        "info,sqlx::postgres::notice=off"
    } else {
        &configured
    };
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        format!("RUST_LOG is {filter:?} ({error}): set it to info, debug, session_layer=trace, …")
    })?;
    Ok(filter)
}

/// Returns the first of these variables that is set.
fn variable(names: &[&'static str]) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| {
        let value = env::var(name).ok().filter(|value| !value.trim().is_empty())?;
        Some((*name, value.trim().to_owned()))
    })
}

/// Creates the exporter that the variables of OpenTelemetry describe. `None`: nothing is exported.
fn provider() -> Result<Option<SdkTracerProvider>, Failure> {
    let endpoint = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    let is = |name, off: &str| variable(&[name]).is_some_and(|(_, value)| value == off);
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return Ok(None);
    }
    let Some((name, endpoint)) = variable(&endpoint) else { return Ok(None) };
    // The value may have a password.
    if !endpoint.starts_with("http://") {
        return Err(format!(
            "{name} cannot be used: it may be http://HOST:4318, and a collector beside the \
             application can export over TLS"
        )
        .into());
    }
    let protocol = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    if let Some((name, protocol)) = variable(&protocol).filter(|(_, it)| it != "http/protobuf") {
        return Err(format!("{name} is {protocol:?}: set it to http/protobuf").into());
    }
    let client = Client {
        hyper: HyperClient::with_default_connector(EXPORT, None),
        runtime: Handle::current(),
        is_failing: AtomicBool::new(false),
    };
    let exporter = SpanExporter::builder().with_http().with_http_client(client).build();
    // The error may contain the value of the variable.
    let exporter = exporter.map_err(|_| {
        format!(
            "{name} or another OTEL_EXPORTER_OTLP variable has a value that is not valid: set \
             {name} to a URL such as http://HOST:4318, and check the others"
        )
    })?;
    let resource = Resource::builder();
    let has_a_name = variable(&["OTEL_SERVICE_NAME"]).is_some()
        || variable(&["OTEL_RESOURCE_ATTRIBUTES"])
            .is_some_and(|(_, it)| it.contains("service.name="));
    let resource =
        if has_a_name { resource } else { resource.with_service_name("quickstart") }.build();
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    Ok(Some(provider))
}

/// The client that sends spans. The exporter's thread has no Tokio runtime, so each request runs on
/// that of the application.
#[derive(Debug)]
struct Client {
    hyper: HyperClient,
    runtime: Handle,
    /// Whether the last export failed. The log has one event at the beginning of an outage of the
    /// collector, and one at its end.
    is_failing: AtomicBool,
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(
        &self,
        request: axum::http::Request<Bytes>,
    ) -> Result<axum::http::Response<Bytes>, HttpError> {
        let hyper = self.hyper.clone();
        let sent = self.runtime.spawn(async move { hyper.send_bytes(request).await }).await;
        let sent = sent.map_err(HttpError::from).flatten();
        let failure = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("the collector replied {}", response.status())),
            Err(error) => Some(problem::chain(error.as_ref())),
        };
        match (failure, self.is_failing.load(Ordering::Relaxed)) {
            (Some(why), false) => tracing::warn!(
                %why,
                "traces are lost: is OTEL_EXPORTER_OTLP_ENDPOINT the address of a collector?"
            ),
            (None, true) => tracing::info!("traces are exported again"),
            _ => {}
        }
        self.is_failing
            .store(!matches!(&sent, Ok(it) if it.status().is_success()), Ordering::Relaxed);
        sent
    }
}
