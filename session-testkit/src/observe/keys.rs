//! The keys of a namespace.

use std::collections::BTreeMap;

use redis::{RedisResult, aio::MultiplexedConnection, cmd};

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

/// Returns all keys of the namespace with their values. The value is `None` if it has another type
/// or is gone.
pub(super) async fn entries(
    redis: &mut MultiplexedConnection,
    namespace: &str,
) -> RedisResult<BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
    let mut entries = BTreeMap::new();
    let mut cursor = 0;
    loop {
        let (next, keys) = step(redis, cursor, namespace).await?;
        // SCAN may name a key twice.
        for key in keys {
            let value = cmd("GET").arg(&key).query_async(redis).await;
            entries.insert(key, value.unwrap_or_default());
        }
        if next == 0 {
            return Ok(entries);
        }
        cursor = next;
    }
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
