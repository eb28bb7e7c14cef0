//! A client of HTTP/1.1 for tests. Each request has its own connection, and header fields exactly
//! as the test writes them, also repeated ones.

use std::io::{self, ErrorKind};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The deadline of every response, whatever is broken behind the server.
const DEADLINE: Duration = Duration::from_secs(10);

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    fields: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// Returns the field of this name (in lower case), if there is exactly one.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        match self.fields(name).as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Returns every field of this name.
    pub(crate) fn fields(&self, name: &str) -> Vec<&str> {
        let wanted = self.fields.iter().filter(|(n, _)| n == name);
        wanted.map(|(_, value)| value.as_str()).collect()
    }

    /// Returns the body as JSON, or `null` if it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields =
            fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Some(Self { status, fields: fields.collect(), body: body.to_owned() })
    }
}

/// Sends one request and reads the whole response.
pub(crate) async fn send(
    address: &str,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> io::Result<Answer> {
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in fields {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        Answer::parse(&bytes).ok_or_else(|| io::Error::other(format!("no HTTP: {bytes:?}")))
    };
    timeout(DEADLINE, exchange).await.map_err(|_| {
        io::Error::new(ErrorKind::TimedOut, format!("{method} {path} had no response"))
    })?
}
