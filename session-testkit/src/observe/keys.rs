//! The keys of a namespace.

use redis::{RedisResult, aio::MultiplexedConnection, cmd};

/// Runs one step of a SCAN.
async fn step(
    redis: &mut MultiplexedConnection,
    cursor: u64,
    namespace: &str,
) -> RedisResult<(u64, Vec<Vec<u8>>)> {
    cmd("SCAN")
        .arg(cursor)
        .arg("MATCH")
        .arg(format!("{namespace}:*"))
        .arg("COUNT")
        .arg(500)
        .query_async(redis)
        .await
}

/// Returns all keys of the namespace.
pub(super) async fn all(
    redis: &mut MultiplexedConnection,
    namespace: &str,
) -> RedisResult<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    let mut cursor = 0;
    loop {
        let (next, some) = step(redis, cursor, namespace).await?;
        keys.extend(some);
        if next == 0 {
            break;
        }
        cursor = next;
    }
    // SCAN may name a key twice.
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

/// Returns some keys, if there are any, in an order that `draw` selects.
pub(crate) async fn some(
    redis: &mut MultiplexedConnection,
    namespace: &str,
    draw: u64,
) -> RedisResult<Vec<Vec<u8>>> {
    let mut cursor = 0;
    loop {
        let (next, mut keys) = step(redis, cursor, namespace).await?;
        if !keys.is_empty() {
            let count = keys.len();
            keys.rotate_left(usize::try_from(draw).unwrap_or_default() % count);
            return Ok(keys);
        }
        if next == 0 {
            return Ok(keys);
        }
        cursor = next;
    }
}
