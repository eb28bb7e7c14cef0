//! Requests to a node: its health document, its metrics and its switch.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use session_tools::Failure;
use tokio::{net::TcpStream, time::timeout};

use super::board::Reading;
use super::latency::Scrape;

/// The timeout of a request. A health document may take about a second while a server hangs.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The limit of a health document, and of the reply of a switch.
const LONGEST: usize = 1 << 20;
/// The limit of a scrape, which has the application's own metrics as well.
const LONGEST_SCRAPE: usize = 1 << 25;

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

/// The result of a scrape. `None`: the node does not serve the histogram of validations.
pub(super) type Scraped = Result<Option<Scrape>, ScrapeError>;

/// An error of a scrape.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScrapeError {
    #[error("no latency: /metrics replied {0}. Let this host read it at the address of --admin")]
    Status(StatusCode),
    #[error("no latency: /metrics failed. Does --admin name the node's own address?")]
    Request(#[source] Failure),
}

impl Node {
    /// Reads the health document.
    pub(super) async fn read(&self) -> Reading {
        let (status, body) = match get(&self.health, self.health.path(), LONGEST).await {
            Ok(reply) => reply,
            Err(error) => return Reading::Failed(session_tools::chain(&*error)),
        };
        // An unhealthy node serves its document with 503.
        let document = json(&body);
        if document.get("sessionCache").is_some() {
            Reading::Document(document)
        } else {
            Reading::Failed(format!("{status}, and no health document"))
        }
    }

    /// Scrapes the metrics. Returns `None` if the node does not serve them.
    pub(super) async fn scrape(&self) -> Scraped {
        let Some(admin) = &self.admin else { return Ok(None) };
        match get(admin, "/metrics", LONGEST_SCRAPE).await.map_err(ScrapeError::Request)? {
            (StatusCode::OK, body) => {
                Ok(Scrape::read(&String::from_utf8_lossy(&body), Instant::now()))
            }
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, _) => Err(ScrapeError::Status(status)),
        }
    }

    /// Switches the node to bypass, or back. Returns the mode in force.
    pub(super) async fn switch(&self, mode: &str) -> Result<String, String> {
        let admin = self.admin.as_ref().ok_or("name the node's switch with --admin")?;
        let body = serde_json::json!({ "mode": mode }).to_string();
        match request(admin, "/mode", Method::PUT, body, LONGEST).await {
            Ok((StatusCode::OK, reply)) => json(&reply)["mode"]
                .as_str()
                .map(str::to_owned)
                .ok_or("the switch named no mode".to_owned()),
            Ok((status, _)) => Err(format!("the switch replied {status}")),
            Err(error) => Err(session_tools::chain(&*error)),
        }
    }
}

async fn get(
    address: &Address,
    path: &str,
    longest: usize,
) -> Result<(StatusCode, Bytes), Failure> {
    request(address, path, Method::GET, String::new(), longest).await
}

/// Returns a body as JSON, or `null` if it is none.
fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

async fn request(
    address: &Address,
    path: &str,
    method: Method,
    body: String,
    longest: usize,
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
        let body = Limited::new(response.into_body(), longest).collect().await?.to_bytes();
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
