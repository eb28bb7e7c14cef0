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
const PATIENCE: Duration = Duration::from_millis(500);

/// Returns what replies at this address. `None`: Postgres, nothing, or an unknown server.
pub(super) async fn at(host: &str, port: u16) -> Option<&'static str> {
    let (request, command, hello) = tokio::join!(
        reply(host, port, SSL_REQUEST),
        reply(host, port, COMMAND),
        reply(host, port, HELLO)
    );
    named(&request?, &command?, &hello?)
}

/// Returns the first bytes of the reply, or none if there is no reply. `None`: no connection.
async fn reply(host: &str, port: u16, sent: &[u8]) -> Option<Vec<u8>> {
    let connecting = timeout(PATIENCE, TcpStream::connect((host, port)));
    let mut stream = connecting.await.ok()?.ok()?;
    let mut read = vec![0; 16];
    let replying = async {
        stream.write_all(sent).await?;
        stream.read(&mut read).await
    };
    let length = timeout(PATIENCE, replying).await.ok().and_then(Result::ok).unwrap_or_default();
    read.truncate(length);
    Some(read)
}

fn named(request: &[u8], command: &[u8], hello: &[u8]) -> Option<&'static str> {
    match (command, hello) {
        _ if matches!(request, b"S" | b"N") => None,
        ([b'H', b'T', b'T', b'P', b'/', ..], _) => Some("an HTTP server"),
        ([b'-' | b'+', ..], _) => Some("Redis"),
        (_, [0x15 | 0x16, 3, ..]) => Some("a server with TLS on all connections"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_name_the_server() {
        for (command, hello, expected) in [
            (&b"-ERR wrong number of arguments"[..], &b""[..], Some("Redis")),
            (b"-NOAUTH Authentication required.", b"", Some("Redis")),
            (b"HTTP/1.1 501 Not Implemented", b"HTTP/1.1 400", Some("an HTTP server")),
            (b"HTTP/1.1 400 Bad Request", &[0x16, 3, 3], Some("an HTTP server")),
            (b"", &[0x16, 3, 3, 0, 80], Some("a server with TLS on all connections")),
            (&[0x15, 3, 1], &[0x15, 3, 1], Some("a server with TLS on all connections")),
            // Postgres closes both without a reply, or reports an error.
            (b"", b"", None),
            (b"E\0\0\0\x8aS", b"E\0\0\0\x8aS", None),
        ] {
            assert_eq!(named(b"", command, hello), expected, "{command:?} {hello:?}");
        }
        // Postgres 17 replies to a ClientHello too.
        assert_eq!(named(b"S", b"", &[0x15, 3, 3]), None);
    }

    #[test]
    fn lengths_of_the_hello_are_those_of_its_parts() {
        assert_eq!(usize::from(HELLO[4]), HELLO.len() - 5);
        assert_eq!(usize::from(HELLO[8]), HELLO.len() - 9);
    }
}
