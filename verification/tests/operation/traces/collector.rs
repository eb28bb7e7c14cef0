//! A collector of traces, which decodes what it receives.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use prost::Message as _;
use session_testkit::wait;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::SOON;

/// A span as it was exported.
#[derive(Debug, Clone)]
pub(super) struct Exported {
    pub(super) trace: String,
    pub(super) id: String,
    /// Empty for the root of a trace.
    pub(super) parent: String,
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) attributes: BTreeMap<String, String>,
    /// The ids of the spans that it links to.
    pub(super) links: Vec<String>,
    pub(super) is_error: bool,
    /// Whether it is a span of session-layer. Those of the application are of the kind `server`.
    pub(super) scope_is_ours: bool,
}

impl Exported {
    pub(super) fn text(&self, attribute: &str) -> Option<&str> {
        self.attributes.get(attribute).map(String::as_str)
    }
}

impl From<Span> for Exported {
    fn from(span: Span) -> Self {
        let kind = match span.kind {
            1 => "internal",
            2 => "server",
            3 => "client",
            _ => "another kind",
        };
        let attributes = span.attributes.into_iter().map(|attribute| {
            let text = match attribute.value.and_then(|value| value.value) {
                Some(Value::StringValue(text)) => text,
                Some(Value::BoolValue(flag)) => flag.to_string(),
                Some(Value::IntValue(number)) => number.to_string(),
                other => format!("{other:?}"),
            };
            (attribute.key, text)
        });
        Self {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            name: span.name,
            kind,
            attributes: attributes.collect(),
            links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
            is_error: span.status.is_some_and(|status| status.code == StatusCode::Error as i32),
            scope_is_ours: kind != "server",
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Exported>,
    bytes: Vec<u8>,
    heads: String,
}

/// A server that receives OTLP over HTTP.
#[derive(Debug)]
pub(super) struct Collector {
    url: String,
    received: Arc<Mutex<Received>>,
    serving: JoinHandle<()>,
}

impl Collector {
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let received = Arc::<Mutex<Received>>::default();
        let to = Arc::clone(&received);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let to = Arc::clone(&to);
                tokio::spawn(async move {
                    if let Err(error) = receive(stream, &to).await {
                        eprintln!("a connection to the collector ended: {error}");
                    }
                });
            }
        });
        Ok(Self { url, received, serving })
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn spans(&self) -> Vec<Exported> {
        self.received.lock().unwrap().spans.clone()
    }

    /// Returns all bodies, and the heads of all requests.
    pub(super) fn received(&self) -> (Vec<u8>, String) {
        let received = self.received.lock().unwrap();
        (received.bytes.clone(), received.heads.clone())
    }

    pub(super) fn has(&self, trace: &str) -> bool {
        self.received.lock().unwrap().spans.iter().any(|span| span.trace == trace)
    }

    /// Waits for the root span of this trace, which ends last, and returns all spans of the trace.
    pub(super) async fn trace(&self, trace: &str, root: &str) -> Vec<Exported> {
        let of_trace = || {
            let spans = self.spans().into_iter().filter(|span| span.trace == trace);
            spans.collect::<Vec<_>>()
        };
        // A parent that is still missing has not ended yet.
        let is_complete = || {
            let spans = of_trace();
            spans.iter().any(|span| span.name == root)
                && spans.iter().all(|span| {
                    span.name == root || spans.iter().any(|other| other.id == span.parent)
                })
        };
        wait::until(&format!("the trace of {root}"), SOON, async || is_complete()).await.unwrap();
        of_trace()
    }

    /// Waits for a span with a link to this one, and for the commands of its trace.
    pub(super) async fn linked_to(&self, id: &str) -> Vec<Exported> {
        let of_link = || {
            let spans = self.spans();
            let linked = spans.iter().find(|span| span.links.iter().any(|link| link == id))?;
            let trace = linked.trace.clone();
            let spans: Vec<_> = spans.into_iter().filter(|span| span.trace == trace).collect();
            spans.iter().any(|span| span.kind == "client").then_some(spans)
        };
        wait::until("a span with a link", SOON, async || of_link().is_some()).await.unwrap();
        of_link().unwrap()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Receives request after request.
async fn receive(stream: TcpStream, to: &Mutex<Received>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            head += &line.to_lowercase();
        }
        assert!(head.starts_with("post /v1/traces "), "{head}");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let request = ExportTraceServiceRequest::decode(&*body).map_err(io::Error::other)?;
        let scopes = request.resource_spans.into_iter().flat_map(|it| it.scope_spans);
        let spans = scopes.flat_map(|it| it.spans).map(Exported::from);
        {
            let mut received = to.lock().unwrap();
            received.spans.extend(spans);
            received.bytes.extend(body);
            received.heads += &head;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
    }
}
