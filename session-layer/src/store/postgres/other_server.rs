//! Which other server replies where Postgres is expected: Redis, HTTP or TLS.
//!
//! Postgres' client speaks first, and these servers wait for the rest of a message. Without a look,
//! the only sign of a wrong port is a time-out.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A command to Redis, with one argument too many, and a request of HTTP.
const COMMAND: &[u8] = b"PING / HTTP/1.0\r\n\r\n";
/// The beginning of TLS: a `ClientHello` of TLS 1.2 with one cipher suite and no extensions. A
/// server replies with its hello or with an alert.
const HELLO: &[u8] = &[
    0x16, 3, 1, 0, 45, // a handshake record
    1, 0, 0, 41, 3, 3, // a ClientHello
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // its random number
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
    0, 0, 2, 0xc0, 0x2f, 1, 0, // no session, the suite, no compression
];
/// Postgres' question for TLS. Only Postgres, or a proxy in front of it, replies with S or N. Some
/// of them accept a `ClientHello` too.
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
/// How long the connection, and then the reply, may take.
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);

/// A server that is not Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OtherServer {
    /// It may be a proxy whose Postgres is not there yet.
    Http,
    Redis,
    Tls,
}

impl OtherServer {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "an HTTP server",
            Self::Redis => "Redis",
            Self::Tls => "a server with TLS on all connections",
        }
    }
}

/// Returns what replies at this address. `None`: Postgres, nothing, or an unknown server.
pub(super) async fn at(host: &str, port: u16) -> Option<OtherServer> {
    let (request, command, hello) = tokio::join!(
        reply(host, port, SSL_REQUEST),
        reply(host, port, COMMAND),
        reply(host, port, HELLO)
    );
    let (command, hello) = (command?.unwrap_or_default(), hello?.unwrap_or_default());
    named(request?.as_deref(), &command, &hello)
}

/// Returns the first bytes of the reply, which are none if the connection was closed. The inner
/// `None`: there was no reply in time. The outer `None`: there was no connection.
async fn reply(host: &str, port: u16, sent: &[u8]) -> Option<Option<Vec<u8>>> {
    let connecting = timeout(REPLY_TIMEOUT, TcpStream::connect((host, port)));
    let mut stream = connecting.await.ok()?.ok()?;
    let mut read = vec![0; 16];
    let replying = async {
        stream.write_all(sent).await?;
        stream.read(&mut read).await
    };
    let Ok(length) = timeout(REPLY_TIMEOUT, replying).await else { return Some(None) };
    read.truncate(length.unwrap_or_default());
    Some(Some(read))
}

/// `request` is `None` if the reply is late. It may be that of a Postgres under load, which also
/// replies to a `ClientHello`.
fn named(request: Option<&[u8]>, command: &[u8], hello: &[u8]) -> Option<OtherServer> {
    match (request, command, hello) {
        (Some([b'S' | b'N' | b'E', ..]), ..) => None,
        (_, [b'H', b'T', b'T', b'P', b'/', ..], _) => Some(OtherServer::Http),
        (_, [b'-' | b'+', ..], _) => Some(OtherServer::Redis),
        (Some(_), _, [0x15 | 0x16, 3, ..]) => Some(OtherServer::Tls),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_name_the_server() {
        use OtherServer::{Http, Redis, Tls};
        for (command, hello, expected) in [
            (&b"-ERR wrong number of arguments"[..], &b""[..], Some(Redis)),
            (b"-NOAUTH Authentication required.", b"", Some(Redis)),
            (b"HTTP/1.1 501 Not Implemented", b"HTTP/1.1 400", Some(Http)),
            (b"HTTP/1.1 400 Bad Request", &[0x16, 3, 3], Some(Http)),
            (b"", &[0x16, 3, 3, 0, 80], Some(Tls)),
            (&[0x15, 3, 1], &[0x15, 3, 1], Some(Tls)),
            // Postgres closes both without a reply, or reports an error.
            (b"", b"", None),
            (b"E\0\0\0\x8aS", b"E\0\0\0\x8aS", None),
        ] {
            assert_eq!(named(Some(b""), command, hello), expected, "{command:?} {hello:?}");
        }
        // Postgres 17 replies to a ClientHello too, and its other reply may be late.
        for request in [Some(&b"S"[..]), Some(b"N"), Some(b"E\0\0\0\x8aS"), None] {
            assert_eq!(named(request, b"", &[0x15, 3, 3]), None, "{request:?}");
        }
        // Redis waits for the rest of a line.
        assert_eq!(named(None, b"-ERR wrong number", b""), Some(Redis));
    }

    #[test]
    fn lengths_of_the_hello_are_those_of_its_parts() {
        assert_eq!(usize::from(HELLO[4]), HELLO.len() - 5);
        assert_eq!(usize::from(HELLO[8]), HELLO.len() - 9);
    }
}
