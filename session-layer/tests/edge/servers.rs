//! tonic's router and a plain function under the layer, behind hyper's own server, over HTTP/1.1
//! and HTTP/2. A request without a token reaches neither, whatever its method, CORS fields and
//! method-override fields. With a token, each request but a CORS preflight reaches them.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{Request, Response};
use http_body::Body;
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::DuplexStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{ClientStreamingService, Grpc, NamedService};
use tonic::service::Routes;
use tonic::{Status, Streaming};
use tower::{Layer as _, Service, ServiceExt as _};

use super::stub::Stub;
use crate::ports::token;

const PATH: &str = "/admin.v1.Admin/DeleteAll";
/// One gRPC message of no bytes.
const MESSAGE: Bytes = Bytes::from_static(&[0; 5]);

type Calls = Arc<AtomicUsize>;

#[tokio::test]
async fn request_without_token_does_not_reach_tonic() {
    let ran = Calls::default();
    every_request(Routes::new(Admin(Arc::clone(&ran))), &ran).await;
}

#[tokio::test]
async fn request_without_token_does_not_reach_hyper() {
    let ran = Calls::default();
    let service = {
        let ran = Arc::clone(&ran);
        tower::service_fn(move |_: Request<Incoming>| {
            ran.fetch_add(1, Ordering::SeqCst);
            ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        })
    };
    every_request(service, &ran).await;
}

/// The methods. CONNECT over HTTP/2 has a path only with a protocol (RFC 8441).
const METHODS: [(&str, Option<&str>); 13] = [
    ("GET", None),
    ("HEAD", None),
    ("POST", None),
    ("PUT", None),
    ("PATCH", None),
    ("DELETE", None),
    ("OPTIONS", None),
    ("TRACE", None),
    ("FOO", None),
    ("options", None),
    ("PROPFIND", None),
    ("CONNECT", None),
    ("CONNECT", Some("websocket")),
];

/// The fields of a preflight. Requests have them in every combination.
const PREFLIGHT: [(&str, &str); 4] = [
    ("origin", "https://elsewhere.example"),
    ("access-control-request-method", "POST"),
    ("access-control-request-headers", "authorization"),
    ("access-control-request-private-network", "true"),
];

const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-method-override", "x-http-method"];

/// Sends each request to `inner` under the layer, once without and once with a token.
async fn every_request<S, B>(inner: S, ran: &Calls)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let reached = Calls::default();
    let counted = {
        let reached = Arc::clone(&reached);
        inner.map_request(move |request| {
            reached.fetch_add(1, Ordering::SeqCst);
            request
        })
    };
    let stub = Stub::new().active(0, "alice");
    let service = stub.patient_layer().layer(counted);
    let mut with_token = 0;
    for (method, protocol) in METHODS {
        for http2 in [false, true] {
            if protocol.is_some() && !http2 {
                continue;
            }
            // tonic routes by the path.
            let has_path = !(http2 && method == "CONNECT") || protocol.is_some();
            let mut client = Client::connect(&service, http2).await;
            for fields in combinations(method) {
                let named = |name: &str| fields.iter().any(|(field, _)| *field == name);
                let is_preflight = method == "OPTIONS"
                    && named("origin")
                    && named("access-control-request-method");
                for sends_token in [false, true] {
                    if !client.is_ready().await {
                        client = Client::connect(&service, http2).await;
                    }
                    let mut request = request(method, protocol, http2, &fields);
                    if sends_token {
                        let bearer = format!("Bearer {}", token(0)).parse().unwrap();
                        request.headers_mut().insert(AUTHORIZATION, bearer);
                    }
                    let what = format!("{request:?}");
                    let (reached_before, ran_before) = (count(&reached), count(ran));
                    let status = client.send(request).await;
                    let expected = match (is_preflight, sends_token) {
                        (true, _) => 204,
                        (false, false) => 401,
                        (false, true) => 200,
                    };
                    assert_eq!(status, expected, "{what}");
                    let passes = usize::from(expected == 200);
                    assert_eq!(count(&reached) - reached_before, passes, "{what}");
                    if has_path {
                        assert_eq!(count(ran) - ran_before, passes, "{what}");
                    }
                    with_token += passes;
                }
            }
        }
    }
    assert_eq!(count(&reached), with_token);
    assert!(count(ran) > 0 && count(ran) <= with_token);
}

