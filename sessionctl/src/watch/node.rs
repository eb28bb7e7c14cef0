//! Requests to a node: its health document, its metrics and its switch.

use std::{fmt, str::FromStr, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use session_tools::Failure;
use tokio::{net::TcpStream, time::timeout};

use super::board::Reading;
use super::latency::Scrape;

/// The timeout of a request. A health document may take about a second while a server hangs.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The limit of a response. Metrics of the application may be among those of a node.
const LONGEST: usize = 1 << 22;

/// An `http://` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address(Uri);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| "an address is http://HOST:PORT/PATH")?;
        if uri.scheme_str() == Some("https") {
            return Err("https is not supported: use the node's own address behind its proxy");
        }
        let authority = uri.authority().map(|authority| authority.as_str());
        if uri.scheme_str() != Some("http") || authority.is_none_or(|it| it.contains('@')) {
            return Err("an address is http://HOST:PORT/PATH, without a user");
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Address {
    /// Returns the host and port.
    pub(super) fn host(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    fn path(&self) -> &str {
        self.0.path_and_query().map_or("/", |path| path.as_str())
    }

    fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(80)
    }
}

/// A node, by the addresses that it serves.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) health: Address,
    pub(super) admin: Option<Address>,
}

impl Node {
    /// Reads the health document.
    pub(super) async fn read(&self) -> Reading {
        let reply = request(&self.health, self.health.path(), Method::GET, String::new()).await;
        match reply {
            // An unhealthy node serves its document with 503.
            Ok((status, body)) => match json_of(&body) {
                document if document.get("sessionCache").is_some() => Reading::Document(document),
                _ => Reading::Failed(format!("{status}, and no health document")),
            },
            Err(error) => Reading::Failed(session_tools::chain(&*error)),
        }
    }

    /// Reads the node's metrics. `None` if it serves none with latencies.
    pub(super) async fn scrape(&self) -> Option<Scrape> {
        let admin = self.admin.as_ref()?;
        match request(admin, "/metrics", Method::GET, String::new()).await {
            Ok((StatusCode::OK, body)) => Scrape::parse(&String::from_utf8_lossy(&body)),
            Ok(_) | Err(_) => None,
        }
    }

    /// Switches the node to bypass, or back. Returns the mode in force.
    pub(super) async fn switch(&self, mode: &str) -> Result<String, String> {
        let admin = self.admin.as_ref().ok_or("name the node's switch with --admin")?;
        let body = json!({ "mode": mode }).to_string();
        match request(admin, "/mode", Method::PUT, body).await {
            Ok((StatusCode::OK, reply)) => json_of(&reply)["mode"]
                .as_str()
                .map(str::to_owned)
                .ok_or("the switch named no mode".to_owned()),
            Ok((status, _)) => Err(format!("the switch replied {status}")),
            Err(error) => Err(session_tools::chain(&*error)),
        }
    }
}

/// Returns a body as JSON, and `null` if it is something else.
fn json_of(body: &Bytes) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

async fn request(
    address: &Address,
    path: &str,
    method: Method,
    body: String,
) -> Result<(StatusCode, Bytes), Failure> {
    let exchange = async {
        let host = address.0.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, address.port())).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address.host())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await?.to_bytes();
        connection.abort();
        Ok((status, body))
    };
    match timeout(TIMEOUT, exchange).await {
        Ok(replied) => replied,
        Err(_) => Err(format!("no response within {} s", TIMEOUT.as_secs()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_plain_http_without_a_user() {
        let address: Address = "http://[::1]:3000/api/health/redis".parse().unwrap();
        assert_eq!((address.host(), address.path()), ("[::1]:3000", "/api/health/redis"));
        assert_eq!("http://h".parse::<Address>().unwrap().port(), 80);
        for bad in ["", "h:3000", "https://h/", "http://u:p@h/", "ftp://h/", "http:///x"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
