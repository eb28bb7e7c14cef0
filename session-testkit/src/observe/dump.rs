//! What Redis writes to disk, without its disk: a replica that says SYNC is sent the very file, in a container
//! as well as here.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::ObserveError;
use crate::backends::RedisServer;

/// A background save of a test's data, on a busy machine.
const ANSWER: Duration = Duration::from_secs(20);
/// A test's data are no larger.
const MOST: u64 = 1024 * 1024 * 1024;

/// The dump, uncompressed where we may set that. The server has had a replica afterwards.
pub(super) async fn dump(redis: &RedisServer) -> Result<Vec<u8>, ObserveError> {
    // Compressed, a secret would be there and not be found.
    redis.config_set("rdbcompression", "no").await?;
    let failed = |error: std::io::Error| ObserveError::Dump(error.to_string());
    timeout(ANSWER, sync(redis.address()))
        .await
        .map_err(|_| ObserveError::Dump(format!("nothing came within {ANSWER:?}")))?
        .map_err(failed)
}

async fn sync(address: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.write_all(b"SYNC\r\n").await?;
    let mut line = String::new();
    // Empty lines are sent while it is being made.
    while line.trim().is_empty() {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let length = line.trim().strip_prefix('$');
    let length: u64 = length
        .and_then(|length| length.parse().ok())
        .filter(|length| *length <= MOST)
        .ok_or_else(|| std::io::Error::other(line.trim().to_owned()))?;
    let mut dump = Vec::new();
    stream.take(length).read_to_end(&mut dump).await?;
    if dump.len() as u64 != length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(dump)
}