fn count(calls: &Calls) -> usize {
    calls.load(Ordering::SeqCst)
}

/// Returns each combination of the fields of a preflight with no override, one, or all.
fn combinations(method: &str) -> Vec<Vec<(&'static str, &'static str)>> {
    let other = if method == "OPTIONS" { "POST" } else { "OPTIONS" };
    let [a, b, c] = OVERRIDES.map(|name| (name, other));
    let overrides = [vec![], vec![a], vec![b], vec![c], vec![a, b, c]];
    let mut all = Vec::new();
    for chosen in 0..1 << PREFLIGHT.len() {
        let preflight = PREFLIGHT.iter().enumerate();
        let preflight = preflight.filter(|(at, _)| chosen & (1 << at) != 0);
        let preflight: Vec<_> = preflight.map(|(_, field)| *field).collect();
        for overriding in &overrides {
            all.push([preflight.as_slice(), overriding].concat());
        }
    }
    all
}

fn request(
    method: &str,
    protocol: Option<&'static str>,
    http2: bool,
    fields: &[(&str, &str)],
) -> Request<Full<Bytes>> {
    // HTTP/2 has no path for CONNECT without a protocol. Over HTTP/1.1, a client may send one.
    let uri = match (http2, method, protocol) {
        (true, "CONNECT", None) => "example.com:443".to_owned(),
        (true, ..) => format!("http://example.com{PATH}"),
        (false, ..) => PATH.to_owned(),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if !http2 {
        request = request.header(HOST, "example.com");
    }
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    if let Some(protocol) = protocol {
        request = request.extension(Protocol::from_static(protocol));
    }
    let body = match method {
        "CONNECT" => Bytes::new(),
        _ => MESSAGE,
    };
    request.body(Full::new(body)).unwrap()
}

/// A connection to its own server, within the process.
enum Client {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn connect<S, B>(service: &S, http2: bool) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let ours: TokioIo<DuplexStream> = TokioIo::new(ours);
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http2().enable_connect_protocol();
            let connection = server.serve_connection_with_upgrades(TokioIo::new(theirs), service);
            // The client's end of the connection is an error here.
            let _ended = connection.await;
        });
        if http2 {
            let (client, connection) = http2::handshake(TokioExecutor::new(), ours).await.unwrap();
            tokio::spawn(connection);
            let mut client = Self::Http2(client);
            // The response follows the server's settings, which permit a CONNECT with a protocol.
            let first = request("GET", None, true, &[]);
            assert_eq!(client.send(first).await, 401);
            client
        } else {
            let (client, connection) = http1::handshake(ours).await.unwrap();
            tokio::spawn(connection.with_upgrades());
            Self::Http1(client)
        }
    }

    /// Waits until the connection accepts a request. Returns `false` if it is closed.
    async fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(client) => client.ready().await.is_ok(),
            Self::Http2(client) => client.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> u16 {
        let what = format!("{request:?}");
        let response = match self {
            Self::Http1(client) => client.send_request(request).await,
            Self::Http2(client) => client.send_request(request).await,
        };
        let response = response.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        response.status().as_u16()
    }
}

/// A service as tonic's code generator writes it, which checks the path but not the method.
#[derive(Clone)]
struct Admin(Calls);

impl NamedService for Admin {
    const NAME: &'static str = "admin.v1.Admin";
}

impl Service<Request<tonic::body::Body>> for Admin {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        assert_eq!(request.uri().path(), PATH);
        let delete_all = DeleteAll(Arc::clone(&self.0));
        Box::pin(async move { Ok(Grpc::new(NoBytes).client_streaming(delete_all, request).await) })
    }
}

/// A method of the service. It runs before it reads a message, because a CONNECT has none.
struct DeleteAll(Calls);

impl ClientStreamingService<()> for DeleteAll {
    type Response = ();
    type Future = Ready<Result<tonic::Response<()>, Status>>;

    fn call(&mut self, _: tonic::Request<Streaming<()>>) -> Self::Future {
        self.0.fetch_add(1, Ordering::SeqCst);
        ready(Ok(tonic::Response::new(())))
    }
}

/// A codec of messages without content.
struct NoBytes;

impl Codec for NoBytes {
    type Encode = ();
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for NoBytes {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for NoBytes {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}
