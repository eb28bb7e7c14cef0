//! A copy of Redis' dump file, received over SYNC as a replica. It needs no access to the server's
//! disk, and therefore also works with containers.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::ObserveError;
use crate::backends::RedisServer;

/// The deadline of a background save of a test's data, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
/// The maximum size of a dump of a test's data.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// Returns the dump, uncompressed if the server permits it. The server has had a replica
/// afterwards.
pub(super) async fn dump(redis: &RedisServer) -> Result<Vec<u8>, ObserveError> {
    // A compressed dump would hide a secret.
    redis.config_set("rdbcompression", "no").await?;
    let failed = |error: std::io::Error| ObserveError::Dump(error.to_string());
    timeout(DEADLINE, sync(redis.address()))
        .await
        .map_err(|_| ObserveError::Dump(format!("no dump arrived within {DEADLINE:?}")))?
        .map_err(failed)
}

async fn sync(address: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.write_all(b"SYNC\r\n").await?;
    let mut line = String::new();
    // Redis sends empty lines while it prepares the dump.
    while line.trim().is_empty() {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let length = line.trim().strip_prefix('$');
    let length: u64 = length
        .and_then(|length| length.parse().ok())
        .filter(|length| *length <= MAX_BYTES)
        .ok_or_else(|| std::io::Error::other(line.trim().to_owned()))?;
    let mut dump = Vec::new();
    stream.take(length).read_to_end(&mut dump).await?;
    if dump.len() as u64 != length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(dump)
}
